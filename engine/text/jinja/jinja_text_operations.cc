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

absl::Status AddPart(TemplateText part, JinjaItems& parts, JinjaBudget& budget) {
  RETURN_IF_ERROR(ChargeJinjaText(part, budget));
  parts.push_back(JinjaValue::Text(std::move(part)));
  return absl::OkStatus();
}

absl::StatusOr<JinjaItems> SplitAtSpaces(const TemplateText& text,
                                         int64_t max_splits,
                                         JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Characters(text.size()));
  JinjaItems parts;
  const std::string& bytes = text.text();
  size_t position = 0;
  while (position < bytes.size()) {
    size_t begin = position;
    if (IsWhiteSpace(NextCodePoint(bytes, position))) continue;
    if (max_splits >= 0 && static_cast<int64_t>(parts.size()) == max_splits) {
      RETURN_IF_ERROR(AddPart(text.Substring(begin, bytes.size()), parts, budget));
      break;
    }
    size_t end = position;
    while (position < bytes.size()) {
      if (IsWhiteSpace(NextCodePoint(bytes, position))) break;
      end = position;
    }
    RETURN_IF_ERROR(AddPart(text.Substring(begin, end), parts, budget));
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

absl::StatusOr<TemplateText> StripText(const TemplateText& text,
                                       std::optional<std::string_view> characters,
                                       JinjaStripSides sides,
                                       JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.stored_bytes()));
  const auto is_stripped = [&](uint32_t code_point) {
    return characters.has_value() ? HasCharacter(*characters, code_point)
                                  : IsWhiteSpace(code_point);
  };
  const size_t looked_at = characters.value_or("").size();  // for each character of the text
  const std::string& bytes = text.text();
  size_t begin = 0;
  for (size_t next = 0; sides.left && next < bytes.size(); begin = next) {
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(looked_at / 16)));
    if (!is_stripped(NextCodePoint(bytes, next))) break;
  }
  size_t end = bytes.size();
  for (size_t before = end; sides.right && before > begin; end = before) {
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(looked_at / 16)));
    if (!is_stripped(PreviousCodePoint(bytes, before))) break;
  }
  RETURN_IF_ERROR(budget.Characters(begin + bytes.size() - end));
  return text.Substring(begin, end);
}

absl::StatusOr<JinjaItems> SplitText(const TemplateText& text,
                                     std::optional<std::string_view> separator,
                                     int64_t max_splits,
                                     JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.stored_bytes()));
  RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(text.size() / 32)));
  if (!separator.has_value()) return SplitAtSpaces(text, max_splits, budget);
  if (separator->empty()) return JinjaError("empty separator");
  JinjaItems parts;
  size_t begin = 0;
  size_t found = FindText(text.text(), *separator, 0);
  while (found != kNowhere && (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits)) {
    RETURN_IF_ERROR(AddPart(text.Substring(begin, found), parts, budget));
    begin = found + separator->size();
    found = FindText(text.text(), *separator, begin);
  }
  RETURN_IF_ERROR(AddPart(text.Substring(begin, text.size()), parts, budget));
  return parts;
}

absl::StatusOr<TemplateText> ReplaceText(const TemplateText& text,
                                         std::string_view from,
                                         const TemplateText& to,
                                         int64_t max_count,
                                         JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.stored_bytes()));
  RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(text.size() / 32)));
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

absl::StatusOr<TemplateText> MapCharacters(const TemplateText& text,
                                           const std::function<void(uint32_t, std::string&)>& map,
                                           JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.stored_bytes()));
  RETURN_IF_ERROR(budget.Characters(text.size()));
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
  if (result.size() > text.size()) RETURN_IF_ERROR(budget.Bytes(result.size() - text.size()));
  return result;
}

absl::StatusOr<TemplateText> ChangeCase(const TemplateText& text,
                                        JinjaLetterCase letter_case,
                                        JinjaBudget& budget) {
  bool starts = true;
  const auto change = [&](uint32_t code_point, std::string& out) {
    const bool capital = letter_case == JinjaLetterCase::kUpper ||
                         (letter_case != JinjaLetterCase::kLower && starts);
    AppendUtf8(capital ? UpperCase(code_point) : LowerCase(code_point), out);
    starts = letter_case == JinjaLetterCase::kTitle && !IsLetter(code_point);
  };
  return MapCharacters(text, change, budget);
}

}  // namespace sluice
