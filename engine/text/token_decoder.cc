#include "engine/text/token_decoder.h"

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kMaxSteps = 32;
constexpr size_t kByteLevelEnd = 0x180;

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer decoder: ", message));
}

const std::array<int16_t, kByteLevelEnd>& ByteOfCodePoint() {
  static const auto* table = [] {
    auto* bytes = new std::array<int16_t, kByteLevelEnd>();
    bytes->fill(-1);
    for (int16_t byte = 0; byte < 256; ++byte) {
      (*bytes)[ByteLevelCodePoint(static_cast<unsigned char>(byte))] = byte;
    }
    return bytes;
  }();
  return *table;
}

// A token with a character outside the byte alphabet stands for itself.
std::string DecodeByteLevel(std::string_view token) {
  std::string bytes;
  for (size_t position = 0; position < token.size();) {
    const uint32_t code_point = NextCodePoint(token, position);
    const int16_t byte = code_point < kByteLevelEnd ? ByteOfCodePoint()[code_point] : int16_t{-1};
    if (byte < 0) return std::string(token);
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::string DecodeByteFallback(std::string token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return token;
  const int high = HexDigit(token[3]);
  const int low = HexDigit(token[4]);
  if (high < 0 || low < 0) return token;
  return std::string(1, static_cast<char>(high * 16 + low));
}

std::string Strip(std::string text, std::string_view content, int64_t start, int64_t stop) {
  std::string_view rest = text;
  for (int64_t i = 0; i < start && rest.starts_with(content); ++i)
    rest.remove_prefix(content.size());
  for (int64_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
  return std::string(rest);
}

}  // namespace

absl::StatusOr<TokenDecoder> TokenDecoder::FromJson(const json& value) {
  TokenDecoder decoder;
  decoder.join_with_spaces_ = value.is_null();
  bool fused = false;
  if (!value.is_null()) RETURN_IF_ERROR(decoder.Append(value, fused));
  return decoder;
}

absl::Status TokenDecoder::Append(const json& value, bool& fused) {
  const absl::StatusOr<std::string> name = ReadString(value, "type");
  if (!name.ok()) return name.status();
  const std::string_view type = *name;
  if (steps_.size() >= kMaxSteps) return Invalid("too many steps");
  if (type == "Sequence") return AppendSequence(value, fused);
  if (type == "Strip") return AppendStrip(value, fused);
  if (type == "Replace") return AppendReplace(value);
  if (type == "Metaspace") return AppendMetaspace(value);
  if (type == "ByteLevel") {
    steps_.push_back({.kind = StepKind::kByteLevel});
  } else if (type == "ByteFallback") {
    steps_.push_back({.kind = StepKind::kByteFallback});
  } else if (type == "Fuse") {
    fused = true;
  } else {
    return Invalid(absl::StrCat("type is not supported: ", name->substr(0, 32)));
  }
  return absl::OkStatus();
}

absl::Status TokenDecoder::AppendReplace(const json& value) {
  const json* pattern = FindMember(value, "pattern");
  if (pattern == nullptr || !pattern->is_object()) return Invalid("Replace needs a pattern");
  ASSIGN_OR_RETURN(std::string from, ReadString(*pattern, "String"));
  if (from.empty()) return Invalid("Replace needs a pattern");
  ASSIGN_OR_RETURN(std::string to, ReadString(value, "content"));
  steps_.push_back({.kind = StepKind::kReplace, .from = std::move(from), .to = std::move(to)});
  return absl::OkStatus();
}

absl::Status TokenDecoder::AppendMetaspace(const json& value) {
  ASSIGN_OR_RETURN(std::string marker, ReadString(value, "replacement", "\xE2\x96\x81"));
  if (marker.empty()) return Invalid("Metaspace needs a replacement");
  ASSIGN_OR_RETURN(const bool add_prefix, ReadBool(value, "add_prefix_space", true));
  ASSIGN_OR_RETURN(const std::string scheme,
                   ReadString(value, "prepend_scheme", add_prefix ? "always" : "never"));
  steps_.push_back(
      {.kind = StepKind::kMetaspace, .from = std::move(marker), .strip_first = scheme != "never"});
  return absl::OkStatus();
}

absl::Status TokenDecoder::AppendSequence(const json& value, bool& fused) {
  const json* list = FindMember(value, "decoders");
  if (list == nullptr || !list->is_array()) return Invalid("Sequence needs a list");
  for (const json& item : *list) RETURN_IF_ERROR(Append(item, fused));
  return absl::OkStatus();
}

absl::Status TokenDecoder::AppendStrip(const json& value, bool fused) {
  ASSIGN_OR_RETURN(std::string content, ReadString(value, "content", " "));
  ASSIGN_OR_RETURN(const int64_t start, ReadInt(value, "start", 0, 1024, 0));
  ASSIGN_OR_RETURN(const int64_t stop, ReadInt(value, "stop", 0, 1024, 0));
  if (content.empty()) return Invalid("Strip needs a character");
  if (fused && stop != 0) return Invalid("a strip at the end of the text cannot be streamed");
  steps_.push_back({.kind = fused ? StepKind::kStripText : StepKind::kStripToken,
                    .from = std::move(content),
                    .start = start,
                    .stop = stop});
  return absl::OkStatus();
}

std::string TokenDecoder::Decode(std::string_view token, bool is_first) const {
  if (join_with_spaces_) return std::string(is_first ? "" : " ").append(token);
  std::string text(token);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case StepKind::kByteLevel:
        text = DecodeByteLevel(text);
        break;
      case StepKind::kByteFallback:
        text = DecodeByteFallback(std::move(text));
        break;
      case StepKind::kReplace:
        text = absl::StrReplaceAll(text, {{step.from, step.to}});
        break;
      case StepKind::kStripToken:
        text = Strip(std::move(text), step.from, step.start, step.stop);
        break;
      case StepKind::kStripText:
        if (is_first) text = Strip(std::move(text), step.from, step.start, 0);
        break;
      case StepKind::kMetaspace:
        if (is_first && step.strip_first) text = Strip(std::move(text), step.from, 1, 0);
        text = absl::StrReplaceAll(text, {{step.from, " "}});
        break;
    }
  }
  return text;
}

}  // namespace sluice
