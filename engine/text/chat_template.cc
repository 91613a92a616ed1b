#include "engine/text/chat_template.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/file_bytes.h"
#include "engine/text/jinja/jinja_interpreter.h"
#include "engine/text/jinja/jinja_parser.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kMaxSourceBytes = 256 * 1024;
constexpr int64_t kMaxConfigBytes = int64_t{4} << 20;
constexpr size_t kOutputFloor = 64 * 1024;
constexpr size_t kOutputFactor = 4;
// Text made on the way to the output: copies, pieces, joined strings.
constexpr size_t kWorkFloor = size_t{16} << 20;
constexpr size_t kWorkFactor = 64;
constexpr size_t kWorkCeiling = size_t{256} << 20;

bool IsKnownRole(const std::string& role) {
  for (const char* known : {"system", "user", "assistant", "tool", "developer"}) {
    if (role == known) return true;
  }
  return false;
}

std::vector<PromptSegment> ToSegments(const TemplateText& text) {
  std::vector<PromptSegment> segments;
  size_t done = 0;
  const auto add = [&](size_t end, bool from_message) {
    if (end > done) segments.push_back({text.text().substr(done, end - done), from_message});
    done = end;
  };
  for (const TemplateText::Span& span : text.message_spans()) {
    add(span.begin, false);
    add(span.end, true);
  }
  add(text.size(), false);
  return segments;
}

// For models without a template.
class PlainChatTemplate : public ChatTemplate {
 public:
  absl::StatusOr<std::vector<PromptSegment>> Render(const std::vector<ChatMessage>& messages,
                                                    bool add_generation_prompt) const override {
    TemplateText text;
    for (const ChatMessage& message : messages) {
      text.Append(TemplateText(message.role, !IsKnownRole(message.role)));
      text.Append(": ");
      text.Append(TemplateText(message.content, /*from_message=*/true));
      text.Append("\n");
    }
    if (add_generation_prompt) text.Append("assistant:");
    return ToSegments(text);
  }
  std::string_view kind() const override { return "built-in"; }
};

class JinjaChatTemplate : public ChatTemplate {
 public:
  JinjaChatTemplate(JinjaBody body, size_t source_bytes, ChatTemplateContext context)
      : body_(std::move(body)), source_bytes_(source_bytes), context_(std::move(context)) {}

  absl::StatusOr<std::vector<PromptSegment>> Render(const std::vector<ChatMessage>& messages,
                                                    bool add_generation_prompt) const override {
    size_t input_bytes = source_bytes_;
    for (const ChatMessage& message : messages) {
      input_bytes += message.role.size() + message.content.size();
      if (!IsValidUtf8(message.role) || !IsValidUtf8(message.content)) {
        return absl::InvalidArgumentError("chat template: a message is not valid UTF-8");
      }
    }
    JinjaInterpreter::Settings settings;
    settings.limits.steps += static_cast<int64_t>(input_bytes);
    settings.limits.bytes =
        static_cast<int64_t>(std::min(kWorkFactor * input_bytes + kWorkFloor, kWorkCeiling));
    settings.max_output_bytes = kOutputFactor * input_bytes + kOutputFloor;
    settings.unix_seconds =
        context_.now ? context_.now() : static_cast<int64_t>(std::time(nullptr));
    JinjaInterpreter interpreter(settings);
    ASSIGN_OR_RETURN(JinjaValue list, ToValue(messages, interpreter.budget()));
    interpreter.SetGlobal("messages", std::move(list));
    interpreter.SetGlobal("add_generation_prompt", JinjaValue::Bool(add_generation_prompt));
    interpreter.SetGlobal("tools", JinjaValue::None());
    interpreter.SetGlobal("documents", JinjaValue::None());
    for (const auto& [name, text] : context_.special_tokens) {
      interpreter.SetGlobal(name, JinjaValue::Text(text));
    }
    ASSIGN_OR_RETURN(const TemplateText text, interpreter.Render(body_));
    // A segment for each mark and each part between them, and the vector's growth.
    RETURN_IF_ERROR(
        interpreter.budget().Bytes(4 * text.message_spans().size() * sizeof(PromptSegment)));
    return ToSegments(text);
  }
  std::string_view kind() const override { return "jinja"; }

