// Filters on text, and those that turn values into text.
#include <algorithm>
#include <optional>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_calls.h"
#include "engine/text/jinja/jinja_operators.h"
#include "engine/text/jinja/jinja_text_operations.h"
#include "engine/text/jinja/jinja_writer.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

// Filters on text take any value as its printed form.
absl::StatusOr<TemplateText> InputText(const JinjaCall& call) {
  ASSIGN_OR_RETURN(TemplateText text, JinjaToText(call.input, call.budget));
  RETURN_IF_ERROR(call.budget.Bytes(text.stored_bytes()));
  return text;
}

JinjaResult ToResult(absl::StatusOr<TemplateText> text) {
  RETURN_IF_ERROR(text.status());
  return JinjaValue::Text(*std::move(text));
}

JinjaResult String(const JinjaCall& call) {
  ASSIGN_OR_RETURN(TemplateText text, InputText(call));
  return JinjaValue::Text(std::move(text));
}

JinjaResult Trim(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText text, InputText(call));
  const JinjaValue* given = call.arguments.Get(0, "chars");
  std::optional<std::string_view> characters;
  if (given != nullptr && given->text() != nullptr) characters = given->text()->text();
  return ToResult(StripText(text, characters, {}, call.budget));
}

template <JinjaLetterCase letter_case>
JinjaResult Case(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText text, InputText(call));
  return ToResult(ChangeCase(text, letter_case, call.budget));
}

// Unlike the method, a word starts only after a space, '-' or an opening bracket.
JinjaResult Title(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText text, InputText(call));
  bool starts = true;
  const auto change = [&](uint32_t code_point, std::string& out) {
    AppendUtf8(starts ? UpperCase(code_point) : LowerCase(code_point), out);
    const bool is_bracket =
        code_point < 0x80 &&
        std::string_view("-({[<").find(static_cast<char>(code_point)) != std::string_view::npos;
    starts = is_bracket || IsWhiteSpace(code_point);
  };
  return ToResult(MapCharacters(text, change, call.budget));
}

JinjaResult Escape(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText text, InputText(call));
  const auto escape = [](uint32_t code_point, std::string& out) {
    switch (code_point) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        AppendUtf8(code_point, out);
    }
  };
  return ToResult(MapCharacters(text, escape, call.budget));
}

JinjaResult Replace(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText text, InputText(call));
  ASSIGN_OR_RETURN(const TemplateText from, call.TextArgument(0, "old", ""));
  ASSIGN_OR_RETURN(const TemplateText to, call.TextArgument(1, "new", ""));
  ASSIGN_OR_RETURN(const int64_t count, call.IntArgument(2, "count", -1));
  return ToResult(ReplaceText(text, from.text(), to, count, call.budget));
}

JinjaResult Indent(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText text, InputText(call));
  ASSIGN_OR_RETURN(const bool first, call.BoolArgument(1, "first", false));
  ASSIGN_OR_RETURN(const bool blank, call.BoolArgument(2, "blank", false));
  TemplateText indentation;
  const JinjaValue* width = call.arguments.Get(0, "width");
  if (width != nullptr && width->text() != nullptr) {
    indentation = *width->text();
  } else {
    ASSIGN_OR_RETURN(const int64_t columns, call.IntArgument(0, "width", 4));
    indentation =
        TemplateText(std::string(static_cast<size_t>(std::clamp<int64_t>(columns, 0, 1024)), ' '));
  }
  ASSIGN_OR_RETURN(const JinjaItems lines, SplitText(text, "\n", -1, call.budget));
  TemplateText result;
  size_t end = 0;  // of the line before, in `text`
  for (size_t i = 0; i < lines.size(); ++i) {
    const TemplateText& line = *lines[i].text();
    if (i > 0) result.Append(text.Substring(end, end + 1));  // the line break, with its mark
    end += line.size() + (i > 0 ? 1 : 0);
    RETURN_IF_ERROR(call.budget.Bytes(indentation.stored_bytes()));
    if (i == 0 ? first : blank || !line.empty()) result.Append(indentation);
    result.Append(line);
  }
  return JinjaValue::Text(std::move(result));
}

JinjaResult Join(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText separator, call.TextArgument(0, "d", ""));
  ASSIGN_OR_RETURN(const TemplateText attribute, call.TextArgument(1, "attribute", ""));
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(call.input, call.budget));
  TemplateText joined;
  for (size_t i = 0; i < items.size(); ++i) {
    JinjaValue item = items[i];
    if (!attribute.empty()) {
      ASSIGN_OR_RETURN(item, JinjaAttributePath(item, attribute.text(), call.budget));
    }
    ASSIGN_OR_RETURN(const TemplateText text, JinjaToText(item, call.budget));
    RETURN_IF_ERROR(call.budget.Bytes(separator.stored_bytes() + text.stored_bytes()));
    if (i > 0) joined.Append(separator);
    joined.Append(text);
  }
  return JinjaValue::Text(std::move(joined));
}

JinjaResult ToJson(const JinjaCall& call) {
  JinjaJsonStyle style;
  // The argument order of the chat-template environment: ensure_ascii, indent, separators,
  // sort_keys.
  const JinjaValue* first = call.arguments.Get(0, "ensure_ascii");
  if (first != nullptr && first->Truthy())
    return JinjaError("tojson: ensure_ascii is not supported");
  ASSIGN_OR_RETURN(const int64_t indent, call.IntArgument(1, "indent", -1));
  ASSIGN_OR_RETURN(style.sort_keys, call.BoolArgument(3, "sort_keys", false));
  style.indent = static_cast<int>(std::clamp<int64_t>(indent, -1, 64));
  if (style.indent >= 0) style.item_separator = ",";
  const JinjaValue* separators = call.arguments.Get(2, "separators");
  if (separators != nullptr && separators->list() != nullptr &&
      separators->list()->items.size() == 2) {
    const JinjaItems& items = separators->list()->items;
    if (items[0].text() == nullptr || items[1].text() == nullptr) {
      return JinjaError("tojson: separators must be strings");
    }
    if (items[0].text()->from_message() || items[1].text()->from_message()) {
      return JinjaError("tojson: separators cannot come from a message");
    }
    style.item_separator = items[0].text()->text();
    style.key_separator = items[1].text()->text();
  }
  ASSIGN_OR_RETURN(TemplateText text, JinjaToJson(call.input, style, call.budget));
  RETURN_IF_ERROR(call.budget.Bytes(text.size()));
  return JinjaValue::Text(std::move(text));
}

}  // namespace

JinjaFilter FindTextFilter(std::string_view name) {
  constexpr JinjaFilterEntry kFilters[] = {
      {"string", &String},
      {"safe", &String},
      {"trim", &Trim},
      {"upper", &Case<JinjaLetterCase::kUpper>},
      {"lower", &Case<JinjaLetterCase::kLower>},
      {"capitalize", &Case<JinjaLetterCase::kCapitalized>},
      {"title", &Title},
      {"escape", &Escape},
      {"e", &Escape},
      {"replace", &Replace},
      {"indent", &Indent},
      {"join", &Join},
      {"tojson", &ToJson},
  };
  for (const JinjaFilterEntry& entry : kFilters) {
    if (name == entry.name) return entry.filter;
  }
  return nullptr;
}

}  // namespace sluice
