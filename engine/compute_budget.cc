#include "engine/compute_budget.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr double kKept = 0.8;  // of what is smoothed, from one step to the next
constexpr double kShareKept =
    0.99;  // slower: what a row costs is the model's nature, not the load's

}  // namespace

void ComputeBudget::Observe(const Step& step) {
  flops_ = kShareKept * flops_ + step.flops;
  dense_flops_ = kShareKept * dense_flops_ + step.dense_flops;
  if (step.prefill_flops <= 0.0) {
    decode_seconds_ = decode_seconds_ == 0.0 ? step.seconds
                                             : kKept * decode_seconds_ + (1 - kKept) * step.seconds;
    return;
  }
  // Fewer or shorter sequences may decode now than when decode_seconds_ was learnt: some of the
  // time is always the prompt's.
  const double decoding = step.decodes ? std::min(decode_seconds_, 0.9 * step.seconds) : 0.0;
  prefill_seconds_ = kKept * prefill_seconds_ + step.seconds - decoding;
  prefill_flops_ = kKept * prefill_flops_ + step.prefill_flops;
}

double ComputeBudget::PrefillFlops(double dense_row_flops) const {
  if (prefill_seconds_ <= 0.0) return 0.0;
  const double seconds = std::max(0.0, max_step_seconds_ - decode_seconds_);
  return std::max(seconds * prefill_flops_ / prefill_seconds_, kMinPrefillRows * dense_row_flops);
}

double ComputeBudget::ExpectedShare(const ComputeUsage& usage) const {
  const bool own = usage.dense_flops > 0.0;
  const double flops = own ? usage.flops : flops_;
  const double dense = own ? usage.dense_flops : dense_flops_;
  // A share of nothing would let a prompt of any length into a step.
  return dense > 0.0 && flops > 0.0 ? flops / dense : 1.0;
}

}  // namespace sluice
