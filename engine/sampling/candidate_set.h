// The tokens that may still be chosen, cut down filter by filter. Only as much of the vocabulary is
// sorted as a filter needs. Order everywhere: rank descending, then token ascending.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

struct Candidate {
  double weight = 0.0;  // probability before normalisation
  float rank = 0.0f;    // the logit, until KeepTypical
  int32_t token = 0;
};

class CandidateSet {
 public:
  void ReserveTokens(size_t vocab_size) { candidates_.reserve(vocab_size); }

  // Each of these starts a new set.
  // All tokens with a logit of at least `lowest`, except -Inf.
  void TakeAbove(std::span<const float> logits, double lowest);
  // The `k` best, in order.
  void TakeTop(std::span<const float> logits, int32_t k);

  // weight = exp((logit - max) / temperature), for all in the set.
  void Weigh(float max, float temperature);

  // Drops those with less than `ratio` of the largest weight, which is 1.
  void KeepMinRatio(double ratio);
  // Keeps the shortest prefix of the order that weighs at least `mass`, one at least, in any
  // arrangement.
  void KeepMass(double mass);
  // Keeps those whose surprise is nearest to the entropy, until they have `share` of the weight.
  // Meister et al. 2023, "Locally Typical Sampling", section 4; as in Hugging Face's
  // TypicalLogitsWarper.
  void KeepTypical(double share);

  double TotalWeight() const;
  // The candidate that the point `uniform` in [0, 1) falls on.
  int32_t Draw(double uniform) const;

  std::span<const Candidate> candidates() const { return candidates_; }

 private:
  std::vector<Candidate> candidates_;
};

}  // namespace sluice
