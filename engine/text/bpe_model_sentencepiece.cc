// The merge model of a SentencePiece BPE file. There, two neighbours merge when their concatenation
// is a piece, best score first, leftmost first (google/sentencepiece, src/bpe_model.cc), which is a
// merge list ranked by the score of the result. Ours is several times faster than the library on
// long texts.
#include <algorithm>
#include <functional>
#include <utility>

#include "engine/text/bpe_model.h"
#include "engine/text/sentencepiece_file.h"

namespace sluice {
namespace {

bool StartsCharacter(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

}  // namespace

BpeModel BpeModel::FromSentencePiece(const SentencePieceFile& file) {
  BpeModel model;
  std::vector<float> scores;
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const SentencePieceEntry& entry = file.pieces[id];
    if (entry.kind == PieceKind::kByte && file.byte_fallback) {
      model.byte_tokens_.resize(256, -1);
      model.byte_tokens_[BytePieceValue(entry.piece)] = static_cast<int32_t>(id);
    }
    if (entry.kind == PieceKind::kUnknown) model.unknown_ = static_cast<int32_t>(id);
    if (entry.kind != PieceKind::kNormal) continue;
    model.vocab_.emplace(entry.piece, static_cast<int32_t>(id));
    scores.push_back(entry.score);
  }
  model.fuse_unknown_ = true;
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  for (const auto& [piece, id] : model.vocab_) {
    const float score = file.pieces[static_cast<size_t>(id)].score;
    const auto place = std::lower_bound(scores.begin(), scores.end(), score, std::greater<>());
    const auto rank = static_cast<int32_t>(place - scores.begin());
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      if (!StartsCharacter(piece[cut])) continue;
      const std::optional<int32_t> left = model.IdOf(std::string_view(piece).substr(0, cut));
      const std::optional<int32_t> right = model.IdOf(std::string_view(piece).substr(cut));
      if (left.has_value() && right.has_value()) model.merges_[PairKey(*left, *right)] = {rank, id};
    }
  }
  model.IndexCharacters();
  return model;
}

}  // namespace sluice