 private:
  static JinjaResult ToValue(const std::vector<ChatMessage>& messages, JinjaBudget& budget) {
    JinjaItems items;
    for (const ChatMessage& message : messages) {
      TemplateText role(message.role, !IsKnownRole(message.role));
      TemplateText content(message.content, /*from_message=*/true);
      ASSIGN_OR_RETURN(
          JinjaValue item,
          JinjaValue::Dict({{TemplateText("role"), JinjaValue::Text(std::move(role))},
                            {TemplateText("content"), JinjaValue::Text(std::move(content))}},
                           budget));
      items.push_back(std::move(item));
    }
    return JinjaValue::List(std::move(items), budget);
  }

  JinjaBody body_;
  size_t source_bytes_;
  ChatTemplateContext context_;
};

// The tokens that templates may name: every `*_token` of tokenizer_config.json.
absl::StatusOr<ChatTemplateContext> ReadContext(const json& config) {
  ChatTemplateContext context;
  if (!config.is_object())
    return absl::InvalidArgumentError("tokenizer_config.json: must be an object");
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token") || (!value.is_string() && !value.is_object())) continue;
    const json& holder = value.is_object() ? value : config;
    ASSIGN_OR_RETURN(std::string content,
                     ReadString(holder, value.is_object() ? "content" : key.c_str()));
    context.special_tokens.emplace_back(key, std::move(content));
  }
  return context;
}

// `chat_template` is a string or a list of {name, template}. Empty when there is none.
absl::StatusOr<std::string> ReadSource(const json& config) {
  const json* value = FindMember(config, "chat_template");
  if (value == nullptr) return std::string();
  if (!value->is_array()) return ReadString(config, "chat_template");
  std::string first;
  for (const json& item : *value) {
    ASSIGN_OR_RETURN(const std::string name, ReadString(item, "name"));
    ASSIGN_OR_RETURN(std::string source, ReadString(item, "template"));
    if (name == "default") return source;
    if (first.empty()) first = std::move(source);
  }
  return first;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(
    const std::string& model_directory) {
  absl::StatusOr<json> config =
      ReadJsonFile(absl::StrCat(model_directory, "/tokenizer_config.json"), kMaxConfigBytes, {});
  if (absl::IsNotFound(config.status())) config = json::object();
  if (!config.ok()) return config.status();
  ASSIGN_OR_RETURN(ChatTemplateContext context, ReadContext(*config));
  absl::StatusOr<std::string> source =
      ReadFileBytes(absl::StrCat(model_directory, "/chat_template.jinja"), kMaxSourceBytes);
  if (absl::IsNotFound(source.status())) source = ReadSource(*config);
  if (!source.ok()) return source.status();
  if (source->empty()) return Plain();
  return Parse(*source, std::move(context));
}

std::unique_ptr<ChatTemplate> ChatTemplate::Plain() {
  return std::make_unique<PlainChatTemplate>();
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(std::string_view source) {
  return Parse(source, ChatTemplateContext());
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(std::string_view source,
                                                                  ChatTemplateContext context) {
  if (source.size() > kMaxSourceBytes) {
    return absl::InvalidArgumentError("chat template: longer than 256 KiB");
  }
  if (!IsValidUtf8(source)) return absl::InvalidArgumentError("chat template: not valid UTF-8");
  ASSIGN_OR_RETURN(JinjaBody body, ParseJinja(source));
  return std::make_unique<JinjaChatTemplate>(std::move(body), source.size(), std::move(context));
}

}  // namespace sluice
