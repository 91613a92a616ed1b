// The `pre_tokenizer` of a tokenizer.json: splits a section of text into the pieces that are merged
// on their own. Immutable after FromJson.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/split_pattern.h"
#include "nlohmann/json.hpp"

namespace sluice {

// Text and the pieces it is split into; bytes outside every span are dropped.
struct Pieces {
  std::string text;
  std::vector<ByteSpan> spans;
  bool starts_text = true;  // the section begins where the whole input begins
};

// What becomes of the text that a pattern matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;

  // `value` may be null (the result is null too). InvalidArgument for unknown types.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> FromJson(const nlohmann::json& value);

  virtual absl::Status Apply(Pieces& pieces) const = 0;
};

// Re-splits each piece along `matches` (as SplitPattern::FindAll returns them). `invert` swaps
// matches and the text between them.
void SplitPieces(const std::vector<ByteSpan>& matches,
                 bool invert,
                 SplitBehavior behavior,
                 Pieces& pieces);

// GPT-2's printable stand-ins for bytes: the code point of each byte. Source: openai/gpt-2,
// src/encoder.py.
uint32_t ByteLevelCodePoint(unsigned char byte);

}  // namespace sluice
