// GenerateRequest to the engine's Request: reads the wire form, applies defaults, encodes the
// prompt and runs the checks shared with HTTP. Knows protobuf but not gRPC.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine_client.h"
#include "engine/request.h"
#include "sluice/v1/generation.pb.h"

namespace sluice::server {

// One call: the request of choice 0; choice i differs only in its seed.
struct GenerateCall {
  Request request;
  int32_t choices = 1;
  bool return_token_ids = false;
  std::vector<int32_t> trace_layers;  // sorted; empty: all
  bool wants_prompt_echo = false;     // GenerateResponse.prompt is sent
  std::string prompt_text;            // sent first with `echo`
  v1::Routing routing;                // what is in effect, when the client asked for something
};

struct ConversionOptions {
  bool allow_routing_trace = false;
  std::optional<absl::Duration> deadline;  // time left of the call
  uint64_t drawn_seed = 0;                 // used when the client gave none
};

// NotFound `model_not_found`, InvalidArgument with code and parameter.
absl::StatusOr<GenerateCall> ConvertGenerateRequest(const v1::GenerateRequest& message,
                                                    const EngineClient& engine,
                                                    const ConversionOptions& options);

// The seed of choice `index`.
uint64_t ChoiceSeed(uint64_t seed, int32_t index);

// Messages of a chat; InvalidArgument for an unknown role.
absl::StatusOr<std::vector<ChatMessage>> ConvertChat(const v1::Chat& chat);

}  // namespace sluice::server
