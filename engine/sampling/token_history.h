// What a sequence's past says about its next token: counts for the penalties and the tail that
// multi-token bad words are matched against. Kept up to date token by token, so that a step makes
// no pass over the history.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/request.h"

namespace sluice {

class TokenHistory {
 public:
  TokenHistory(const SamplingParams& params, int32_t vocab_size);

  void Append(int32_t token, bool generated);

  // -Inf for the last token of each bad word whose other tokens have just been generated.
  void ForbidBadWords(std::span<float> logits) const;
  // Repetition over prompt and output, then frequency and presence over the output (as vLLM and
  // OpenAI).
  void ApplyPenalties(std::span<float> logits) const;

  int64_t num_generated() const { return num_generated_; }

 private:
  bool counts_prompt_ = false;
  bool counts_output_ = false;
  float repetition_ = 1.0f;
  float presence_ = 0.0f;
  float frequency_ = 0.0f;
  int32_t vocab_size_ = 0;
  absl::flat_hash_map<int32_t, int32_t>
      counts_;  // token -> times generated; 0 when only in the prompt
  std::vector<std::vector<int32_t>> bad_words_;
  std::vector<int32_t> tail_;  // the last generated tokens, as many as the longest bad word needs
  size_t longest_prefix_ = 0;
  int64_t num_generated_ = 0;
};

}  // namespace sluice
