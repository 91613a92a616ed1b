// Chooses one token from one row of logits. Deterministic: the choice depends on (logits, params,
// history, number of generated tokens), never on other rows. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/request.h"

namespace sluice {

// Per-sequence sampling state: counts for penalties, the allowed set, scratch for the vocabulary.
// `Append` is called for every prompt and generated token, so that a step costs no pass over the
// history.
class Sampler {
 public:
  Sampler(const SamplingParams& params, int32_t vocab_size);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;

  void Append(int32_t token, bool generated);

  struct Choice {
    int32_t token = 0;
    TokenLogprob logprob;  // filled when params.logprobs is set
  };
  // `logits`: [vocab_size], may be changed in place. `forbidden`: ids that may not be chosen now
  // (EOS before min_tokens). Internal `nonfinite_logits` when a logit is NaN or +Inf;
  // InvalidArgument `no_token_allowed` when the masks leave none. The random number of generated
  // token i is a pure function of (seed, i).
  absl::StatusOr<Choice> Sample(std::span<float> logits, std::span<const int32_t> forbidden);
  // A guess at what Sample will choose `ahead` tokens later, from a draft's logits: the same rule
  // and the random number of that token, with the history as it is now. Same errors.
  absl::StatusOr<int32_t> Guess(std::span<float> logits,
                                std::span<const int32_t> forbidden,
                                int32_t ahead);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// log-softmax of row `logits` at `token` with the `num_top` best alternatives (value desc, index
// asc). Accumulates in double in index order. Internal `nonfinite_logits` on NaN or +Inf.
absl::StatusOr<TokenLogprob> LogprobOf(std::span<const float> logits,
                                       int32_t token,
                                       int32_t num_top);

}  // namespace sluice
