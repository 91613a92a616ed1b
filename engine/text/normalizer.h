// The `normalizer` of a tokenizer.json: rewrites text before it is split. Linear in the text for
// any input, long runs of combining marks included. Immutable after FromJson.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sluice {

class Normalizer {
 public:
  virtual ~Normalizer() = default;

  // `value` may be null (no normaliser: the result is null too). InvalidArgument for unknown types.
  static absl::StatusOr<std::unique_ptr<Normalizer>> FromJson(const nlohmann::json& value);

  // InvalidArgument when the text grows beyond 16 times its size + 1 KiB.
  virtual absl::StatusOr<std::string> Apply(std::string text) const = 0;
};

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// Source: Unicode Standard Annex 15. Marks are sorted with a stable sort per run, which is O(n log
// n) where utf8proc's own decomposition is quadratic.
std::string NormalizeUnicode(std::string_view text, UnicodeForm form);

}  // namespace sluice
