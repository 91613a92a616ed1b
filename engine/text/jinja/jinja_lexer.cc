#include "engine/text/jinja/jinja_lexer.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

constexpr std::string_view kSpaces = " \t\n\r\v\f";
constexpr size_t kMaxNameBytes = 256;
constexpr size_t kNowhere = std::string_view::npos;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

int HexValue(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The rest of a \x, \u or \U escape; nothing is consumed when it is malformed.
bool DecodeHex(std::string_view body, size_t digits, size_t& position, std::string& out) {
  if (position + digits > body.size()) return false;
  uint32_t code_point = 0;
  for (size_t i = 0; i < digits; ++i) {
    const int digit = HexValue(body[position + i]);
    if (digit < 0) return false;
    code_point = code_point * 16 + static_cast<uint32_t>(digit);
  }
  const bool encodable = code_point <= 0x10FFFF && (code_point < 0xD800 || code_point > 0xDFFF);
  AppendUtf8(encodable ? code_point : 0xFFFD, out);
  position += digits;
  return true;
}

// Python's escapes; an unknown one stands for itself.
std::string DecodeString(std::string_view body) {
  constexpr std::string_view kEscapes = "\\'\"abfnrtv";
  constexpr std::string_view kMeanings = "\\'\"\a\b\f\n\r\t\v";
  std::string out;
  for (size_t i = 0; i < body.size();) {
    if (body[i] != '\\' || i + 1 == body.size()) {
      out += body[i++];
      continue;
    }
    const char escape = body[i + 1];
    i += 2;
    const size_t known = kEscapes.find(escape);
    if (known != kNowhere) {
      out += kMeanings[known];
    } else if (escape >= '0' && escape <= '7') {
      uint32_t code = static_cast<uint32_t>(escape - '0');
      for (int n = 0; n < 2 && i < body.size() && body[i] >= '0' && body[i] <= '7'; ++n) {
        code = code * 8 + static_cast<uint32_t>(body[i++] - '0');
      }
      AppendUtf8(code, out);
    } else if (escape == '\n') {
      continue;
    } else {
      const size_t digits = escape == 'x' ? 2 : escape == 'u' ? 4 : escape == 'U' ? 8 : 0;
      if (digits == 0 || !DecodeHex(body, digits, i, out)) (out += '\\') += escape;
    }
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  absl::StatusOr<std::vector<JinjaToken>> Run() {
    while (position_ < source_.size()) RETURN_IF_ERROR(LexText());
    Push(JinjaTokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(std::string_view message) const {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template, line ", line_, ": ", std::string(message)));
  }

  void Push(JinjaTokenKind kind, std::string text) {
    JinjaToken token;
    token.kind = kind;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  void MoveTo(size_t position) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_),
                                    source_.begin() + static_cast<std::ptrdiff_t>(position), '\n'));
    position_ = position;
  }

  // Text up to the next tag, and the tag.
  absl::Status LexText() {
    size_t tag = position_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == kNowhere || tag + 1 >= source_.size()) {
        PushText(source_.substr(position_));
        MoveTo(source_.size());
        return absl::OkStatus();
      }
      if (std::string_view("{%#").find(source_[tag + 1]) != kNowhere) break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    const char modifier = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    PushText(StripBefore(source_.substr(position_, tag - position_), kind, modifier));
    const bool has_modifier = modifier == '-' || modifier == '+';
    MoveTo(tag + 2 + (has_modifier ? 1 : 0));
    if (kind == '#') return SkipComment();
    if (kind == '%' && SkipRawBegin()) return LexRaw();
    return LexTag(kind);
  }

  void PushText(std::string_view text) {
    if (!text.empty()) Push(JinjaTokenKind::kText, std::string(text));
  }

  // lstrip_blocks: a block tag alone at the start of its line takes the indentation with it.
  std::string_view StripBefore(std::string_view text, char kind, char modifier) const {
    if (modifier == '-') {
      const size_t last = text.find_last_not_of(kSpaces);
      return last == kNowhere ? std::string_view() : text.substr(0, last + 1);
    }
    if (modifier == '+' || kind == '{') return text;
    const size_t newline = text.rfind('\n');
    const size_t line_start = newline == kNowhere ? 0 : newline + 1;
    if (line_start == 0 && !at_line_start_) return text;
    const bool only_spaces = text.find_first_not_of(kSpaces, line_start) == kNowhere;
    return only_spaces ? text.substr(0, line_start) : text;
  }

  // Called after a tag's closing bracket; `modifier` is what preceded it. trim_blocks: a block or
  // comment takes the newline after it.
  void StripAfter(char modifier, bool trims_newline) {
    size_t next = position_;
    if (modifier == '-') {
      next = std::min(source_.find_first_not_of(kSpaces, position_), source_.size());
    } else if (modifier != '+' && trims_newline && next < source_.size() && source_[next] == '\n') {
      ++next;
    }
    at_line_start_ = next > position_ && source_[next - 1] == '\n';
    MoveTo(next);
  }

  absl::Status SkipComment() {
    const size_t end = source_.find("#}", position_);
    if (end == kNowhere) return Error("unfinished comment");
    const char modifier = end > position_ ? source_[end - 1] : '\0';
    MoveTo(end + 2);
    StripAfter(modifier, /*trims_newline=*/true);
    return absl::OkStatus();
  }

  // Moves past `raw %}`, if that is what follows.
  bool SkipRawBegin() {
    size_t at = source_.find_first_not_of(kSpaces, position_);
    if (at == kNowhere || source_.substr(at, 3) != "raw") return false;
    at = source_.find_first_not_of(kSpaces, at + 3);
    if (at == kNowhere) return false;
    const char modifier = source_[at];
    if (modifier == '-') ++at;
    if (source_.substr(at, 2) != "%}") return false;
    MoveTo(at + 2);
    StripAfter(modifier, /*trims_newline=*/false);
    return true;
  }

  absl::Status LexRaw() {
    for (size_t tag = source_.find("{%", position_); tag != kNowhere;
         tag = source_.find("{%", tag + 2)) {
      size_t at = tag + 2;
      const char modifier = at < source_.size() ? source_[at] : '\0';
      if (modifier == '-' || modifier == '+') ++at;
      at = source_.find_first_not_of(kSpaces, at);
      if (at == kNowhere || source_.substr(at, 6) != "endraw") continue;
      at = source_.find_first_not_of(kSpaces, at + 6);
      if (at == kNowhere) continue;
      const char end_modifier = source_[at];
      if (end_modifier == '-' || end_modifier == '+') ++at;
      if (source_.substr(at, 2) != "%}") continue;
      PushText(StripBefore(source_.substr(position_, tag - position_), '%', modifier));
      MoveTo(at + 2);
      StripAfter(end_modifier, /*trims_newline=*/true);
      return absl::OkStatus();
    }
    return Error("unfinished raw block");
  }

  absl::Status LexTag(char kind) {
    const bool is_block = kind == '%';
    Push(is_block ? JinjaTokenKind::kBlockBegin : JinjaTokenKind::kVariableBegin, "");
    const std::string_view close = is_block ? "%}" : "}}";
    std::string open_brackets;
    while (true) {
      MoveTo(std::min(source_.find_first_not_of(kSpaces, position_), source_.size()));
      if (position_ == source_.size()) return Error("unfinished tag");
      const char c = source_[position_];
      const bool has_modifier = c == '-' || (c == '+' && is_block);
      const size_t end = position_ + (has_modifier ? 1 : 0);
      if (open_brackets.empty() && source_.substr(end, 2) == close) {
        Push(is_block ? JinjaTokenKind::kBlockEnd : JinjaTokenKind::kVariableEnd, "");
        MoveTo(end + 2);
        StripAfter(has_modifier ? c : '\0', is_block);
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(LexToken(open_brackets));
    }
  }

  absl::Status LexToken(std::string& open_brackets) {
    const char c = source_[position_];
    if (c == '\'' || c == '"') return LexString(c);
    if (IsDigit(c)) return LexNumber();
    if (IsNameStart(c)) {
      size_t end = position_;
      while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) ++end;
      if (end - position_ > kMaxNameBytes) return Error("a name is too long");
      Push(JinjaTokenKind::kName, std::string(source_.substr(position_, end - position_)));
      MoveTo(end);
      return absl::OkStatus();
    }
    const std::string_view two = source_.substr(position_, 2);
    for (const std::string_view op : {"**", "//", "==", "!=", "<=", ">="}) {
      if (two != op) continue;
      Push(JinjaTokenKind::kOperator, std::string(op));
      MoveTo(position_ + 2);
      return absl::OkStatus();
    }
    if (std::string_view("+-*/%~<>=.:|,()[]{}").find(c) == kNowhere)
      return Error("unexpected character");
    if (c == '(' || c == '[' || c == '{') open_brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open_brackets.empty() || open_brackets.back() != c) return Error("unbalanced bracket");
      open_brackets.pop_back();
    }
    Push(JinjaTokenKind::kOperator, std::string(1, c));
    MoveTo(position_ + 1);
    return absl::OkStatus();
  }

  absl::Status LexString(char quote) {
    size_t end = position_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return Error("unfinished string");
    Push(JinjaTokenKind::kString, DecodeString(source_.substr(position_ + 1, end - position_ - 1)));
    MoveTo(end + 1);
    return absl::OkStatus();
  }

  absl::Status LexNumber() {
    std::string digits;
    size_t end = position_;
    bool is_float = false;
    const auto take_digits = [&] {
      for (; end < source_.size() && (IsDigit(source_[end]) || source_[end] == '_'); ++end) {
        if (source_[end] != '_') digits += source_[end];
      }
    };
    take_digits();
    if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
      is_float = true;
      digits += source_[end++];
      take_digits();
    }
    if (end + 1 < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const bool has_sign = source_[end + 1] == '-' || source_[end + 1] == '+';
      if (end + (has_sign ? 2 : 1) < source_.size() && IsDigit(source_[end + (has_sign ? 2 : 1)])) {
        is_float = true;
        digits += 'e';
        if (source_[end + 1] == '-') digits += '-';
        end += has_sign ? 2 : 1;
        take_digits();
      }
    }
    JinjaToken token;
    token.kind = is_float ? JinjaTokenKind::kFloat : JinjaTokenKind::kInteger;
    token.line = line_;
    const char* last = digits.data() + digits.size();
    const std::from_chars_result result = is_float
                                              ? std::from_chars(digits.data(), last, token.number)
                                              : std::from_chars(digits.data(), last, token.integer);
    if (result.ec != std::errc() || result.ptr != last) return Error("number out of range");
    tokens_.push_back(std::move(token));
    MoveTo(end);
    return absl::OkStatus();
  }

  std::string_view source_;
  size_t position_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<JinjaToken> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<JinjaToken>> LexJinja(std::string_view source) {
  std::string unix_lines;
  unix_lines.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      unix_lines += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      unix_lines += '\n';
    }
  }
  if (unix_lines.ends_with('\n')) unix_lines.pop_back();
  return Lexer(unix_lines).Run();
}

}  // namespace sluice
