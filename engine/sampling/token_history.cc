#include "engine/sampling/token_history.h"

#include <algorithm>
#include <limits>

namespace sluice {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

}  // namespace

TokenHistory::TokenHistory(const SamplingParams& params, int32_t vocab_size)
    : counts_prompt_(params.repetition_penalty != 1.0f),
      counts_output_(counts_prompt_ || params.presence_penalty != 0.0f ||
                     params.frequency_penalty != 0.0f),
      repetition_(params.repetition_penalty),
      presence_(params.presence_penalty),
      frequency_(params.frequency_penalty),
      vocab_size_(vocab_size) {
  const auto in_vocabulary = [=](int32_t token) { return token >= 0 && token < vocab_size; };
  for (const auto& word : params.bad_words) {
    // A word with a token that does not exist can never be completed.
    if (word.empty() || !std::all_of(word.begin(), word.end(), in_vocabulary)) continue;
    bad_words_.push_back(word);
    longest_prefix_ = std::max(longest_prefix_, word.size() - 1);
  }
  tail_.reserve(longest_prefix_ + 1);
}

void TokenHistory::Append(int32_t token, bool generated) {
  num_generated_ += generated ? 1 : 0;
  if (token < 0 || token >= vocab_size_) return;
  if (generated && counts_output_) ++counts_[token];
  if (!generated && counts_prompt_) counts_.try_emplace(token, 0);
  if (!generated || longest_prefix_ == 0) return;
  tail_.push_back(token);
  if (tail_.size() > longest_prefix_) tail_.erase(tail_.begin());
}

void TokenHistory::ForbidBadWords(std::span<float> logits) const {
  for (const std::vector<int32_t>& word : bad_words_) {
    const auto prefix = static_cast<ptrdiff_t>(word.size()) - 1;
    if (prefix > static_cast<ptrdiff_t>(tail_.size())) continue;
    const bool completes = std::equal(word.begin(), word.end() - 1, tail_.end() - prefix);
    if (completes) logits[static_cast<size_t>(word.back())] = kForbidden;
  }
}

void TokenHistory::ApplyPenalties(std::span<float> logits) const {
  for (const auto& [token, count] : counts_) {
    float& logit = logits[static_cast<size_t>(token)];
    if (counts_prompt_) logit = logit > 0.0f ? logit / repetition_ : logit * repetition_;
    if (count == 0) continue;
    logit -= frequency_ * static_cast<float>(count);
    logit -= presence_;
  }
}

}  // namespace sluice
