// The `decoder` of a tokenizer.json, as what one token adds to the text. The file format defines
// decoders on whole token lists; all supported ones act token by token, except for a strip at the
// start of the text, which `TokenText::starts` tells apart. Immutable after FromJson.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sluice {

class TokenDecoder {
 public:
  // `value` may be null: tokens are then joined by spaces. InvalidArgument for unknown types.
  static absl::StatusOr<TokenDecoder> FromJson(const nlohmann::json& value);

  // The bytes of a vocabulary token. `is_first`: it is the first of the text.
  std::string Decode(std::string_view token, bool is_first) const;

 private:
  enum class StepKind { kByteLevel, kByteFallback, kReplace, kStripToken, kStripText, kMetaspace };
  struct Step {
    StepKind kind = StepKind::kByteLevel;
    std::string from =
        {};               // what kReplace and kMetaspace look for, the character that kStrip* drops
    std::string to = {};  // what kReplace puts in its place
    int64_t start = 0;
    int64_t stop = 0;
    bool strip_first = false;  // kMetaspace: the text does not start with the marker
  };

  absl::Status Append(const nlohmann::json& value, bool& fused);
  absl::Status AppendSequence(const nlohmann::json& value, bool& fused);
  absl::Status AppendReplace(const nlohmann::json& value);
  absl::Status AppendMetaspace(const nlohmann::json& value);
  absl::Status AppendStrip(const nlohmann::json& value, bool fused);

  std::vector<Step> steps_;
  bool join_with_spaces_ = false;
};

}  // namespace sluice
