#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/request_error.h"
#include "engine/sampling/candidate_set.h"
#include "engine/sampling/softmax.h"
#include "engine/sampling/token_history.h"
#include "engine/sampling/uniform_random.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
// Below this, dividing by the temperature only makes infinities; as in vLLM.
constexpr float kGreedyTemperature = 1e-5f;

absl::Status NonFinite() {
  return RequestError(absl::StatusCode::kInternal, "nonfinite_logits", "",
                      "The model's output for this request was not a finite number.");
}

absl::Status NothingAllowed() {
  return BadRequest("no_token_allowed", "",
                    "The request's masks (allowed_token_ids, logit_bias, bad_words, min_tokens) "
                    "leave no token to choose.");
}

// The first token at which the running sum of weights passes `point`.
int32_t DrawDense(std::span<const float> weights, double point) {
  double sum = 0.0;
  size_t chosen = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0.0f) continue;
    chosen = i;
    sum += static_cast<double>(weights[i]);
    if (sum > point) break;
  }
  return static_cast<int32_t>(chosen);
}

}  // namespace

struct Sampler::State {
  State(const SamplingParams& sampling, int32_t size);

  void Mask(std::span<float> logits, std::span<const int32_t> forbidden);
  void KeepAllowed(std::span<float> logits);
  absl::StatusOr<int32_t> Pick(std::span<float> logits,
                               std::span<const int32_t> forbidden,
                               int32_t ahead);
  int32_t Choose(std::span<float> logits, int32_t best, int32_t ahead);
  void Filter(std::span<const float> logits, float max);

  bool HasTopK() const { return params.top_k > 0 && params.top_k < vocab_size; }
  bool HasTopP() const { return params.top_p < 1.0f; }
  bool HasMinP() const { return params.min_p > 0.0f; }
  bool HasTypical() const { return params.typical_p > 0.0f && params.typical_p < 1.0f; }
  bool HasFilter() const { return HasTopK() || HasTopP() || HasMinP() || HasTypical(); }
  bool HasMasks() const {
    return !params.allowed_token_ids.empty() || !params.logit_bias.empty() ||
           !params.bad_words.empty();
  }
  bool InVocabulary(int32_t token) const { return token >= 0 && token < vocab_size; }

  SamplingParams params;
  int32_t vocab_size = 0;
  TokenHistory history;
  std::vector<float> allowed_logits;  // scratch, one per allowed id
  std::vector<float> raw;             // scratch, only with logprobs
  CandidateSet candidates;            // scratch, only with filters
};

Sampler::State::State(const SamplingParams& sampling, int32_t size)
    : params(sampling), vocab_size(size), history(sampling, size) {
  const auto outside = [this](int32_t token) { return !InVocabulary(token); };
  std::erase_if(params.logit_bias, [&](const auto& entry) { return outside(entry.first); });
  allowed_logits.resize(params.allowed_token_ids.size());
}

void Sampler::State::Mask(std::span<float> logits, std::span<const int32_t> forbidden) {
  for (const auto& [token, bias] : params.logit_bias) logits[static_cast<size_t>(token)] += bias;
  if (!params.allowed_token_ids.empty()) KeepAllowed(logits);
  history.ForbidBadWords(logits);
  for (const int32_t token : forbidden) {
    if (InVocabulary(token)) logits[static_cast<size_t>(token)] = kForbidden;
  }
}

void Sampler::State::KeepAllowed(std::span<float> logits) {
  const std::vector<int32_t>& allowed = params.allowed_token_ids;
  for (size_t i = 0; i < allowed.size(); ++i) {
    if (InVocabulary(allowed[i])) allowed_logits[i] = logits[static_cast<size_t>(allowed[i])];
  }
  std::fill(logits.begin(), logits.end(), kForbidden);
  for (size_t i = 0; i < allowed.size(); ++i) {
    if (InVocabulary(allowed[i])) logits[static_cast<size_t>(allowed[i])] = allowed_logits[i];
  }
}

absl::StatusOr<int32_t> Sampler::State::Pick(std::span<float> logits,
                                             std::span<const int32_t> forbidden,
                                             int32_t ahead) {
  Mask(logits, forbidden);
  history.ApplyPenalties(logits);
  const int32_t best = ArgMax(logits);
  if (!AllFinite(logits)) return NonFinite();
  if (best < 0) return HasMasks() || !forbidden.empty() ? NothingAllowed() : NonFinite();
  return Choose(logits, best, ahead);
}

