// A generation request after reading: what to submit, and how to shape the answer. Plain data, made
// on the text thread. Not for HTTP.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine_client.h"
#include "engine/request.h"
#include "nlohmann/json.hpp"

namespace sluice::server {

struct PromptPlan {
  std::vector<int32_t> tokens;
  std::string echo_text;  // completions with echo
};

struct GenerationPlan {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;
  bool echo = false;
  bool return_token_ids = false;
  bool want_logprobs = false;
  bool base64 = false;                // embeddings: not as a list of numbers
  bool show_prompt_logprobs = false;  // prompt_logprobs was asked for by name
  int32_t choices = 1;
  Request parameters;  // everything but the prompt
  std::vector<PromptPlan> prompts;
  const char* prompt_field = "prompt";  // what errors about a prompt name
  nlohmann::json routing;               // as applied; null when the request had none
  std::vector<int32_t> trace_layers;    // empty: all
};

// What reading needs to know of the server.
struct PlanContext {
  const EngineClient& engine;
  bool strict_fields = false;
  bool allow_routing_trace = false;
  uint64_t fresh_seed = 0;  // used when the request has none
  std::function<void()> count_unknown_field = [] {};
  std::function<absl::Status(std::string_view model)> check_model;  // the key's allow list
};

// From the bytes of a body. Every error has a code; none is Internal. Text thread.
absl::StatusOr<GenerationPlan> PlanCompletion(std::string_view body, const PlanContext& context);
absl::StatusOr<GenerationPlan> PlanChat(std::string_view body, const PlanContext& context);
// Of an encoder: `parameters.embed` is set and nothing is generated.
absl::StatusOr<GenerationPlan> PlanEmbedding(std::string_view body, const PlanContext& context);

// Chat messages to plain text messages, with codes for each part that is wrong.
absl::StatusOr<std::vector<ChatMessage>> ReadMessages(const nlohmann::json& body);

}  // namespace sluice::server
