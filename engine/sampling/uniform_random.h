// Counter-based random numbers: number `index` of stream `seed` is a pure function of both, so a
// token's choice does not depend on how often or in which order numbers were drawn. Not for
// secrets.
#pragma once

#include <cstdint>

namespace sluice {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014: "Fast splittable pseudorandom number
// generators").
constexpr uint64_t MixBits(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  return bits ^ (bits >> 31);
}

// Uniform in [0, 1), a multiple of 2^-53.
constexpr double UniformRandom(uint64_t seed, uint64_t index) {
  constexpr uint64_t kGamma = 0x9E3779B97F4A7C15u;
  const uint64_t stream = MixBits(seed + kGamma);
  const uint64_t bits = MixBits(MixBits(stream + (index + 1) * kGamma) ^ stream);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace sluice
