#include "engine/text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

using Edges = std::vector<std::pair<unsigned char, int32_t>>;

int32_t FindEdge(const Edges& edges, unsigned char byte) {
  for (const auto& [label, target] : edges) {
    if (label == byte) return target;
  }
  return -1;
}

}  // namespace

StopMatcher::StopMatcher(const std::vector<std::string>& stop) : stop_(stop), nodes_(1) {
  for (size_t i = 0; i < stop_.size(); ++i) {
    if (stop_[i].empty()) continue;
    int32_t state = 0;
    for (const char c : stop_[i]) {
      const auto byte = static_cast<unsigned char>(c);
      int32_t target = FindEdge(nodes_[static_cast<size_t>(state)].next, byte);
      if (target < 0) {
        target = static_cast<int32_t>(nodes_.size());
        Node child;
        child.depth = nodes_[static_cast<size_t>(state)].depth + 1;
        nodes_[static_cast<size_t>(state)].next.emplace_back(byte, target);
        nodes_.push_back(std::move(child));
      }
      state = target;
    }
    Node& end = nodes_[static_cast<size_t>(state)];
    if (end.match < 0) end.match = static_cast<int32_t>(i);
  }
  // Breadth first, so that a node's failure target is finished before the node itself.
  std::vector<int32_t> order = {0};
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t parent = order[i];
    for (const auto& [byte, child] : nodes_[static_cast<size_t>(parent)].next) {
      Node& node = nodes_[static_cast<size_t>(child)];
      node.fail = parent == 0 ? 0 : Step(nodes_[static_cast<size_t>(parent)].fail, byte);
      if (node.match < 0) node.match = nodes_[static_cast<size_t>(node.fail)].match;
      order.push_back(child);
    }
  }
}

int32_t StopMatcher::Step(int32_t state, unsigned char byte) const {
  while (true) {
    const Node& node = nodes_[static_cast<size_t>(state)];
    const int32_t target = FindEdge(node.next, byte);
    if (target >= 0) return target;
    if (state == 0) return 0;
    state = node.fail;
  }
}

StopMatcher::Result StopMatcher::Append(std::string_view text, bool include_stop) {
  for (const char c : text) {
    pending_.push_back(c);
    state_ = Step(state_, static_cast<unsigned char>(c));
    const int32_t match = nodes_[static_cast<size_t>(state_)].match;
    if (match < 0) continue;
    const std::string& found = stop_[static_cast<size_t>(match)];
    if (!include_stop) pending_.resize(pending_.size() - found.size());
    state_ = 0;
    return {.text = std::exchange(pending_, std::string()), .stop = found};
  }
  const auto held = static_cast<size_t>(nodes_[static_cast<size_t>(state_)].depth);
  Result result;
  result.text = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, pending_.size() - held);
  return result;
}

std::string StopMatcher::Flush() {
  state_ = 0;
  return std::exchange(pending_, std::string());
}

}  // namespace sluice
