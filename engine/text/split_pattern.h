// A regular expression out of a tokenizer.json, used to split text. The pattern is untrusted: a
// step budget proportional to the text bounds every search, so that no pattern can hang the server.
// PCRE2 with Unicode properties; never std::regex.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice {

// Half-open range of bytes. 32 bits, because hostile text has a span for every byte; no text gets
// longer than 3 GiB (kMaxSplitBytes, tripled by at most one more step).
struct ByteSpan {
  ByteSpan() = default;
  ByteSpan(size_t first, size_t last)
      : begin(static_cast<uint32_t>(first)), end(static_cast<uint32_t>(last)) {}
  uint32_t begin = 0;
  uint32_t end = 0;
};
inline constexpr size_t kMaxSplitBytes = size_t{1} << 30;

class SplitPattern {
 public:
  // InvalidArgument when the pattern is malformed, longer than 16 KiB, or uses back references.
  static absl::StatusOr<SplitPattern> Compile(std::string_view pattern);
  // Matches `text` literally.
  static SplitPattern Literal(std::string_view text);

  // All matches of all `spans` of `text` (well-formed UTF-8; spans in order, not overlapping), in
  // order. A span is its own subject: look-arounds do not see past it. A match may be empty.
  // InvalidArgument when the step budget is used up.
  absl::StatusOr<std::vector<ByteSpan>> FindAll(std::string_view text,
                                                const std::vector<ByteSpan>& spans) const;

 private:
  struct Code;
  class Search;

  void AppendLiteral(std::string_view text,
                     const ByteSpan& span,
                     std::vector<ByteSpan>& matches) const;

  std::shared_ptr<const Code>
      code_;  // shared: copies of a pattern are immutable; null for a literal
  std::string literal_;
};

}  // namespace sluice
