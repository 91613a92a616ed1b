#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
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

constexpr std::array<std::string_view, 5> kRoles = {"system", "user", "assistant", "tool",
                                                    "developer"};

absl::StatusOr<std::string> ReadParts(const json& parts, const std::string& param) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const json& part = parts[i];
    const json* type = FindMember(part, "type");
    const json* value = FindMember(part, "text");
    const bool is_text = type != nullptr && type->is_string() &&
                         *type->get_ptr<const json::string_t*>() == "text" && value != nullptr &&
                         value->is_string();
    if (!is_text) {
      return BadRequest("unsupported_content", absl::StrCat(param, "[", i, "]"),
                        "only text parts are supported");
    }
    text += *value->get_ptr<const json::string_t*>();
  }
  return text;
}

absl::StatusOr<ChatMessage> ReadMessage(const json& value, size_t index) {
  const std::string param = absl::StrCat("messages[", index, "]");
  if (!value.is_object()) return BadRequest("wrong_type", param, "a message must be an object");
  if (value.empty()) return BadRequest("missing_required", "messages", "a message is empty");
  ChatMessage message;
  const json* role = FindMember(value, "role");
  if (role != nullptr && role->is_string()) message.role = *role->get_ptr<const json::string_t*>();
  if (std::find(kRoles.begin(), kRoles.end(), message.role) == kRoles.end()) {
    return BadRequest("invalid_value", param + ".role",
                      "role must be system, developer, user, assistant or tool");
  }
  const json* content = FindMember(value, "content");
  if (content == nullptr) {
    // An assistant's turn may have had no text.
    if (message.role == "assistant") return message;
    return BadRequest("missing_required", param + ".content", "content is required");
  }
  if (content->is_string()) {
    message.content = *content->get_ptr<const json::string_t*>();
  } else if (content->is_array()) {
    ASSIGN_OR_RETURN(message.content, ReadParts(*content, param + ".content"));
  } else {
    return BadRequest("wrong_type", param + ".content", "content must be a string or a list");
  }
  return message;
}

absl::Status ReadToolChoice(const FieldReader& reader) {
  const json* tools = reader.Find("tools");
  if (tools != nullptr && !tools->is_array()) {
    return BadRequest("invalid_value", "tools", "tools must be a list");
  }
  const json* choice = reader.Find("tool_choice");
  if (choice == nullptr) return absl::OkStatus();
  if (choice->is_string()) {
    const std::string& name = *choice->get_ptr<const json::string_t*>();
    if (name == "none" || name == "auto") return absl::OkStatus();
  }
  return BadRequest("invalid_value", "tool_choice", "there is no such tool");
}

absl::Status ReadLogprobs(const FieldReader& reader, GenerationPlan& plan) {
  RETURN_IF_ERROR(reader.Read("logprobs", plan.want_logprobs));
  std::optional<int32_t> alternatives;
  RETURN_IF_ERROR(reader.Read("top_logprobs", alternatives));
  if (alternatives.has_value() && (*alternatives < 0 || *alternatives > kMaxLogprobs)) {
    return BadRequest("integer_out_of_range", "top_logprobs", "must be 0 to 20");
  }
  if (alternatives.value_or(0) > 0 && !plan.want_logprobs) {
    return BadRequest("invalid_value", "top_logprobs", "top_logprobs needs logprobs: true");
  }
  if (plan.want_logprobs) plan.parameters.sampling.logprobs = alternatives.value_or(0);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<ChatMessage>> ReadMessages(const json& body) {
  constexpr size_t kMaxMessages = 4096;
  const json* list = FindMember(body, "messages");
  if (list == nullptr) return BadRequest("missing_required", "messages", "messages are required");
  if (!list->is_array()) return BadRequest("wrong_type", "messages", "messages must be a list");
  if (list->empty()) return BadRequest("empty_array", "messages", "messages must not be empty");
  if (list->size() > kMaxMessages) {
    return BadRequest("too_many_entries", "messages", "there are too many messages");
  }
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < list->size(); ++i) {
    ASSIGN_OR_RETURN(ChatMessage message, ReadMessage((*list)[i], i));
    messages.push_back(std::move(message));
  }
  return messages;
}

absl::StatusOr<GenerationPlan> PlanChat(std::string_view body, const PlanContext& context) {
  ASSIGN_OR_RETURN(const json object, ParseBodyObject(body));
  const FieldReader reader(object);
  RETURN_IF_ERROR(ReadToolChoice(reader));
  RETURN_IF_ERROR(
      CheckFieldNames(object, kInChat, context.strict_fields, context.count_unknown_field));
  GenerationPlan plan;
  plan.chat = true;
  plan.prompt_field = "messages";
  RETURN_IF_ERROR(ReadSharedFields(object, context, plan));
  RETURN_IF_ERROR(ReadLogprobs(reader, plan));
  RETURN_IF_ERROR(ValidateSequenceCount(1, plan.choices, context.engine.model()));
  std::optional<int32_t> max_tokens;
  RETURN_IF_ERROR(ReadMaxTokens(object, max_tokens));
  const ValidationOptions options = {.prompt_param = "messages",
                                     .allow_routing_trace = context.allow_routing_trace};
  plan.parameters.stop.max_tokens =
      max_tokens.value_or(std::max(kDefaultMaxTokens, plan.parameters.stop.min_tokens));
  RETURN_IF_ERROR(ValidateParameters(plan.parameters, context.engine.model(), options));
  ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, ReadMessages(object));
  bool add_generation_prompt = true;
  RETURN_IF_ERROR(reader.Read("add_generation_prompt", add_generation_prompt));
  PromptPlan prompt;
  ASSIGN_OR_RETURN(prompt.tokens, EncodeChat(messages, add_generation_prompt, context.engine));
  plan.prompts.push_back(std::move(prompt));
  RETURN_IF_ERROR(FinishPlan(context, max_tokens, plan));
  return plan;
}

}  // namespace sluice::server
