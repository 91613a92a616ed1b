// Runs of text joined to one text, with the spans where special tokens may be recognised.
#pragma once

#include <string>
#include <vector>

#include "engine/text/split_pattern.h"
#include "engine/text/tokenizer.h"

namespace sluice {

struct JoinedRuns {
  std::string text;
  std::vector<ByteSpan> special_spans;  // adjacent spans are joined

  static JoinedRuns Join(const std::vector<TextRun>& runs) {
    JoinedRuns joined;
    for (const TextRun& run : runs) {
      const size_t begin = joined.text.size();
      joined.text += run.text;
      if (!run.parse_special_tokens) continue;
      if (!joined.special_spans.empty() && joined.special_spans.back().end == begin) {
        joined.special_spans.back() = {joined.special_spans.back().begin, joined.text.size()};
      } else {
        joined.special_spans.push_back({begin, joined.text.size()});
      }
    }
    return joined;
  }
};

}  // namespace sluice
