#include "server/load/arrivals.h"

#include <cmath>

namespace sluice::server {

uint64_t SplitMix64::Next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double SplitMix64::NextUnit() { return static_cast<double>((Next() >> 11) + 1) * 0x1p-53; }

std::vector<absl::Duration> PoissonArrivals(double rate, int32_t count, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<absl::Duration> arrivals;
  double seconds = 0.0;
  for (int32_t i = 0; i < count; ++i) {
    seconds -= std::log(random.NextUnit()) / rate;
    arrivals.push_back(absl::Seconds(seconds));
  }
  return arrivals;
}

}  // namespace sluice::server