int32_t Sampler::State::Choose(std::span<float> logits, int32_t best, int32_t ahead) {
  if (params.temperature < kGreedyTemperature) return best;
  const float max = logits[static_cast<size_t>(best)];
  const auto index = static_cast<uint64_t>(history.num_generated() + ahead);
  const double uniform = UniformRandom(params.seed, index);
  if (HasFilter()) {
    Filter(logits, max);
    return candidates.Draw(uniform);
  }
  const double total = ExpInPlace(logits, max, 1.0f / params.temperature);
  return DrawDense(logits, uniform * total);
}

// Temperature, then min_p, top_k, top_p, typical_p. min_p compares with the largest weight, which
// top_k always keeps, so the two may change places; the cheaper one reads the vocabulary.
void Sampler::State::Filter(std::span<const float> logits, float max) {
  const auto temperature = static_cast<double>(params.temperature);
  // Room for the worst case, taken once; untouched pages cost nothing.
  candidates.ReserveTokens(logits.size());
  double total = 0.0;
  // A logit that weighs `ratio` of the largest, less what rounding may have moved it.
  const auto logit_at = [&](double ratio) {
    return static_cast<double>(max) + temperature * (std::log(ratio) - 1e-3);
  };
  if (HasTopK()) {
    candidates.TakeTop(logits, params.top_k);
  } else if (HasMinP()) {
    candidates.TakeAbove(logits, logit_at(static_cast<double>(params.min_p)));
  } else if (HasTopP()) {
    total = SumExp(logits, max, 1.0f / params.temperature);
    // Tokens below the average weight of the part that top_p drops weigh less than that part
    // together, so the rest reaches top_p without them.
    const double dropped = 1.0 - static_cast<double>(params.top_p);
    candidates.TakeAbove(logits, logit_at(dropped * total / static_cast<double>(logits.size())));
  } else {
    candidates.TakeAbove(logits, static_cast<double>(kForbidden));
  }
  candidates.Weigh(max, params.temperature);
  if (HasMinP()) candidates.KeepMinRatio(static_cast<double>(params.min_p));
  if (HasTopP()) {
    if (total == 0.0) total = candidates.TotalWeight();
    candidates.KeepMass(static_cast<double>(params.top_p) * total);
  }
  if (HasTypical()) candidates.KeepTypical(static_cast<double>(params.typical_p));
}

Sampler::Sampler(const SamplingParams& params, int32_t vocab_size)
    : state_(std::make_unique<State>(params, vocab_size)) {}
Sampler::~Sampler() = default;
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;

void Sampler::Append(int32_t token, bool generated) { state_->history.Append(token, generated); }

absl::StatusOr<Sampler::Choice> Sampler::Sample(std::span<float> logits,
                                                std::span<const int32_t> forbidden) {
  State& state = *state_;
  SLUICE_CHECK(logits.size() == static_cast<size_t>(state.vocab_size)) << logits.size();
  if (!AllFinite(logits)) return NonFinite();
  const bool wants_logprobs = state.params.logprobs.has_value();
  if (wants_logprobs) state.raw.assign(logits.begin(), logits.end());
  Choice choice;
  ASSIGN_OR_RETURN(choice.token, state.Pick(logits, forbidden, 0));
  if (wants_logprobs) {
    ASSIGN_OR_RETURN(choice.logprob, LogprobOf(state.raw, choice.token, *state.params.logprobs));
  }
  return choice;
}

absl::StatusOr<int32_t> Sampler::Guess(std::span<float> logits,
                                       std::span<const int32_t> forbidden,
                                       int32_t ahead) {
  SLUICE_CHECK(logits.size() == static_cast<size_t>(state_->vocab_size)) << logits.size();
  if (!AllFinite(logits)) return NonFinite();
  return state_->Pick(logits, forbidden, ahead);
}

absl::StatusOr<TokenLogprob> LogprobOf(std::span<const float> logits,
                                       int32_t token,
                                       int32_t num_top) {
  SLUICE_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size()) << token;
  const int32_t best = AllFinite(logits) ? ArgMax(logits) : -1;
  if (best < 0) return NonFinite();
  const float max = logits[static_cast<size_t>(best)];
  const double log_sum = std::log(SumExp(logits, max, 1.0f));
  const auto logprob_of = [&](float logit) {
    return static_cast<float>((static_cast<double>(logit) - static_cast<double>(max)) - log_sum);
  };
  TokenLogprob result;
  result.token = token;
  result.logprob = logprob_of(logits[static_cast<size_t>(token)]);
  if (num_top <= 0) return result;
  CandidateSet top;
  top.TakeTop(logits, std::min(num_top, static_cast<int32_t>(logits.size())));
  result.top.reserve(top.candidates().size());
  for (const Candidate& candidate : top.candidates()) {
    result.top.emplace_back(candidate.token, logprob_of(candidate.rank));
  }
  return result;
}

}  // namespace sluice
