#include "engine/text/sentencepiece_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/bpe_model.h"

namespace sluice {
namespace {

constexpr size_t kMaxPieceBytes = 512;

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.model: ", message));
}

struct Field {
  uint32_t number = 0;
  uint32_t wire_type = 0;  // 0 varint, 1 64-bit, 2 bytes, 5 32-bit
  uint64_t value = 0;
  std::string_view bytes;
};

// Protocol Buffers wire format; every length is checked against what is left.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : rest_(bytes) {}

  bool at_end() const { return rest_.empty(); }

  std::optional<Field> Next() {
    const std::optional<uint64_t> key = Varint();
    if (!key.has_value() || *key > UINT32_MAX) return std::nullopt;
    Field field{.number = static_cast<uint32_t>(*key >> 3),
                .wire_type = static_cast<uint32_t>(*key & 7),
                .value = 0,
                .bytes = {}};
    std::optional<uint64_t> value;
    switch (field.wire_type) {
      case 0:
        value = Varint();
        break;
      case 1:
        value = Fixed(8);
        break;
      case 5:
        value = Fixed(4);
        break;
      case 2: {
        value = Varint();
        if (!value.has_value() || *value > rest_.size()) return std::nullopt;
        field.bytes = rest_.substr(0, *value);
        rest_.remove_prefix(*value);
        break;
      }
      default:
        return std::nullopt;
    }
    if (!value.has_value()) return std::nullopt;
    field.value = *value;
    return field;
  }

 private:
  std::optional<uint64_t> Varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  }
  std::optional<uint64_t> Fixed(size_t size) {
    if (rest_.size() < size) return std::nullopt;
    uint64_t value = 0;
    std::memcpy(&value, rest_.data(), size);
    rest_.remove_prefix(size);
    return value;
  }

  std::string_view rest_;
};

constexpr std::string_view kHexDigits = "0123456789ABCDEF";

bool IsBytePiece(const std::string& piece) {
  return piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with(">") &&
         piece.find_first_not_of(kHexDigits, 3) == 5;
}

absl::StatusOr<SentencePieceEntry> ReadPiece(std::string_view bytes) {
  SentencePieceEntry entry;
  WireReader reader(bytes);
  while (!reader.at_end()) {
    const std::optional<Field> field = reader.Next();
    if (!field.has_value()) return Invalid("truncated piece");
    if (field->number == 1) {
      entry.piece = field->bytes;
    } else if (field->number == 2) {
      if (field->wire_type != 5) return Invalid("a score is not a float");
      entry.score = std::bit_cast<float>(static_cast<uint32_t>(field->value));
    } else if (field->number == 3) {
      if (field->value < 1 || field->value > 6) return Invalid("unknown piece type");
      entry.kind = static_cast<PieceKind>(field->value);
    }
  }
  return entry;
}

absl::Status CheckPiece(const SentencePieceEntry& entry) {
  const auto invalid = [](const char* rule) { return absl::InvalidArgumentError(rule); };
  if (entry.piece.empty() || entry.piece.size() > kMaxPieceBytes || !IsValidUtf8(entry.piece) ||
      entry.piece.find('\0') != std::string::npos) {
    return invalid("is empty, longer than 512 bytes or not text");
  }
  if (!std::isfinite(entry.score)) return invalid("has a score that is not finite");
  if (entry.kind == PieceKind::kByte && !IsBytePiece(entry.piece))
    return invalid("is marked as a byte but is not <0x00> to <0xFF>");
  return absl::OkStatus();
}

absl::Status ReadNormalizer(std::string_view bytes, SentencePieceFile& file) {
  WireReader reader(bytes);
  while (!reader.at_end()) {
    const std::optional<Field> field = reader.Next();
    if (!field.has_value()) return Invalid("truncated normalizer");
    if (field->number == 2) file.has_character_map = !field->bytes.empty();
    if (field->number == 3) file.add_dummy_prefix = field->value != 0;
    if (field->number == 4) file.remove_extra_whitespaces = field->value != 0;
    if (field->number == 5) file.escape_whitespaces = field->value != 0;
  }
  return absl::OkStatus();
}

absl::Status ReadTrainer(std::string_view bytes, SentencePieceFile& file) {
  constexpr uint32_t kModelType = 3;
  constexpr uint32_t kWhitespaceAsSuffix = 24;
  constexpr uint32_t kByteFallback = 35;
  WireReader reader(bytes);
  while (!reader.at_end()) {
    const std::optional<Field> field = reader.Next();
    if (!field.has_value()) return Invalid("truncated trainer");
    if (field->number == kWhitespaceAsSuffix) file.whitespace_is_suffix = field->value != 0;
    if (field->number == kByteFallback) file.byte_fallback = field->value != 0;
    if (field->number != kModelType) continue;
    if (field->value != 1 && field->value != 2) {
      return Invalid("only unigram and BPE models are supported");
    }
    file.is_bpe = field->value == 2;
  }
  return absl::OkStatus();
}

}  // namespace

unsigned char BytePieceValue(std::string_view piece) {
  return static_cast<unsigned char>(kHexDigits.find(piece[3]) * 16 + kHexDigits.find(piece[4]));
}

absl::StatusOr<SentencePieceFile> SentencePieceFile::Parse(std::string_view bytes) {
  SentencePieceFile file;
  WireReader reader(bytes);
  while (!reader.at_end()) {
    const std::optional<Field> field = reader.Next();
    if (!field.has_value()) return Invalid("not a SentencePiece model");
    const bool known = field->number >= 1 && field->number <= 5;
    if (known && field->wire_type != 2) return Invalid("not a SentencePiece model");
    if (field->number == 1) {
      ASSIGN_OR_RETURN(SentencePieceEntry entry, ReadPiece(field->bytes));
      file.pieces.push_back(std::move(entry));
      if (file.pieces.size() > static_cast<size_t>(kMaxVocabSize))
        return Invalid("too many pieces");
    } else if (field->number == 2) {
      RETURN_IF_ERROR(ReadTrainer(field->bytes, file));
    } else if (field->number == 3 || field->number == 5) {
      SentencePieceFile ignored;
      RETURN_IF_ERROR(ReadNormalizer(field->bytes, field->number == 3 ? file : ignored));
    }
  }
  const absl::Status status = file.Check();
  if (!status.ok()) return Invalid(std::string(status.message()));
  return file;
}

absl::Status SentencePieceFile::Check() const {
  absl::flat_hash_set<std::string_view> seen;
  int num_unknown = 0;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const absl::Status status = CheckPiece(pieces[id]);
    if (!status.ok())
      return absl::InvalidArgumentError(absl::StrCat("piece ", id, " ", status.message()));
    if (!seen.insert(pieces[id].piece).second)
      return absl::InvalidArgumentError(absl::StrCat("piece ", id, " is repeated"));
    num_unknown += pieces[id].kind == PieceKind::kUnknown ? 1 : 0;
  }
  if (num_unknown != 1)
    return absl::InvalidArgumentError("there must be one unknown piece (<unk>)");
  return absl::OkStatus();
}

}  // namespace sluice
