#include "server/http/generation_fields.h"

#include <algorithm>
#include <string>

#include "absl/strings/numbers.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/http/field_reader.h"
#include "server/prompt_encoding.h"
#include "server/request_validation.h"

namespace sluice::server {
namespace {

using nlohmann::json;

absl::Status ReadLogitBias(const FieldReader& reader, SamplingParams& sampling) {
  ASSIGN_OR_RETURN(const json* bias, reader.Object("logit_bias"));
  if (bias == nullptr) return absl::OkStatus();
  if (bias->size() > kMaxLogitBias) {
    return BadRequest("too_many_entries", "logit_bias", "this object has too many entries");
  }
  const FieldReader entries(*bias);
  for (auto it = bias->begin(); it != bias->end(); ++it) {
    int32_t token = 0;
    if (!absl::SimpleAtoi(it.key(), &token)) {
      return BadRequest("invalid_value", "logit_bias", "the keys must be token ids");
    }
    if (it->is_null()) return reader.WrongType("logit_bias", "an object of numbers");
    float value = 0.0f;
    const absl::Status status = entries.Read(it.key().c_str(), value);
    if (!status.ok()) {
      return BadRequest(ErrorCodeOf(status), "logit_bias", "a bias must be in [-100, 100]");
    }
    sampling.logit_bias.emplace_back(token, value);
  }
  return absl::OkStatus();
}

absl::Status ReadSampling(const FieldReader& reader,
                          const PlanContext& context,
                          SamplingParams& sampling) {
  sampling = context.engine.model().sampling_defaults.Params();
  RETURN_IF_ERROR(reader.Read("temperature", sampling.temperature));
  RETURN_IF_ERROR(reader.Read("top_p", sampling.top_p));
  RETURN_IF_ERROR(reader.Read("top_k", sampling.top_k));
  RETURN_IF_ERROR(reader.Read("min_p", sampling.min_p));
  RETURN_IF_ERROR(reader.Read("typical_p", sampling.typical_p));
  RETURN_IF_ERROR(reader.Read("repetition_penalty", sampling.repetition_penalty));
  RETURN_IF_ERROR(reader.Read("presence_penalty", sampling.presence_penalty));
  RETURN_IF_ERROR(reader.Read("frequency_penalty", sampling.frequency_penalty));
  auto seed = static_cast<int64_t>(context.fresh_seed);
  RETURN_IF_ERROR(reader.Read("seed", seed));
  sampling.seed = static_cast<uint64_t>(seed);
  RETURN_IF_ERROR(ReadLogitBias(reader, sampling));
  RETURN_IF_ERROR(reader.ReadTokens("allowed_token_ids",
                                    static_cast<size_t>(context.engine.model().vocab_size),
                                    sampling.allowed_token_ids));
  const json* allowed = reader.Find("allowed_token_ids");
  if (allowed != nullptr && allowed->empty()) {
    return BadRequest("empty_array", "allowed_token_ids", "no token would be allowed");
  }
  std::vector<std::string> bad_words;
  RETURN_IF_ERROR(reader.ReadStrings("bad_words", kMaxBadWords, false, bad_words));
  for (const std::string& word : bad_words) {
    if (word.empty() || word.size() > kMaxStopBytes) {
      return BadRequest("invalid_value", "bad_words", "a bad word must have 1 to 256 bytes");
    }
  }
  ASSIGN_OR_RETURN(sampling.bad_words, EncodeBadWords(bad_words, context.engine.tokenizer()));
  return reader.Read("prompt_logprobs", sampling.prompt_logprobs);
}

absl::Status ReadStop(const FieldReader& reader, StopParams& stop) {
  RETURN_IF_ERROR(reader.Read("min_tokens", stop.min_tokens));
  RETURN_IF_ERROR(reader.ReadStrings("stop", kMaxStopStrings, true, stop.stop));
  RETURN_IF_ERROR(reader.ReadTokens("stop_token_ids", kMaxStopTokenIds, stop.stop_token_ids));
  RETURN_IF_ERROR(reader.Read("include_stop_str_in_output", stop.include_stop));
  RETURN_IF_ERROR(reader.Read("ignore_eos", stop.ignore_eos));
  return reader.Read("skip_special_tokens", stop.skip_special_tokens);
}

absl::Status ReadTrace(const FieldReader& routing, GenerationPlan& plan) {
  const json* trace = routing.Find("trace");
  if (trace == nullptr || trace->is_boolean()) {
    return routing.Read("trace", plan.parameters.routing.trace);
  }
  if (!trace->is_object()) return routing.WrongType("trace", "true, false or an object");
  const FieldReader options(*trace, "routing.trace.");
  bool scores = false;
  RETURN_IF_ERROR(options.Read("scores", scores));
  if (scores) {
    return BadRequest("unsupported_parameter", "routing.trace.scores",
                      "router scores are not recorded");
  }
  constexpr size_t kMaxTraceLayers = 4096;
  RETURN_IF_ERROR(options.ReadTokens("layers", kMaxTraceLayers, plan.trace_layers));
  std::sort(plan.trace_layers.begin(), plan.trace_layers.end());
  plan.parameters.routing.trace = true;
  return absl::OkStatus();
}

absl::Status CheckRoutingNames(const json& routing) {
  for (auto it = routing.begin(); it != routing.end(); ++it) {
    const std::string& key = it.key();
    if (it->is_null()) continue;
    for (const char* later : {"capacity_min"}) {
      if (key != later) continue;
      return BadRequest("unsupported_parameter", std::string("routing.") + later,
                        "this model does not honour this field");
    }
    if (key != "mode" && key != "capacity" && key != "experts_per_token" &&
        key != "expert_threshold" && key != "max_depth" && key != "exit_threshold" &&
        key != "trace") {
      return BadRequest("unknown_parameter", "routing", "the routing object has an unknown field");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadRouting(const FieldReader& reader,
                         const PlanContext& context,
                         GenerationPlan& plan) {
  ASSIGN_OR_RETURN(const json* object, reader.Object("routing"));
  if (object == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(CheckRoutingNames(*object));
  const FieldReader routing(*object, "routing.");
  RoutingParams& params = plan.parameters.routing;
  std::string mode;
  RETURN_IF_ERROR(routing.Read("mode", mode));
  if (!mode.empty()) {
    ASSIGN_OR_RETURN(params.mode, ParseRoutingMode(mode, context.engine.model()));
  }
  RETURN_IF_ERROR(routing.Read("capacity", params.capacity));
  RETURN_IF_ERROR(routing.Read("experts_per_token", params.experts_per_token));
  RETURN_IF_ERROR(routing.Read("expert_threshold", params.expert_threshold));
  RETURN_IF_ERROR(routing.Read("max_depth", params.max_depth));
  RETURN_IF_ERROR(routing.Read("exit_threshold", params.exit_threshold));
  RETURN_IF_ERROR(ReadTrace(routing, plan));
  const std::vector<std::string>& offered = context.engine.model().routing_modes;
  plan.routing = json::object();
  if (mode.empty() && !offered.empty()) mode = offered.front();
  if (!mode.empty()) plan.routing["mode"] = mode;
  if (params.capacity.has_value()) plan.routing["capacity"] = *params.capacity;
  if (params.experts_per_token.has_value()) {
    plan.routing["experts_per_token"] = *params.experts_per_token;
  }
  if (params.expert_threshold.has_value()) {
    plan.routing["expert_threshold"] = *params.expert_threshold;
  }
  if (params.max_depth.has_value()) plan.routing["max_depth"] = *params.max_depth;
  if (params.exit_threshold.has_value()) plan.routing["exit_threshold"] = *params.exit_threshold;
  return absl::OkStatus();
}

absl::Status ReadResponseFormat(const FieldReader& reader) {
  ASSIGN_OR_RETURN(const json* format, reader.Object("response_format"));
  if (format == nullptr) return absl::OkStatus();
  const FieldReader fields(*format, "response_format.");
  std::string type;
  RETURN_IF_ERROR(fields.Read("type", type));
  if (type == "text") return absl::OkStatus();
  if (type == "json_schema" && fields.Find("json_schema") == nullptr) {
    return BadRequest("missing_required", "response_format.json_schema", "a schema is required");
  }
  return BadRequest("unsupported_parameter", "response_format", "only type text is supported");
}

}  // namespace

absl::Status ReadModelName(const FieldReader& reader, const ModelCard& card) {
  std::string name;
  RETURN_IF_ERROR(reader.Read("model", name));
  if (name.empty() && reader.Find("model") != nullptr)
    return BadRequest("invalid_value", "model", "the name is empty; it may be left out");
  return ValidateModelName(name, card);
}

absl::Status ReadAdmission(const FieldReader& reader,
                           const PlanContext& context,
                           Request& request) {
  const ModelCard& card = context.engine.model();
  RETURN_IF_ERROR(ReadModelName(reader, card));
  if (context.check_model) RETURN_IF_ERROR(context.check_model(card.id));
  RETURN_IF_ERROR(CheckModelGives(request.embed, card.embedding_size > 0));
  RETURN_IF_ERROR(reader.Read("priority", request.priority));
  std::optional<int64_t> timeout_ms;
  RETURN_IF_ERROR(reader.Read("timeout_ms", timeout_ms));
  if (!timeout_ms.has_value()) return absl::OkStatus();
  if (*timeout_ms < 1 || *timeout_ms > kMaxTimeoutMs) {
    return BadRequest("integer_out_of_range", "timeout_ms", "must be 1 to 86400000");
  }
  request.timeout = absl::Milliseconds(*timeout_ms);
  return absl::OkStatus();
}

absl::Status ReadSharedFields(const json& body, const PlanContext& context, GenerationPlan& plan) {
  const FieldReader reader(body);
  Request& request = plan.parameters;
  RETURN_IF_ERROR(ReadAdmission(reader, context, request));
  RETURN_IF_ERROR(ReadSampling(reader, context, request.sampling));
  plan.show_prompt_logprobs = request.sampling.prompt_logprobs.has_value();
  RETURN_IF_ERROR(ReadStop(reader, request.stop));
  RETURN_IF_ERROR(ReadRouting(reader, context, plan));
  RETURN_IF_ERROR(ReadResponseFormat(reader));
  RETURN_IF_ERROR(reader.Read("n", plan.choices));
  RETURN_IF_ERROR(reader.Read("stream", plan.stream));
  RETURN_IF_ERROR(reader.Read("return_token_ids", plan.return_token_ids));
  ASSIGN_OR_RETURN(const json* options, reader.Object("stream_options"));
  if (options != nullptr) {
    const FieldReader stream_options(*options, "stream_options.");
    RETURN_IF_ERROR(stream_options.Read("include_usage", plan.include_usage));
  }
  if (plan.stream && plan.show_prompt_logprobs) {
    return BadRequest("unsupported_parameter", "prompt_logprobs",
                      "prompt_logprobs cannot be streamed");
  }
  return absl::OkStatus();
}

absl::Status ReadMaxTokens(const json& body, std::optional<int32_t>& out) {
  const FieldReader reader(body);
  RETURN_IF_ERROR(reader.Read("max_tokens", out));
  return reader.Read("max_completion_tokens", out);
}

absl::Status FinishPlan(const PlanContext& context,
                        std::optional<int32_t> max_tokens,
                        GenerationPlan& plan) {
  const ModelCard& model = context.engine.model();
  const ValidationOptions options = {.prompt_param = plan.chat ? "messages" : "prompt",
                                     .echo = plan.echo,
                                     .allow_routing_trace = context.allow_routing_trace};
  StopParams& stop = plan.parameters.stop;
  size_t longest = 0;
  for (const PromptPlan& prompt : plan.prompts) longest = std::max(longest, prompt.tokens.size());
  const std::optional<int32_t> fallback =
      plan.chat ? std::nullopt : std::optional<int32_t>(kDefaultMaxTokens);
  stop.max_tokens = ResolveMaxTokens(max_tokens, fallback, longest, model);
  if (!max_tokens.has_value() && stop.min_tokens > stop.max_tokens) {
    stop.max_tokens = stop.min_tokens;
  }
  for (PromptPlan& prompt : plan.prompts) {
    plan.parameters.prompt.swap(prompt.tokens);
    const absl::Status status = ValidateRequest(plan.parameters, model, options);
    plan.parameters.prompt.swap(prompt.tokens);
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace sluice::server
