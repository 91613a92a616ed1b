#include "engine/text/jinja/jinja_text_operations.h"

#include <cstring>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

constexpr size_t kNowhere = std::string_view::npos;

bool HasCharacter(std::string_view characters, uint32_t code_point) {
  for (size_t position = 0; position < characters.size();) {
    if (NextCodePoint(characters, position) == code_point) return true;
  }
  return false;
}

JinjaItems SplitAtSpaces(const TemplateText& text, int64_t max_splits) {
  JinjaItems parts;
  const std::string& bytes = text.text();
  size_t position = 0;
  while (position < bytes.size()) {
    size_t begin = position;
    if (IsWhiteSpace(NextCodePoint(bytes, position))) continue;
    if (max_splits >= 0 && static_cast<int64_t>(parts.size()) == max_splits) {
      parts.push_back(JinjaValue::Text(text.Substring(begin, bytes.size())));
      break;
    }
    size_t end = position;
    while (position < bytes.size()) {
      if (IsWhiteSpace(NextCodePoint(bytes, position))) break;
      end = position;
    }
    parts.push_back(JinjaValue::Text(text.Substring(begin, end)));
  }
  return parts;
}

}  // namespace

size_t FindText(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return kNowhere;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return found == nullptr ? kNowhere
                          : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

TemplateText StripText(const TemplateText& text,
                       std::optional<std::string_view> characters,
                       JinjaStripSides sides) {
  const auto is_stripped = [&](uint32_t code_point) {
    return characters.has_value() ? HasCharacter(*characters, code_point)
                                  : IsWhiteSpace(code_point);
  };
  const std::string& bytes = text.text();
  size_t begin = 0;
  for (size_t next = 0; sides.left && next < bytes.size(); begin = next) {
    if (!is_stripped(NextCodePoint(bytes, next))) break;
  }
  size_t end = bytes.size();
  for (size_t before = end; sides.right && before > begin; end = before) {
    if (!is_stripped(PreviousCodePoint(bytes, before))) break;
  }
  return text.Substring(begin, end);
}

absl::StatusOr<JinjaItems> SplitText(const TemplateText& text,
                                     std::optional<std::string_view> separator,
                                     int64_t max_splits,
                                     JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.size()));
  JinjaItems parts;
  if (!separator.has_value()) {
    parts = SplitAtSpaces(text, max_splits);
  } else {
    if (separator->empty()) return JinjaError("empty separator");
    size_t begin = 0;
    size_t found = FindText(text.text(), *separator, 0);
    while (found != kNowhere &&
           (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits)) {
      RETURN_IF_ERROR(budget.Step());
      parts.push_back(JinjaValue::Text(text.Substring(begin, found)));
      begin = found + separator->size();
      found = FindText(text.text(), *separator, begin);
    }
    parts.push_back(JinjaValue::Text(text.Substring(begin, text.size())));
  }
  RETURN_IF_ERROR(budget.Bytes(parts.size() * sizeof(TemplateText)));
  return parts;
}

absl::StatusOr<TemplateText> ReplaceText(const TemplateText& text,
                                         std::string_view from,
                                         const TemplateText& to,
                                         int64_t max_count,
                                         JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.size()));
  if (from.empty()) return JinjaError("replace of an empty string");
  TemplateText result;
  size_t begin = 0;
  size_t found = FindText(text.text(), from, 0);
  for (int64_t count = 0; found != kNowhere && (max_count < 0 || count < max_count); ++count) {
    RETURN_IF_ERROR(budget.Bytes(to.stored_bytes()));
    result.Append(text.Substring(begin, found));
    result.Append(to);
    begin = found + from.size();
    found = FindText(text.text(), from, begin);
  }
  result.Append(text.Substring(begin, text.size()));
  return result;
}

TemplateText MapCharacters(const TemplateText& text,
                           const std::function<void(uint32_t, std::string&)>& map) {
  TemplateText result;
  size_t position = 0;
  const auto map_until = [&](size_t end, bool from_message) {
    std::string out;
    while (position < end) map(NextCodePoint(text.text(), position), out);
    result.Append(TemplateText(std::move(out), from_message));
  };
  for (const TemplateText::Span& span : text.message_spans()) {
    map_until(span.begin, false);
    map_until(span.end, true);
  }
  map_until(text.size(), false);
  return result;
}

TemplateText ChangeCase(const TemplateText& text, JinjaLetterCase letter_case) {
  bool starts = true;
  return MapCharacters(text, [&](uint32_t code_point, std::string& out) {
    const bool capital = letter_case == JinjaLetterCase::kUpper ||
                         (letter_case != JinjaLetterCase::kLower && starts);
    AppendUtf8(capital ? UpperCase(code_point) : LowerCase(code_point), out);
    starts = letter_case == JinjaLetterCase::kTitle && !IsLetter(code_point);
  });
}

}  // namespace sluice
