#include "server/http/prompt_fields.h"

#include <string>
#include <utility>

#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/http/field_reader.h"
#include "server/prompt_encoding.h"
#include "server/request_validation.h"

namespace sluice::server {
namespace {

using nlohmann::json;

struct PromptReader {
  const char* key;
  const PlanContext& context;
  GenerationPlan& plan;
  bool add_special_tokens = true;

  // The errors of shared checks call the field `prompt`.
  absl::Status Named(const absl::Status& status) const {
    if (status.ok() || ErrorParamOf(status) != "prompt") return status;
    return BadRequest(ErrorCodeOf(status), key, std::string(status.message()));
  }

  absl::Status AddText(const json& value) {
    const std::string& text = *value.get_ptr<const json::string_t*>();
    if (text.empty()) return BadRequest("empty_prompt", key, "the prompt is empty");
    PromptPlan prompt;
    auto tokens = EncodePrompt(text, add_special_tokens, context.engine.tokenizer());
    if (!tokens.ok()) return Named(tokens.status());
    prompt.tokens = *std::move(tokens);
    if (plan.echo) prompt.echo_text = text;
    plan.prompts.push_back(std::move(prompt));
    return absl::OkStatus();
  }

  absl::Status AddTokens(const json& list) {
    PromptPlan prompt;
    prompt.tokens.reserve(list.size());
    const int32_t vocab_size = context.engine.model().vocab_size;
    for (const json& item : list) {
      ASSIGN_OR_RETURN(const int32_t token, TokenFrom(item, key));
      if (token >= vocab_size) {
        return BadRequest("token_out_of_vocab", key, "a token id is out of range");
      }
      prompt.tokens.push_back(token);
    }
    if (prompt.tokens.empty()) return BadRequest("empty_prompt", key, "the prompt is empty");
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
    RETURN_IF_ERROR(
        Named(ValidateSequenceCount(num_prompts, plan.choices, context.engine.model())));
    if (is_token_list) return AddTokens(list);
    const bool is_text = list.front().is_string();
    for (const json& item : list) {
      if (item.is_string() != is_text || item.is_array() == is_text) {
        return BadRequest("wrong_type", key, "a list of prompts must be all of one kind");
      }
      RETURN_IF_ERROR(is_text ? AddText(item) : AddTokens(item));
    }
    return absl::OkStatus();
  }
};

}  // namespace

absl::Status ReadPrompts(const json& body,
                         const char* key,
                         const PlanContext& context,
                         GenerationPlan& plan) {
  const FieldReader reader(body);
  PromptReader prompts{key, context, plan};
  RETURN_IF_ERROR(reader.Read("add_special_tokens", prompts.add_special_tokens));
  const json* prompt = reader.Find(key);
  if (prompt == nullptr || (prompt->is_array() && prompt->empty())) {
    return BadRequest("empty_prompt", key, "the prompt is empty");
  }
  if (prompt->is_array()) return prompts.AddList(*prompt);
  if (!prompt->is_string()) return reader.WrongType(key, "a string or a list");
  RETURN_IF_ERROR(ValidateSequenceCount(1, plan.choices, context.engine.model()));
  return prompts.AddText(*prompt);
}

}  // namespace sluice::server
