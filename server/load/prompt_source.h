// Prompts of a load: a different one for every request, so that no cache of prefixes helps, and the
// same ones for every server.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace sluice::server {

class PromptSource {
 public:
  // Pseudo-random ids below `vocab_size`.
  static PromptSource TokenIds(int32_t tokens, int32_t vocab_size, uint64_t seed);
  // Pieces of a UTF-8 file from pseudo-random places; it starts again at its end. InvalidArgument
  // when the file cannot be read, is empty, larger than 64 MiB, or not UTF-8.
  static absl::StatusOr<PromptSource> Text(const std::string& file, int32_t tokens, uint64_t seed);

  bool is_text() const { return !text_.empty(); }
  // Prompt `index` as JSON: a list of ids, or a string.
  std::string Json(int64_t index) const;
  // A server counted `counted` tokens in a prompt made until now: later pieces of text are cut
  // longer or shorter by that.
  void Calibrate(int64_t counted);

 private:
  int32_t tokens_ = 0;
  int32_t vocab_size_ = 0;
  uint64_t seed_ = 0;
  std::string text_;
  double bytes_per_token_ = 4.0;
};

}  // namespace sluice::server
