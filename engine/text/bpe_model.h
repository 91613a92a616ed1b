// The merge model of a tokenizer.json of type BPE: vocabulary, ranked merges, byte fallback.
// Encodes one piece at a time; splitting text into pieces is pre_tokenizer.h's work. Immutable
// after FromJson.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sluice {

inline constexpr int64_t kMaxVocabSize = int64_t{1} << 21;
inline constexpr int64_t kMaxMerges = int64_t{1} << 22;

struct SentencePieceFile;

class BpeModel {
 public:
  // InvalidArgument when ids are negative, repeated or too large, a merge names a token that is not
  // in the vocabulary, or the model asks for what is not implemented (dropout, subword affixes).
  static absl::StatusOr<BpeModel> FromJson(const nlohmann::json& model);

  // The model of a checked SentencePiece file of type BPE; user-defined pieces are left to the
  // caller.
  static BpeModel FromSentencePiece(const SentencePieceFile& file);

  // Ids that plain text must never become (special tokens). Merges into them are dropped.
  void Forbid(const std::vector<int32_t>& ids);

  // Appends the ids of `piece` (well-formed UTF-8). O(n log n).
  void Encode(std::string_view piece, std::vector<int32_t>& ids) const;

  std::optional<int32_t> IdOf(std::string_view token) const;
  const absl::flat_hash_map<std::string, int32_t>& vocab() const { return vocab_; }

 private:
  struct Merge {
    int32_t rank = 0;
    int32_t merged = -1;
  };
  class LongPiece;

  static uint64_t PairKey(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  absl::Status ReadVocab(const nlohmann::json& model);
  absl::Status ReadMerges(const nlohmann::json& model);
  absl::Status AddMerge(std::string_view left, std::string_view right, int32_t rank);
  void IndexCharacters();

  const Merge* FindMerge(int32_t left, int32_t right) const;
  int32_t CharacterId(uint32_t code_point) const;
  void AppendCharacters(std::string_view piece, std::vector<int32_t>& symbols) const;
  void MergeShort(std::vector<int32_t>& symbols) const;

  absl::flat_hash_map<std::string, int32_t> vocab_;
  absl::flat_hash_map<uint64_t, Merge> merges_;  // by PairKey
  std::vector<int32_t> low_characters_;          // id of each code point < 0x800, or -1
  absl::flat_hash_map<uint32_t, int32_t> high_characters_;
  std::vector<int32_t> byte_tokens_;  // ids of <0x00>..<0xFF>, empty without byte fallback
  std::vector<bool> forbidden_;       // by id; empty when nothing is forbidden
  std::optional<int32_t> unknown_;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace sluice
