#include <algorithm>
#include <utility>

#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/http/field_reader.h"
#include "server/http/generation_fields.h"
#include "server/http/generation_plan.h"
#include "server/http/request_fields.h"
#include "server/prompt_encoding.h"
#include "server/request_validation.h"

namespace sluice::server {
namespace {

using nlohmann::json;

struct PromptReader {
  const PlanContext& context;
  GenerationPlan& plan;
  bool add_special_tokens = true;

  absl::Status AddText(const json& value) {
    const std::string& text = *value.get_ptr<const json::string_t*>();
    if (text.empty()) return BadRequest("empty_prompt", "prompt", "the prompt is empty");
    PromptPlan prompt;
    ASSIGN_OR_RETURN(prompt.tokens,
                     EncodePrompt(text, add_special_tokens, context.engine.tokenizer()));
    if (plan.echo) prompt.echo_text = text;
    plan.prompts.push_back(std::move(prompt));
    return absl::OkStatus();
  }

  absl::Status AddTokens(const json& list) {
    PromptPlan prompt;
    prompt.tokens.reserve(list.size());
    const int32_t vocab_size = context.engine.model().vocab_size;
    for (const json& item : list) {
      ASSIGN_OR_RETURN(const int32_t token, TokenFrom(item, "prompt"));
      if (token >= vocab_size) {
        return BadRequest("token_out_of_vocab", "prompt", "a token id is out of range");
      }
      prompt.tokens.push_back(token);
    }
    if (prompt.tokens.empty()) return BadRequest("empty_prompt", "prompt", "the prompt is empty");
    if (plan.echo) {
      const bool keep_special = !plan.parameters.stop.skip_special_tokens;
      prompt.echo_text = context.engine.tokenizer().Decode(prompt.tokens, keep_special);
    }
    plan.prompts.push_back(std::move(prompt));
    return absl::OkStatus();
  }

  absl::Status AddList(const json& list) {
    const bool is_token_list = list.front().is_number();
    const auto num_prompts = is_token_list ? int64_t{1} : static_cast<int64_t>(list.size());
    RETURN_IF_ERROR(ValidateSequenceCount(num_prompts, plan.choices, context.engine.model()));
    if (is_token_list) return AddTokens(list);
    const bool is_text = list.front().is_string();
    for (const json& item : list) {
      if (item.is_string() != is_text || item.is_array() == is_text) {
        return BadRequest("wrong_type", "prompt", "a list of prompts must be all of one kind");
      }
      RETURN_IF_ERROR(is_text ? AddText(item) : AddTokens(item));
    }
    return absl::OkStatus();
  }
};

absl::Status ReadPrompt(const json& body, const PlanContext& context, GenerationPlan& plan) {
  const FieldReader reader(body);
  PromptReader prompts{context, plan};
  RETURN_IF_ERROR(reader.Read("add_special_tokens", prompts.add_special_tokens));
  const json* prompt = reader.Find("prompt");
  if (prompt == nullptr || (prompt->is_array() && prompt->empty())) {
    return BadRequest("empty_prompt", "prompt", "the prompt is empty");
  }
  if (prompt->is_array()) return prompts.AddList(*prompt);
  if (!prompt->is_string()) return reader.WrongType("prompt", "a string or a list");
  RETURN_IF_ERROR(ValidateSequenceCount(1, plan.choices, context.engine.model()));
  return prompts.AddText(*prompt);
}

absl::Status ReadLogprobs(const FieldReader& reader, GenerationPlan& plan) {
  SamplingParams& sampling = plan.parameters.sampling;
  RETURN_IF_ERROR(reader.Read("logprobs", sampling.logprobs));
  plan.want_logprobs = sampling.logprobs.has_value();
  if (plan.echo && plan.want_logprobs && !plan.show_prompt_logprobs) {
    sampling.prompt_logprobs = sampling.logprobs;
  }
  if (plan.echo && plan.want_logprobs && plan.show_prompt_logprobs) {
    sampling.prompt_logprobs = std::max(*sampling.prompt_logprobs, *sampling.logprobs);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationPlan> PlanCompletion(std::string_view body, const PlanContext& context) {
  ASSIGN_OR_RETURN(const json object, ParseBodyObject(body));
  RETURN_IF_ERROR(
      CheckFieldNames(object, kInCompletions, context.strict_fields, context.count_unknown_field));
  GenerationPlan plan;
  RETURN_IF_ERROR(ReadSharedFields(object, context, plan));
  const FieldReader reader(object);
  RETURN_IF_ERROR(reader.Read("echo", plan.echo));
  RETURN_IF_ERROR(ReadLogprobs(reader, plan));
  std::optional<int32_t> max_tokens;
  RETURN_IF_ERROR(ReadMaxTokens(object, max_tokens));
  // Cheap refusals come before tokenizing.
  const ValidationOptions options = {.echo = plan.echo,
                                     .allow_routing_trace = context.allow_routing_trace};
  plan.parameters.stop.max_tokens =
      max_tokens.value_or(std::max(kDefaultMaxTokens, plan.parameters.stop.min_tokens));
  RETURN_IF_ERROR(ValidateParameters(plan.parameters, context.engine.model(), options));
  RETURN_IF_ERROR(ReadPrompt(object, context, plan));
  RETURN_IF_ERROR(FinishPlan(context, max_tokens, plan));
  return plan;
}

}  // namespace sluice::server
