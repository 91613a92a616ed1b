// Range and meaning checks of a request that both APIs share (reliability.md section 5): sampling
// fields, token ids, context length, the routing object against the model. Not for types or syntax:
// the HTTP and gRPC front ends read their own wire formats. Every error carries a code and a
// parameter.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine_client.h"
#include "engine/request.h"

namespace sluice::server {

inline constexpr int kMaxPrompts = 32;
inline constexpr int kMaxChoices = 16;
inline constexpr int kMaxSequences = 64;
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopBytes = 256;
inline constexpr int kMaxStopTokenIds = 64;
inline constexpr int kMaxLogitBias = 1024;
inline constexpr int kMaxLogprobs = 20;
inline constexpr int kMaxBadWords = 64;
inline constexpr int64_t kMaxTimeoutMs = 24LL * 60 * 60 * 1000;
inline constexpr int32_t kDefaultMaxTokens = 16;  // completions without max_tokens

struct ValidationOptions {
  std::string_view prompt_param = "prompt";  // "messages" for chat
  bool echo = false;                         // makes max_tokens 0 legal
  bool allow_routing_trace = false;
};

// Checks one request with its prompt in place. InvalidArgument with code and parameter.
absl::Status ValidateRequest(const Request& request,
                             const ModelCard& model,
                             const ValidationOptions& options = {});

// The same without prompt and context length, so that it can run before anything is tokenized.
absl::Status ValidateParameters(const Request& request,
                                const ModelCard& model,
                                const ValidationOptions& options = {});

// InvalidArgument: `integer_out_of_range` for n, `too_many_sequences` for prompts or n x prompts.
absl::Status ValidateSequenceCount(int64_t num_prompts, int64_t choices, const ModelCard& model);

// NotFound `model_not_found` unless `name` is empty or the served model.
absl::Status ValidateModelName(std::string_view name, const ModelCard& model);

// "threshold" | "predictor" | "topk_prompt" | "prompt_mean" | "no_drop" | "capacity" | "isolated" |
// "cohort", as far as the model offers it.
absl::StatusOr<RoutingParams::Mode> ParseRoutingMode(std::string_view name, const ModelCard& model);

// `requested`, or without it what is left of the context, at most `fallback` when that is given. At
// least 1, so that an over-long prompt is refused by ValidateRequest.
int32_t ResolveMaxTokens(std::optional<int32_t> requested,
                         std::optional<int32_t> fallback,
                         size_t prompt_tokens,
                         const ModelCard& model);

}  // namespace sluice::server
