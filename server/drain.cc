#include "server/drain.h"

namespace sluice::server {

Drain::Phase Drain::OnSignal(Signal signal, int64_t active) {
  if (phase_ != Phase::kServing) {
    phase_ = Phase::kExitNow;
    return phase_;
  }
  if (signal == Signal::kInterrupt && active == 0) {
    phase_ = Phase::kExitNow;
    return phase_;
  }
  phase_ = Phase::kDraining;
  started_at_ = clock_.Now();
  return phase_;
}

Drain::Phase Drain::Poll(int64_t active) {
  if (phase_ != Phase::kDraining) return phase_;
  if (active == 0) {
    phase_ = Phase::kFinish;
  } else if (clock_.Now() - started_at_ >= timeout_) {
    timed_out_ = true;
    phase_ = Phase::kFinish;
  }
  return phase_;
}

}  // namespace sluice::server
