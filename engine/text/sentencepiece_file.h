// A checked reading of a SentencePiece `tokenizer.model` (a serialised ModelProto). Not an encoder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice {

// Values of ModelProto.SentencePiece.Type.
enum class PieceKind {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

struct SentencePieceEntry {
  std::string piece;
  float score = 0;
  PieceKind kind = PieceKind::kNormal;
};

// The byte that a checked piece <0x00>..<0xFF> of kind kByte stands for.
unsigned char BytePieceValue(std::string_view piece);

struct SentencePieceFile {
  std::vector<SentencePieceEntry> pieces;  // by id
  bool is_bpe = false;                     // else unigram
  bool byte_fallback = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool whitespace_is_suffix = false;
  bool has_character_map = false;

  // InvalidArgument when the bytes are no well-formed ModelProto, a piece is empty, repeated, too
  // long or has a score that is not finite, or there is not exactly one unknown piece.
  static absl::StatusOr<SentencePieceFile> Parse(std::string_view bytes);
  // The same rules for pieces from elsewhere; the message names the piece, not the file.
  absl::Status Check() const;
};

}  // namespace sluice
