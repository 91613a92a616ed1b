// Monotonic time behind an interface, so that the simulator can own it. Wall time is only for logs.
#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace sluice {

class Clock {
 public:
  virtual ~Clock() = default;
  // Time since an arbitrary fixed point; never goes back. Any thread.
  virtual absl::Duration Now() const = 0;
};

class SteadyClock final : public Clock {
 public:
  absl::Duration Now() const override {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
};

}  // namespace sluice
