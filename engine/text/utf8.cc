#include "engine/text/utf8.h"

#include <utf8proc.h>

namespace sluice {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// What a lead byte asks for: how many bytes follow, and the range of the second byte, which
// excludes overlong forms, surrogates and code points above U+10FFFF (Unicode 15, table 3-7).
struct LeadByte {
  size_t num_following = 0;
  unsigned char second_low = 0x80;
  unsigned char second_high = 0xBF;
  bool valid = true;
};

LeadByte ClassifyLead(unsigned char lead) {
  if (lead < 0x80) return {};
  if (lead < 0xC2 || lead > 0xF4) return {.valid = false};
  if (lead < 0xE0) return {.num_following = 1};
  if (lead == 0xE0) return {.num_following = 2, .second_low = 0xA0};
  if (lead == 0xED) return {.num_following = 2, .second_high = 0x9F};
  if (lead < 0xF0) return {.num_following = 2};
  if (lead == 0xF0) return {.num_following = 3, .second_low = 0x90};
  if (lead == 0xF4) return {.num_following = 3, .second_high = 0x8F};
  return {.num_following = 3};
}

utf8proc_category_t Category(uint32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

uint32_t NextCodePoint(std::string_view text, size_t& position) {
  const auto lead = static_cast<unsigned char>(text[position++]);
  if (lead < 0x80) return lead;
  const int extra = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  uint32_t code = lead & (0x3Fu >> extra);
  for (int i = 0; i < extra && position < text.size(); ++i) {
    code = (code << 6) | (static_cast<unsigned char>(text[position++]) & 0x3Fu);
  }
  return code;
}

uint32_t PreviousCodePoint(std::string_view text, size_t& position) {
  --position;
  while (position > 0 && IsContinuation(text[position])) --position;
  size_t start = position;
  return NextCodePoint(text, start);
}

void AppendUtf8(uint32_t code_point, std::string& text) {
  if (code_point < 0x80) {
    text.push_back(static_cast<char>(code_point));
    return;
  }
  int extra = 1;
  uint32_t lead = 0xC0;
  if (code_point >= 0x10000) {
    extra = 3, lead = 0xF0;
  } else if (code_point >= 0x800) {
    extra = 2, lead = 0xE0;
  }
  text.push_back(static_cast<char>(lead | (code_point >> (6 * extra))));
  for (int i = extra - 1; i >= 0; --i) {
    text.push_back(static_cast<char>(0x80 | ((code_point >> (6 * i)) & 0x3F)));
  }
}

size_t CountCodePoints(std::string_view text) {
  size_t count = 0;
  for (const char byte : text) count += IsContinuation(byte) ? 0 : 1;
  return count;
}

std::string TakeUtf8(std::string& bytes, bool at_end) {
  std::string taken;
  size_t i = 0;
  while (i < bytes.size()) {
    const LeadByte lead = ClassifyLead(static_cast<unsigned char>(bytes[i]));
    size_t length = 1;
    bool complete = lead.valid;
    for (size_t j = 1; complete && j <= lead.num_following; ++j) {
      if (i + j == bytes.size() && !at_end) {
        bytes.erase(0, i);
        return taken;
      }
      const unsigned char low = j == 1 ? lead.second_low : 0x80;
      const unsigned char high = j == 1 ? lead.second_high : 0xBF;
      const unsigned char byte =
          i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : '\0';
      complete = byte >= low && byte <= high;
      if (complete) ++length;
    }
    if (complete) {
      taken.append(bytes, i, length);
    } else {
      taken += kReplacement;
    }
    i += length;
  }
  bytes.clear();
  return taken;
}

bool IsWhiteSpace(uint32_t code_point) {
  if (code_point < 0x80) return code_point == ' ' || (code_point >= 9 && code_point <= 13);
  if (code_point == 0x85) return true;
  const utf8proc_category_t category = Category(code_point);
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

bool IsNumeric(uint32_t code_point) {
  if (code_point < 0x80) return code_point >= '0' && code_point <= '9';
  const utf8proc_category_t category = Category(code_point);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsPunctuation(uint32_t code_point) {
  if (code_point < 0x80) {
    return (code_point >= 33 && code_point <= 47) || (code_point >= 58 && code_point <= 64) ||
           (code_point >= 91 && code_point <= 96) || (code_point >= 123 && code_point <= 126);
  }
  const utf8proc_category_t category = Category(code_point);
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool IsLetter(uint32_t code_point) {
  const utf8proc_category_t category = Category(code_point);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsWordCharacter(uint32_t code_point) {
  const utf8proc_category_t category = Category(code_point);
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
         category == UTF8PROC_CATEGORY_PC;
}

uint32_t LowerCase(uint32_t code_point) {
  return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point)));
}

uint32_t UpperCase(uint32_t code_point) {
  return static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code_point)));
}

}  // namespace sluice
