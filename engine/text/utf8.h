// Code points of UTF-8 text and the few character classes that tokenizers and templates need. Not
// for normalisation (normalizer.h) and not for patterns (split_pattern.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

// The code point at `position` of well-formed UTF-8; moves `position` past it.
uint32_t NextCodePoint(std::string_view text, size_t& position);

// The code point that ends before `position` (> 0) of well-formed UTF-8; moves `position` to its
// start.
uint32_t PreviousCodePoint(std::string_view text, size_t& position);

void AppendUtf8(uint32_t code_point, std::string& text);
size_t CountCodePoints(std::string_view text);

// Takes the longest prefix of `bytes` that is decided and leaves the rest: an unfinished character
// at the end stays in `bytes` unless `at_end`. Each maximal ill-formed part becomes one U+FFFD
// (Unicode 15, 3.9).
std::string TakeUtf8(std::string& bytes, bool at_end);

bool IsWhiteSpace(uint32_t code_point);
bool IsNumeric(uint32_t code_point);
bool IsPunctuation(uint32_t code_point);
bool IsWordCharacter(uint32_t code_point);
bool IsLetter(uint32_t code_point);
uint32_t LowerCase(uint32_t code_point);
uint32_t UpperCase(uint32_t code_point);

}  // namespace sluice
