#include "server/http/request_fields.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "engine/request_error.h"

namespace sluice::server {
namespace {

constexpr auto kYes = FieldUse::kHonoured;
constexpr auto kNoEffect = FieldUse::kAccepted;
constexpr auto kRefused = FieldUse::kUnsupported;
constexpr uint8_t kInAll = kInBoth | kInEmbeddings;

constexpr std::array kFields = {
    RequestField{"model", kInAll, kYes, "string", "The served model's name; may be left out."},
    RequestField{"prompt", kInCompletions, kYes, "string|array",
                 "A string, a list of strings, a list of token ids, or a list of such lists."},
    RequestField{"input", kInEmbeddings, kYes, "string|array",
                 "A string, a list of strings, a list of token ids, or a list of such lists."},
    RequestField{"encoding_format", kInEmbeddings, kYes, "string",
                 "float (a list of numbers) or base64 (of little-endian 32-bit floats)."},
    RequestField{"messages", kInChat, kYes, "array", "Role and content of each message."},
    RequestField{"max_tokens", kInBoth, kYes, "integer", "Most tokens to generate."},
    RequestField{"max_completion_tokens", kInBoth, kYes, "integer", "The same as max_tokens."},
    RequestField{"min_tokens", kInBoth, kYes, "integer", "No end or stop before this many."},
    RequestField{"n", kInBoth, kYes, "integer", "Choices per prompt, 1 to 16."},
    RequestField{"stream", kInBoth, kYes, "boolean", "Send server-sent events."},
    RequestField{"stream_options", kInBoth, kYes, "object", "include_usage: a last usage chunk."},
    RequestField{"stop", kInBoth, kYes, "string|array", "Up to 16 strings that end the text."},
    RequestField{"stop_token_ids", kInBoth, kYes, "array", "Token ids that end the text."},
    RequestField{"include_stop_str_in_output", kInBoth, kYes, "boolean", "Keep the stop string."},
    RequestField{"ignore_eos", kInBoth, kYes, "boolean", "Go on after the end token."},
    RequestField{"skip_special_tokens", kInBoth, kYes, "boolean", "Leave special tokens out."},
    RequestField{"temperature", kInBoth, kYes, "number",
                 "0 to 2; 0 is greedy. Default: as /v1/models lists in meta.sampling_defaults."},
    RequestField{"top_p", kInBoth, kYes, "number", "Nucleus mass in (0, 1]; default as there."},
    RequestField{"top_k", kInBoth, kYes, "integer",
                 "Candidates; 0 or -1 for all; default as there."},
    RequestField{"min_p", kInBoth, kYes, "number",
                 "Share of the best probability, [0, 1); default as there."},
    RequestField{"typical_p", kInBoth, kYes, "number", "Typical mass in (0, 1]."},
    RequestField{"repetition_penalty", kInBoth, kYes, "number",
                 "Above 1 repeats less; default as there."},
    RequestField{"presence_penalty", kInBoth, kYes, "number", "-2 to 2."},
    RequestField{"frequency_penalty", kInBoth, kYes, "number", "-2 to 2."},
    RequestField{"seed", kInBoth, kYes, "integer", "Makes sampling repeatable."},
    RequestField{"logit_bias", kInBoth, kYes, "object", "Token id to bias in [-100, 100]."},
    RequestField{"allowed_token_ids", kInBoth, kYes, "array", "Only these may be generated."},
    RequestField{"bad_words", kInBoth, kYes, "array", "Words that are never generated."},
    RequestField{"logprobs", kInBoth, kYes, "integer|boolean",
                 "Completions: alternatives per token, up to 20. Chat: true or false."},
    RequestField{"top_logprobs", kInChat, kYes, "integer", "Alternatives per token, up to 20."},
    RequestField{"prompt_logprobs", kInBoth, kYes, "integer", "The same for prompt tokens."},
    RequestField{"echo", kInCompletions, kYes, "boolean", "Put the prompt before the text."},
    RequestField{"return_token_ids", kInBoth, kYes, "boolean", "Add token ids to the choices."},
    RequestField{"add_special_tokens", kInCompletions | kInEmbeddings, kYes, "boolean",
                 "Start a text prompt with the tokenizer's own start token."},
    RequestField{"add_generation_prompt", kInChat, kYes, "boolean",
                 "End the prompt with the assistant's turn; true."},
    RequestField{"priority", kInAll, kYes, "integer", "Lower runs first."},
    RequestField{"timeout_ms", kInAll, kYes, "integer", "The request ends after this time."},
    RequestField{"routing", kInBoth, kYes, "object",
                 "mode, capacity, experts_per_token, expert_threshold, max_depth, exit_threshold, "
                 "trace: how "
                 "sparsely the model runs."},
    RequestField{"tool_choice", kInChat, kYes, "string|object", "none or auto."},
    RequestField{"response_format", kInBoth, kYes, "object", "Only {\"type\": \"text\"}."},
    RequestField{"user", kInAll, kNoEffect, "string", ""},
    RequestField{"metadata", kInAll, kNoEffect, "object", ""},
    RequestField{"store", kInBoth, kNoEffect, "boolean", ""},
    RequestField{"service_tier", kInBoth, kNoEffect, "string", ""},
    RequestField{"parallel_tool_calls", kInChat, kNoEffect, "boolean", ""},
    RequestField{"request_id", kInAll, kNoEffect, "string", ""},
    RequestField{"safety_identifier", kInAll, kNoEffect, "string", ""},
    RequestField{"prompt_cache_key", kInBoth, kNoEffect, "string", ""},
    RequestField{"spaces_between_special_tokens", kInBoth, kNoEffect, "boolean", ""},
    RequestField{"dimensions", kInEmbeddings, kRefused, "integer", ""},
    RequestField{"tools", kInChat, kRefused, "array", ""},
    RequestField{"functions", kInChat, kRefused, "array", ""},
    RequestField{"function_call", kInChat, kRefused, "string|object", ""},
    RequestField{"best_of", kInBoth, kRefused, "integer", ""},
    RequestField{"suffix", kInCompletions, kRefused, "string", ""},
    RequestField{"use_beam_search", kInBoth, kRefused, "boolean", ""},
    RequestField{"prompt_embeds", kInBoth, kRefused, "string|array", ""},
    RequestField{"truncate_prompt_tokens", kInAll, kRefused, "integer", ""},
    RequestField{"chat_template", kInChat, kRefused, "string", ""},
    RequestField{"chat_template_kwargs", kInChat, kRefused, "object", ""},
    RequestField{"continue_final_message", kInChat, kRefused, "boolean", ""},
    RequestField{"documents", kInChat, kRefused, "array", ""},
    RequestField{"audio", kInChat, kRefused, "object", ""},
    RequestField{"prediction", kInChat, kRefused, "object", ""},
    RequestField{"web_search_options", kInChat, kRefused, "object", ""},
    RequestField{"reasoning_effort", kInChat, kRefused, "string", ""},
    RequestField{"structured_outputs", kInBoth, kRefused, "object", ""},
    RequestField{"guided_json", kInBoth, kRefused, "string|object", ""},
    RequestField{"guided_regex", kInBoth, kRefused, "string", ""},
    RequestField{"guided_choice", kInBoth, kRefused, "array", ""},
    RequestField{"guided_grammar", kInBoth, kRefused, "string", ""},
    RequestField{"grammar", kInBoth, kRefused, "string", ""},
    RequestField{"json_schema", kInBoth, kRefused, "object", ""},
    RequestField{"logits_processors", kInBoth, kRefused, "array", ""},
};

const RequestField* FindField(std::string_view name, uint8_t api) {
  for (const RequestField& field : kFields) {
    if (field.name == name && (field.apis & api) != 0) return &field;
  }
  return nullptr;
}

// Fields without an effect have one type each; a field that is left out may be null.
bool IsOfType(const nlohmann::json& value, std::string_view type) {
  if (value.is_null()) return true;
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  return type == "object" && value.is_object();
}

// Values with which clients say that they do not use a feature.
bool IsNeutral(const nlohmann::json& value) {
  if (value.is_boolean()) return !*value.get_ptr<const nlohmann::json::boolean_t*>();
  if (value.is_string()) return value.get_ptr<const nlohmann::json::string_t*>()->empty();
  return value.is_null() || (value.is_structured() && value.empty());
}

}  // namespace

std::span<const RequestField> RequestFields() { return kFields; }

absl::Status CheckFieldNames(const nlohmann::json& body,
                             uint8_t api,
                             bool strict,
                             const std::function<void()>& count_unknown) {
  for (auto it = body.begin(); it != body.end(); ++it) {
    const RequestField* field = FindField(it.key(), api);
    if (field == nullptr) {
      // The name is the client's own text: it is not repeated in the answer.
      if (strict) return BadRequest("unknown_parameter", "", "the request has an unknown field");
      count_unknown();
    } else if (field->use == FieldUse::kUnsupported && !IsNeutral(it.value())) {
      return BadRequest("unsupported_parameter", field->name, "this field is not supported");
    } else if (field->use == FieldUse::kAccepted && !IsOfType(it.value(), field->type)) {
      return BadRequest("wrong_type", field->name,
                        absl::StrCat("this field must be of type ", std::string(field->type)));
    }
  }
  return absl::OkStatus();
}

}  // namespace sluice::server
