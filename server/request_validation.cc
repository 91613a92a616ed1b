#include "server/request_validation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

absl::Status IntegerOutOfRange(std::string_view param, int64_t lo, int64_t hi) {
  return BadRequest("integer_out_of_range", param,
                    absl::StrCat("this field must be between ", lo, " and ", hi));
}

absl::Status CheckInteger(std::string_view param, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return absl::OkStatus();
  return IntegerOutOfRange(param, lo, hi);
}

// NaN fails every comparison, so it is refused too.
absl::Status CheckNumber(std::string_view param,
                         float value,
                         bool in_range,
                         std::string_view range) {
  if (std::isfinite(value) && in_range) return absl::OkStatus();
  return BadRequest("number_out_of_range", param,
                    absl::StrCat("this field must be a number in ", std::string(range)));
}

absl::Status CheckTokens(std::string_view param,
                         const std::vector<int32_t>& tokens,
                         const ModelCard& model) {
  for (const int32_t token : tokens) {
    if (token < 0 || token >= model.vocab_size) {
      return BadRequest("token_out_of_vocab", param,
                        absl::StrCat("token ids must be between 0 and ", model.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCount(std::string_view param, size_t count, size_t limit) {
  if (count <= limit) return absl::OkStatus();
  return BadRequest("too_many_entries", param,
                    absl::StrCat("this field takes at most ", limit, " entries"));
}

absl::Status ValidateNumbers(const SamplingParams& sampling) {
  struct Rule {
    std::string_view param;
    float value;
    bool in_range;
    std::string_view range;
  };
  const SamplingParams& s = sampling;
  const std::array<Rule, 7> rules = {{
      {"temperature", s.temperature, s.temperature >= 0 && s.temperature <= 2, "[0, 2]"},
      {"top_p", s.top_p, s.top_p > 0 && s.top_p <= 1, "(0, 1]"},
      {"min_p", s.min_p, s.min_p >= 0 && s.min_p < 1, "[0, 1)"},
      {"typical_p", s.typical_p, s.typical_p > 0 && s.typical_p <= 1, "(0, 1]"},
      {"repetition_penalty", s.repetition_penalty,
       s.repetition_penalty > 0 && s.repetition_penalty <= 10, "(0, 10]"},
      {"presence_penalty", s.presence_penalty, s.presence_penalty >= -2 && s.presence_penalty <= 2,
       "[-2, 2]"},
      {"frequency_penalty", s.frequency_penalty,
       s.frequency_penalty >= -2 && s.frequency_penalty <= 2, "[-2, 2]"},
  }};
  for (const Rule& rule : rules) {
    RETURN_IF_ERROR(CheckNumber(rule.param, rule.value, rule.in_range, rule.range));
  }
  return absl::OkStatus();
}

absl::Status ValidateTokenLists(const SamplingParams& sampling, const ModelCard& model) {
  RETURN_IF_ERROR(CheckCount("logit_bias", sampling.logit_bias.size(), kMaxLogitBias));
  for (const auto& [token, bias] : sampling.logit_bias) {
    RETURN_IF_ERROR(CheckTokens("logit_bias", {token}, model));
    RETURN_IF_ERROR(CheckNumber("logit_bias", bias, bias >= -100 && bias <= 100, "[-100, 100]"));
  }
  RETURN_IF_ERROR(CheckCount("allowed_token_ids", sampling.allowed_token_ids.size(),
                             static_cast<size_t>(std::max(model.vocab_size, 0))));
  RETURN_IF_ERROR(CheckTokens("allowed_token_ids", sampling.allowed_token_ids, model));
  // Two sequences a word: with and without a space before it.
  RETURN_IF_ERROR(CheckCount("bad_words", sampling.bad_words.size(), 2 * kMaxBadWords));
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    if (word.empty()) return BadRequest("invalid_value", "bad_words", "a bad word is empty");
    RETURN_IF_ERROR(CheckTokens("bad_words", word, model));
  }
  return absl::OkStatus();
}

absl::Status ValidateStop(const StopParams& stop,
                          const ModelCard& model,
                          const ValidationOptions& options) {
  RETURN_IF_ERROR(CheckInteger("max_tokens", stop.max_tokens, options.echo ? 0 : 1,
                               std::numeric_limits<int32_t>::max()));
  RETURN_IF_ERROR(CheckInteger("min_tokens", stop.min_tokens, 0, stop.max_tokens));
  RETURN_IF_ERROR(CheckCount("stop", stop.stop.size(), kMaxStopStrings));
  for (const std::string& text : stop.stop) {
    if (text.empty() || text.size() > kMaxStopBytes) {
      return BadRequest("invalid_value", "stop",
                        absl::StrCat("a stop string must have 1 to ", kMaxStopBytes, " bytes"));
    }
  }
  RETURN_IF_ERROR(CheckCount("stop_token_ids", stop.stop_token_ids.size(), kMaxStopTokenIds));
  return CheckTokens("stop_token_ids", stop.stop_token_ids, model);
}

absl::Status Unsupported(std::string_view param, std::string_view message) {
  return BadRequest("unsupported_parameter", param, message);
}

absl::Status ValidateRouting(const RoutingParams& routing,
                             const ModelCard& model,
                             const ValidationOptions& options) {
  if (routing.mode != RoutingParams::Mode::kModelDefault) {
    RETURN_IF_ERROR(ParseRoutingMode(RoutingModeName(routing.mode), model).status());
  }
  if (routing.capacity.has_value()) {
    const double capacity = *routing.capacity;
    if (!std::isfinite(capacity) || capacity < 0 || capacity > 1) {
      return BadRequest("number_out_of_range", "routing.capacity",
                        "this field must be a number in [0, 1]");
    }
    if (model.routed_layers.empty()) {
      return Unsupported("routing.capacity", "this model has no routed layers");
    }
    const bool exact = capacity == 0 || capacity == 1;
    if (!exact && !model.has_capacity_table) {
      return Unsupported("routing.capacity", "this model has no calibrated capacity table");
    }
  }
  if (routing.experts_per_token.has_value()) {
    if (!model.has_experts) {
      return Unsupported("routing.experts_per_token", "this model has no experts");
    }
    if (model.experts_per_token == 0) {
      return Unsupported("routing.experts_per_token",
                         "this model's experts choose their tokens; a token has no number of them");
    }
    RETURN_IF_ERROR(CheckInteger("routing.experts_per_token", *routing.experts_per_token, 1,
                                 model.experts_per_token));
  }
  if (routing.expert_threshold.has_value()) {
    if (!model.has_experts) {
      return Unsupported("routing.expert_threshold", "this model has no experts");
    }
    const double threshold = *routing.expert_threshold;
    if (!std::isfinite(threshold) || threshold < 0 || threshold > 1) {
      return BadRequest("number_out_of_range", "routing.expert_threshold",
                        "this field must be a number in [0, 1]");
    }
  }
  if (routing.max_depth.has_value()) {
    if (model.max_depth == 0) {
      return Unsupported("routing.max_depth",
                         "this model does not repeat its layers as often as a request asks");
    }
    RETURN_IF_ERROR(CheckInteger("routing.max_depth", *routing.max_depth, 1, model.max_depth));
  }
  if (routing.exit_threshold.has_value()) {
    if (!model.has_exit_threshold) {
      return Unsupported("routing.exit_threshold", "this model's rows do not stop by a threshold");
    }
    const double threshold = *routing.exit_threshold;
    if (!std::isfinite(threshold) || threshold < 0 || threshold > 1) {
      return BadRequest("number_out_of_range", "routing.exit_threshold",
                        "this field must be a number in [0, 1]");
    }
  }
  if (routing.trace && !options.allow_routing_trace) {
    return Unsupported("routing.trace", "routing traces are switched off on this server");
  }
  return absl::OkStatus();
}

absl::Status ValidatePrompt(const Request& request,
                            const ModelCard& model,
                            const ValidationOptions& options) {
  if (request.prompt.empty()) {
    return BadRequest("empty_prompt", options.prompt_param, "the prompt is empty");
  }
  RETURN_IF_ERROR(CheckTokens(options.prompt_param, request.prompt, model));
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const std::string message =
      absl::StrCat("this model's maximum context length is ", model.max_context_tokens, " tokens");
  if (prompt_tokens > model.max_context_tokens) {
    return BadRequest("context_length_exceeded", options.prompt_param, message);
  }
  if (prompt_tokens + request.stop.max_tokens > model.max_context_tokens) {
    return BadRequest("context_length_exceeded", "max_tokens", message);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateParameters(const Request& request,
                                const ModelCard& model,
                                const ValidationOptions& options) {
  const SamplingParams& sampling = request.sampling;
  RETURN_IF_ERROR(CheckModelGives(request.embed, model.embedding_size > 0));
  RETURN_IF_ERROR(ValidateNumbers(sampling));
  RETURN_IF_ERROR(CheckInteger("top_k", sampling.top_k, -1, std::numeric_limits<int32_t>::max()));
  RETURN_IF_ERROR(CheckInteger("logprobs", sampling.logprobs.value_or(0), 0, kMaxLogprobs));
  RETURN_IF_ERROR(
      CheckInteger("prompt_logprobs", sampling.prompt_logprobs.value_or(0), 0, kMaxLogprobs));
  RETURN_IF_ERROR(ValidateTokenLists(sampling, model));
  if (!request.embed) RETURN_IF_ERROR(ValidateStop(request.stop, model, options));
  if (request.timeout.has_value()) {
    RETURN_IF_ERROR(
        CheckInteger("timeout_ms", absl::ToInt64Milliseconds(*request.timeout), 1, kMaxTimeoutMs));
  }
  return ValidateRouting(request.routing, model, options);
}

absl::Status ValidateRequest(const Request& request,
                             const ModelCard& model,
                             const ValidationOptions& options) {
  RETURN_IF_ERROR(ValidateParameters(request, model, options));
  return ValidatePrompt(request, model, options);
}

absl::Status ValidateSequenceCount(int64_t num_prompts, int64_t choices, const ModelCard& model) {
  RETURN_IF_ERROR(CheckInteger("n", choices, 1, kMaxChoices));
  // More than the queue holds would be answered 429 for ever.
  const int64_t most = std::min<int64_t>(kMaxSequences, model.max_queued_requests);
  if (num_prompts <= kMaxPrompts && num_prompts * choices <= most) return absl::OkStatus();
  return BadRequest(
      "too_many_sequences", num_prompts > 1 ? "prompt" : "n",
      absl::StrCat("at most ", kMaxPrompts, " prompts and ", most, " sequences per request"));
}

absl::Status ValidateModelName(std::string_view name, const ModelCard& model) {
  if (name.empty() || name == model.id) return absl::OkStatus();
  return RequestError(absl::StatusCode::kNotFound, "model_not_found", "model",
                      "this model is not served here");
}

absl::StatusOr<RoutingParams::Mode> ParseRoutingMode(std::string_view name,
                                                     const ModelCard& model) {
  using Mode = RoutingParams::Mode;
  for (const Mode mode : {Mode::kThreshold, Mode::kPredictor, Mode::kTopKPrompt, Mode::kPromptMean,
                          Mode::kNoDrop, Mode::kCapacity, Mode::kIsolated, Mode::kCohort}) {
    if (RoutingModeName(mode) != name) continue;
    const std::vector<std::string>& offered = model.routing_modes;
    if (std::find(offered.begin(), offered.end(), name) != offered.end()) return mode;
    break;
  }
  return Unsupported("routing.mode", "this model does not offer this routing mode");
}

int32_t ResolveMaxTokens(std::optional<int32_t> requested,
                         std::optional<int32_t> fallback,
                         size_t prompt_tokens,
                         const ModelCard& model) {
  if (requested.has_value()) return *requested;
  if (model.scores_only) return 1;
  const int64_t left = std::min(model.max_context_tokens, model.kv_capacity_tokens) -
                       static_cast<int64_t>(prompt_tokens);
  const int64_t wanted = fallback.has_value() ? std::min<int64_t>(*fallback, left) : left;
  return static_cast<int32_t>(std::max<int64_t>(wanted, 1));
}

}  // namespace sluice::server
