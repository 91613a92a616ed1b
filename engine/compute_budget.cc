#include "engine/compute_budget.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr double kKept = 0.8;  // of what is smoothed, from one step to the next
// Slower: what a row costs is the model's nature, not the load's.
constexpr double kShareKept = 0.99;
constexpr double kLeastShare = 0.1;  // of a mixed step's time, for either kind of row

}  // namespace

void ComputeBudget::Observe(const Step& step) {
  flops_ = kShareKept * flops_ + step.flops;
  dense_flops_ = kShareKept * dense_flops_ + step.dense_flops;
  if (step.prefill_flops <= 0.0) {
    decode_seconds_ = decode_seconds_ == 0.0 ? step.seconds
                                             : kKept * decode_seconds_ + (1 - kKept) * step.seconds;
    return;
  }
  double decoding = 0.0;
  if (step.decodes) {
    // Fewer sequences may decode now than when decode_seconds_ was learnt, and while prompts keep
    // coming no step without them will tell: at the known rate of prompts this is what is left.
    if (prefill_flops_ > 0.0) {
      const double rest = step.seconds - step.prefill_flops * prefill_seconds_ / prefill_flops_;
      decode_seconds_ = std::min(decode_seconds_, std::max(rest, kLeastShare * step.seconds));
    }
    decoding = std::min(decode_seconds_, (1.0 - kLeastShare) * step.seconds);
  }
  prefill_seconds_ = kKept * prefill_seconds_ + step.seconds - decoding;
  prefill_flops_ = kKept * prefill_flops_ + step.prefill_flops;
}

double ComputeBudget::PrefillFlops() const {
  if (prefill_seconds_ <= 0.0) return 0.0;
  const double seconds = std::max(0.0, max_step_seconds_ - decode_seconds_);
  return std::max(seconds * prefill_flops_ / prefill_seconds_, 1.0);
}

double ComputeBudget::ExpectedShare(const ComputeUsage& usage) const {
  const bool own = usage.dense_flops > 0.0;
  const double flops = own ? usage.flops : flops_;
  const double dense = own ? usage.dense_flops : dense_flops_;
  // A share of nothing would let a prompt of any length into a step.
  return dense > 0.0 && flops > 0.0 ? flops / dense : 1.0;
}

}  // namespace sluice
