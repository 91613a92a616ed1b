// Finds the added tokens written in a text, leftmost and longest first, in linear time
// (Aho-Corasick over the reversed text, so that one pass gives the longest token that starts at
// each position). Not for vocabulary lookups of the merge model.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace sluice {

class TokenFinder {
 public:
  struct Match {
    size_t begin = 0;
    size_t end = 0;
    int32_t value = -1;  // what Add was given
  };

  // `content` must not be empty. Adding the same content again replaces its value.
  void Add(std::string_view content, int32_t value);

  // Must be called once, after the last Add and before Find.
  void Build();

  // Non-overlapping matches from left to right. A match that `accept` refuses does not hide shorter
  // or later ones.
  std::vector<Match> Find(std::string_view text,
                          const std::function<bool(const Match&)>& accept) const;

  bool empty() const { return nodes_.size() == 1; }

 private:
  struct Node {
    int32_t fail = 0;
    int32_t depth = 0;
    int32_t value = -1;
    int32_t next_match = -1;  // nearest node with a value on the chain of failures, itself excluded
  };
  int32_t Step(int32_t state, unsigned char byte) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  absl::flat_hash_map<uint64_t, int32_t> edges_;  // (node << 8 | byte) -> node
  bool starts_with_[256] = {};                    // bytes that leave the root
};

}  // namespace sluice
