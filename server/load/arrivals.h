// When requests of an open loop are sent, whatever the server does. The same seed gives the same
// times on every machine, so that every server sees one load.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace sluice::server {

// A generator whose whole state is a counter: SplitMix64 (Steele, Lea, Flood 2014, fig. 18).
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // In (0, 1].
  double NextUnit();

 private:
  uint64_t state_;
};

// `count` arrivals of a Poisson process of `rate` per second: gaps are -ln(u) / rate. Ascending.
std::vector<absl::Duration> PoissonArrivals(double rate, int32_t count, uint64_t seed);

}  // namespace sluice::server
