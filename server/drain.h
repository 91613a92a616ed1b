// Decides, from signals and from what is still running, what the process does next. A state machine
// over an injected clock: no threads, no signal calls, no sockets (server/commands/serve.cc has
// those).
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "engine/clock.h"

namespace sluice::server {

class Drain {
 public:
  enum class Phase : uint8_t {
    kServing,
    kDraining,  // readiness is down, new requests get 503, running ones go on
    kFinish,    // nothing runs any more, or the time is over: close listeners, exit 0
    kExitNow,   // a second signal: exit without waiting
  };
  enum class Signal : uint8_t { kTerminate, kInterrupt };

  Drain(const Clock& clock, absl::Duration timeout) : clock_(clock), timeout_(timeout) {}

  // `active`: requests accepted and not finished. Terminate starts draining; Interrupt too, but
  // exits at once when nothing runs; a second signal of either kind exits at once.
  Phase OnSignal(Signal signal, int64_t active);
  // Call often while draining. Phases only go forward.
  Phase Poll(int64_t active);

  Phase phase() const { return phase_; }
  // True when kFinish was reached with requests still running.
  bool timed_out() const { return timed_out_; }

 private:
  const Clock& clock_;
  const absl::Duration timeout_;
  absl::Duration started_at_ = absl::ZeroDuration();
  Phase phase_ = Phase::kServing;
  bool timed_out_ = false;
};

}  // namespace sluice::server
