// Python's string operations on marked text, shared by filters and methods. Each charges what it
// reads and makes.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/jinja_value.h"

namespace sluice {

struct JinjaStripSides {
  bool left = true;
  bool right = true;
};
// Strips the characters of `characters`, or white space without one.
absl::StatusOr<TemplateText> StripText(const TemplateText& text,
                                       std::optional<std::string_view> characters,
                                       JinjaStripSides sides,
                                       JinjaBudget& budget);

// At most `max_splits` cuts (negative: no limit); without a separator, at white space.
absl::StatusOr<JinjaItems> SplitText(const TemplateText& text,
                                     std::optional<std::string_view> separator,
                                     int64_t max_splits,
                                     JinjaBudget& budget);

// Replaces at most `max_count` places (negative: all).
absl::StatusOr<TemplateText> ReplaceText(const TemplateText& text,
                                         std::string_view from,
                                         const TemplateText& to,
                                         int64_t max_count,
                                         JinjaBudget& budget);

// Rewrites each code point; marks follow the characters.
absl::StatusOr<TemplateText> MapCharacters(
    const TemplateText& text,
    const std::function<void(uint32_t code_point, std::string& out)>& map,
    JinjaBudget& budget);

enum class JinjaLetterCase { kUpper, kLower, kCapitalized, kTitle };
absl::StatusOr<TemplateText> ChangeCase(const TemplateText& text,
                                        JinjaLetterCase letter_case,
                                        JinjaBudget& budget);

// Where `needle` is in `text` from byte `from` on, or npos. Linear.
size_t FindText(std::string_view text, std::string_view needle, size_t from);

}  // namespace sluice
