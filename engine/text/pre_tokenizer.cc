#include "engine/text/pre_tokenizer.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

struct Part {
  ByteSpan span;
  bool matched = false;
};

// Calls `add(part, matched)` for the matched and unmatched parts of `span`; `next` is the first
// match not yet used.
template <typename AddPart>
void CutSpan(const ByteSpan& span,
             const std::vector<ByteSpan>& matches,
             size_t& next,
             AddPart add) {
  size_t done = span.begin;
  for (; next < matches.size() && matches[next].end <= span.end; ++next) {
    if (matches[next].begin < done) continue;
    if (matches[next].begin > done) add(ByteSpan(done, matches[next].begin), false);
    add(matches[next], true);
    done = matches[next].end;
  }
  if (done < span.end) add(ByteSpan(done, span.end), false);
}

// The rules of huggingface/tokenizers, tokenizer/normalizer.rs, NormalizedString::split.
void JoinParts(const std::vector<Part>& parts,
               SplitBehavior behavior,
               std::vector<ByteSpan>& spans) {
  const size_t first = spans.size();
  bool previous_matched = false;
  const auto add = [&spans](const ByteSpan& span) { spans.push_back(span); };
  const auto open = [&] { return spans.size() > first; };
  switch (behavior) {
    case SplitBehavior::kIsolated:
    case SplitBehavior::kRemoved:
      return;  // need no parts
    case SplitBehavior::kContiguous:
      for (const Part& part : parts) {
        if (open() && part.matched == previous_matched) {
          spans.back().end = part.span.end;
        } else {
          add(part.span);
        }
        previous_matched = part.matched;
      }
      return;
    case SplitBehavior::kMergedWithPrevious:
      for (const Part& part : parts) {
        if (open() && part.matched && !previous_matched) {
          spans.back().end = part.span.end;
        } else {
          add(part.span);
        }
        previous_matched = part.matched;
      }
      return;
    case SplitBehavior::kMergedWithNext:
      for (size_t i = parts.size(); i-- > 0;) {
        if (open() && parts[i].matched && !previous_matched) {
          spans.back().begin = parts[i].span.begin;
        } else {
          add(parts[i].span);
        }
        previous_matched = parts[i].matched;
      }
      std::reverse(spans.begin() + static_cast<std::ptrdiff_t>(first), spans.end());
      return;
  }
}

}  // namespace

void SplitPieces(const std::vector<ByteSpan>& matches,
                 bool invert,
                 SplitBehavior behavior,
                 Pieces& pieces) {
  std::vector<ByteSpan> spans;
  spans.reserve(matches.size() + pieces.spans.size());
  const bool isolates = behavior == SplitBehavior::kIsolated;
  const bool needs_parts = !isolates && behavior != SplitBehavior::kRemoved;
  std::vector<Part> parts;
  size_t next = 0;
  for (const ByteSpan& span : pieces.spans) {
    CutSpan(span, matches, next, [&](const ByteSpan& part, bool matched) {
      if (needs_parts) {
        parts.push_back({part, matched != invert});
      } else if (isolates || matched == invert) {
        spans.push_back(part);
      }
    });
    JoinParts(parts, behavior, spans);
    parts.clear();
  }
  std::erase_if(spans, [](const ByteSpan& span) { return span.begin == span.end; });
  pieces.spans = std::move(spans);
}

uint32_t ByteLevelCodePoint(unsigned char byte) {
  const auto is_printable = [](uint32_t b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  if (is_printable(byte)) return byte;
  uint32_t code_point = 256;
  for (uint32_t b = 0; b < byte; ++b) code_point += is_printable(b) ? 0 : 1;
  return code_point;
}

}  // namespace sluice
