// Finds stop strings in streamed text and holds back any suffix that may still become one, so that
// a stop string is never partly sent. Aho-Corasick: cost is linear in the text, whatever the stop
// strings are. One instance per sequence, single threaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class StopMatcher {
 public:
  // `stop`: at most 16 strings of 1..256 bytes (the caller has checked). Empty list: never stops.
  explicit StopMatcher(const std::vector<std::string>& stop);

  struct Result {
    std::string text;                 // may be sent now
    std::optional<std::string> stop;  // the stop string that ended the text
  };

  // Adds text. When a stop string is found, `text` ends before it (or after it if `include_stop`),
  // and nothing may be appended any more. The earliest-ending match wins; among those, the longest.
  Result Append(std::string_view text, bool include_stop);

  // Returns the held-back text at the end of the sequence.
  std::string Flush();

 private:
  struct Node {
    std::vector<std::pair<unsigned char, int32_t>> next;
    int32_t fail = 0;
    int32_t depth = 0;
    int32_t match = -1;  // index of the longest stop string that ends here
  };
  int32_t Step(int32_t state, unsigned char byte) const;

  std::vector<std::string> stop_;
  std::vector<Node> nodes_;
  int32_t state_ = 0;
  std::string pending_;
};

}  // namespace sluice
