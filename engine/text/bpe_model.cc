#include "engine/text/bpe_model.h"

#include <limits>
#include <utility>

#include "absl/strings/string_view.h"
#include "engine/text/merge_queue.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

constexpr size_t kLowCharacters = 0x800;
constexpr size_t kShortPiece = 48;  // up to here a scan over all pairs beats any queue
constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();

}  // namespace

// A piece as a doubly linked list of symbols, merged in queue order. A queue entry is stale when
// the pair at its position no longer has its rank.
class BpeModel::LongPiece {
 public:
  LongPiece(const BpeModel& model, std::vector<int32_t>& symbols)
      : model_(model),
        symbols_(symbols),
        next_(symbols.size(), kEnd),
        previous_(symbols.size(), kEnd) {
    for (uint32_t i = 0; i + 1 < symbols_.size(); ++i) {
      next_[i] = i + 1;
      previous_[i + 1] = i;
    }
  }

  void Merge() {
    for (uint32_t i = 0; i < symbols_.size(); ++i) PushPair(i);
    while (const std::optional<MergeQueue::Entry> entry = queue_.Pop()) {
      const uint32_t left = entry->position;
      const auto* merge = PairAt(left);
      if (merge == nullptr || merge->rank != entry->rank) continue;
      const uint32_t right = next_[left];
      symbols_[left] = merge->merged;
      symbols_[right] = -1;
      next_[left] = next_[right];
      if (next_[left] != kEnd) previous_[next_[left]] = left;
      if (previous_[left] != kEnd) PushPair(previous_[left]);
      PushPair(left);
    }
    std::erase(symbols_, -1);
  }

 private:
  const BpeModel::Merge* PairAt(uint32_t left) const {
    if (symbols_[left] < 0 || next_[left] == kEnd) return nullptr;
    return model_.FindMerge(symbols_[left], symbols_[next_[left]]);
  }
  void PushPair(uint32_t left) {
    const auto* merge = PairAt(left);
    if (merge != nullptr) queue_.Push({merge->rank, left});
  }

  const BpeModel& model_;
  std::vector<int32_t>& symbols_;
  std::vector<uint32_t> next_;
  std::vector<uint32_t> previous_;
  MergeQueue queue_;
};

void BpeModel::Encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (ignore_merges_) {
    const std::optional<int32_t> whole = IdOf(piece);
    if (whole.has_value() && !(static_cast<size_t>(*whole) < forbidden_.size() &&
                               forbidden_[static_cast<size_t>(*whole)])) {
      ids.push_back(*whole);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(piece.size());
  AppendCharacters(piece, symbols);
  if (symbols.size() <= kShortPiece) {
    MergeShort(symbols);
  } else {
    LongPiece(*this, symbols).Merge();
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void BpeModel::MergeShort(std::vector<int32_t>& symbols) const {
  if (symbols.size() < 2) return;
  const Merge* pairs[kShortPiece];
  for (size_t i = 0; i + 1 < symbols.size(); ++i) pairs[i] = FindMerge(symbols[i], symbols[i + 1]);
  while (symbols.size() > 1) {
    const size_t num_pairs = symbols.size() - 1;
    size_t best = num_pairs;
    for (size_t i = 0; i < num_pairs; ++i) {
      if (pairs[i] == nullptr) continue;
      if (best == num_pairs || pairs[i]->rank < pairs[best]->rank) best = i;
    }
    if (best == num_pairs) return;
    symbols[best] = pairs[best]->merged;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    for (size_t i = best; i + 1 < num_pairs; ++i) pairs[i] = pairs[i + 1];
    if (best + 1 < symbols.size()) pairs[best] = FindMerge(symbols[best], symbols[best + 1]);
    if (best > 0) pairs[best - 1] = FindMerge(symbols[best - 1], symbols[best]);
  }
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::optional<int32_t> BpeModel::IdOf(std::string_view token) const {
  const auto found = vocab_.find(absl::string_view(token.data(), token.size()));
  if (found == vocab_.end()) return std::nullopt;
  return found->second;
}

int32_t BpeModel::CharacterId(uint32_t code_point) const {
  if (code_point < kLowCharacters) return low_characters_[code_point];
  const auto found = high_characters_.find(code_point);
  return found == high_characters_.end() ? -1 : found->second;
}

// A character that the vocabulary lacks becomes its byte tokens, or the unknown token, or nothing
// (huggingface/tokenizers, models/bpe/model.rs, merge_word).
void BpeModel::AppendCharacters(std::string_view piece, std::vector<int32_t>& symbols) const {
  bool after_unknown = false;
  for (size_t position = 0; position < piece.size();) {
    const size_t begin = position;
    const int32_t id = CharacterId(NextCodePoint(piece, position));
    const bool is_unknown = id < 0 && byte_tokens_.empty();
    if (id >= 0) {
      symbols.push_back(id);
    } else if (!byte_tokens_.empty()) {
      for (size_t i = begin; i < position; ++i) {
        symbols.push_back(byte_tokens_[static_cast<unsigned char>(piece[i])]);
      }
    } else if (unknown_.has_value() && !(fuse_unknown_ && after_unknown)) {
      symbols.push_back(*unknown_);
    }
    after_unknown = is_unknown;
  }
}

void BpeModel::IndexCharacters() {
  low_characters_.assign(kLowCharacters, -1);
  for (const auto& [token, id] : vocab_) {
    if (token.empty() || token.size() > 4) continue;
    size_t position = 0;
    const uint32_t code_point = NextCodePoint(token, position);
    if (position != token.size()) continue;
    if (code_point < kLowCharacters) {
      low_characters_[code_point] = id;
    } else {
      high_characters_.emplace(code_point, id);
    }
  }
}

void BpeModel::Forbid(const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) {
    if (forbidden_.size() <= static_cast<size_t>(id))
      forbidden_.resize(static_cast<size_t>(id) + 1);
    forbidden_[static_cast<size_t>(id)] = true;
  }
  const auto is_forbidden = [this](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < forbidden_.size() &&
           forbidden_[static_cast<size_t>(id)];
  };
  absl::erase_if(merges_, [&](const auto& entry) { return is_forbidden(entry.second.merged); });
  absl::erase_if(high_characters_, [&](const auto& entry) { return is_forbidden(entry.second); });
  for (int32_t& id : low_characters_) {
    if (is_forbidden(id)) id = -1;
  }
}

}  // namespace sluice
