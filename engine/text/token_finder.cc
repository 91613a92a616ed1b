#include "engine/text/token_finder.h"

#include <algorithm>

#include "kernels/check.h"

namespace sluice {
namespace {

uint64_t EdgeKey(int32_t state, unsigned char byte) {
  return (static_cast<uint64_t>(state) << 8) | byte;
}

}  // namespace

void TokenFinder::Add(std::string_view content, int32_t value) {
  SLUICE_CHECK(!content.empty());
  int32_t state = 0;
  for (size_t i = content.size(); i-- > 0;) {
    const auto byte = static_cast<unsigned char>(content[i]);
    const auto [edge, inserted] =
        edges_.try_emplace(EdgeKey(state, byte), static_cast<int32_t>(nodes_.size()));
    if (inserted) {
      nodes_.push_back({.depth = nodes_[static_cast<size_t>(state)].depth + 1});
    }
    state = edge->second;
  }
  nodes_[static_cast<size_t>(state)].value = value;
  starts_with_[static_cast<unsigned char>(content.back())] = true;
}

void TokenFinder::Build() {
  // Nodes were made parent first, but failure links need breadth-first order.
  struct Edge {
    int32_t parent, child;
    unsigned char byte;
  };
  std::vector<Edge> order;
  order.reserve(edges_.size());
  for (const auto& [key, child] : edges_) {
    order.push_back(
        {static_cast<int32_t>(key >> 8), child, static_cast<unsigned char>(key & 0xFF)});
  }
  std::sort(order.begin(), order.end(), [this](const Edge& a, const Edge& b) {
    return nodes_[static_cast<size_t>(a.child)].depth < nodes_[static_cast<size_t>(b.child)].depth;
  });
  for (const Edge& edge : order) {
    Node& node = nodes_[static_cast<size_t>(edge.child)];
    if (edge.parent != 0)
      node.fail = Step(nodes_[static_cast<size_t>(edge.parent)].fail, edge.byte);
    const Node& fail = nodes_[static_cast<size_t>(node.fail)];
    node.next_match = fail.value >= 0 ? node.fail : fail.next_match;
  }
}

int32_t TokenFinder::Step(int32_t state, unsigned char byte) const {
  while (state != 0) {
    const auto edge = edges_.find(EdgeKey(state, byte));
    if (edge != edges_.end()) return edge->second;
    state = nodes_[static_cast<size_t>(state)].fail;
  }
  if (!starts_with_[byte]) return 0;
  return edges_.find(EdgeKey(0, byte))->second;
}

std::vector<TokenFinder::Match> TokenFinder::Find(
    std::string_view text, const std::function<bool(const Match&)>& accept) const {
  struct Hit {
    size_t begin;
    int32_t node;
  };
  std::vector<Hit> hits;  // from right to left
  int32_t state = 0;
  for (size_t i = text.size(); i-- > 0;) {
    state = Step(state, static_cast<unsigned char>(text[i]));
    const Node& node = nodes_[static_cast<size_t>(state)];
    const int32_t longest = node.value >= 0 ? state : node.next_match;
    if (longest >= 0) hits.push_back({i, longest});
  }
  std::vector<Match> matches;
  size_t free_from = 0;
  for (size_t i = hits.size(); i-- > 0;) {
    if (hits[i].begin < free_from) continue;
    for (int32_t at = hits[i].node; at >= 0; at = nodes_[static_cast<size_t>(at)].next_match) {
      const Node& node = nodes_[static_cast<size_t>(at)];
      const Match match{hits[i].begin, hits[i].begin + static_cast<size_t>(node.depth), node.value};
      if (!accept(match)) continue;
      matches.push_back(match);
      free_from = match.end;
      break;
    }
  }
  return matches;
}

}  // namespace sluice
