// The added tokens of a tokenizer: contents that are looked for in the text before it is split and
// merged. Special ones are found only in runs of text that allow it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/split_pattern.h"
#include "engine/text/token_finder.h"
#include "nlohmann/json.hpp"

namespace sluice {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;
  bool single_word = false;
  bool strip_left = false;   // takes the white space before it
  bool strip_right = false;  // takes the white space after it
  bool normalized = false;   // looked for in normalised text
};

// A section of text: an added token, or plain text when `id` is negative.
struct TextSection {
  ByteSpan span;
  int32_t id = -1;
};

class AddedTokens {
 public:
  // Reads `added_tokens` (absent: none). InvalidArgument for empty or repeated contents, repeated
  // or out-of-range ids.
  static absl::StatusOr<AddedTokens> FromJson(const nlohmann::json* list);
  // InvalidArgument as FromJson.
  static absl::StatusOr<AddedTokens> FromList(std::vector<AddedToken> tokens);

  // Cuts `text` at the tokens that are looked for before normalisation: all special ones, and those
  // not `normalized`. Special ones count only inside `special_spans` (in order, not overlapping).
  std::vector<TextSection> CutRaw(std::string_view text,
                                  const std::vector<ByteSpan>& special_spans) const;
  // Cuts normalised text at the remaining tokens.
  std::vector<TextSection> CutNormalized(std::string_view text) const;

  // Tells the finder for normalised text what the normaliser makes of token `index`.
  void AddNormalized(size_t index, std::string_view normalized_content);
  void Build();

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  static bool IsFoundRaw(const AddedToken& token) { return token.special || !token.normalized; }

 private:
  std::vector<TextSection> Cut(const TokenFinder& finder,
                               std::string_view text,
                               const std::vector<ByteSpan>& special_spans) const;

  std::vector<AddedToken> tokens_;
  TokenFinder raw_;
  TokenFinder normalized_;
};

}  // namespace sluice
