// How many FLOPs of prompt rows a step may take while others decode, learnt from the steps before.
//
// A decode row mostly waits for weights, a prompt row for arithmetic, so a step's time is taken as
// that of its decode rows (steps without prompt rows tell it) and so many seconds for each FLOP of
// its prompt rows. What a row will cost is not known before it was routed: its share of the
// dense model's FLOPs is taken as that of the request's own rows so far, or of all.
#pragma once

#include <cstdint>

#include "engine/request.h"

namespace sluice {

class ComputeBudget {
 public:
  // `max_step_seconds`: what a step that decodes should stay under.
  explicit ComputeBudget(double max_step_seconds) : max_step_seconds_(max_step_seconds) {}

  // What one step ran: FLOPs as executed, of prompt rows (`prefill`) and of all; `dense`: what all
  // of its rows had cost without any skipping.
  struct Step {
    double seconds = 0.0;
    bool decodes = false;
    double prefill_flops = 0.0;
    double flops = 0.0;
    double dense_flops = 0.0;
  };
  void Observe(const Step& step);

  // 0 while nothing was measured, which caps nothing; the least above it when decoding alone fills
  // a step.
  double PrefillFlops() const;

  // Executed over dense FLOPs that the next rows of a request with this usage should have.
  double ExpectedShare(const ComputeUsage& usage) const;

 private:
  double max_step_seconds_;
  double decode_seconds_ = 0.0;  // of a step's decode rows, smoothed
  // Sums over the steps with prompt rows, older ones fading: long chunks count for more than short
  // ones, whose time is that of reading weights.
  double prefill_seconds_ = 0.0;
  double prefill_flops_ = 0.0;
  double flops_ = 0.0;
  double dense_flops_ = 0.0;
};

}  // namespace sluice
