// Draws of a seeded generator, and the parts that many random specs have.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>
#include <string>

#include "engine/model/model_spec.h"

namespace sluice::testing {

class Draw {
 public:
  explicit Draw(uint32_t seed) : engine_(seed) {}
  int32_t Int(int32_t lo, int32_t hi) {
    return std::uniform_int_distribution<int32_t>(lo, hi)(engine_);
  }
  bool Chance(double p) { return std::bernoulli_distribution(p)(engine_); }
  template <typename T>
  T Pick(std::initializer_list<T> values) {
    return *(values.begin() + Int(0, static_cast<int32_t>(values.size()) - 1));
  }

 private:
  std::mt19937 engine_;
};

inline NormSpec MakeNorm(const std::string& name, bool layer_norm) {
  NormSpec norm;
  norm.kind = layer_norm ? NormKind::kLayer : NormKind::kRms;
  norm.weight = name + ".weight";
  if (layer_norm) norm.bias = name + ".bias";
  return norm;
}

inline ProjectionSpec MakeProjection(
    const std::string& name, int64_t in, int64_t out, bool bias, bool transposed) {
  ProjectionSpec projection;
  projection.in = in;
  projection.out = out;
  projection.weight = name + ".weight";
  if (bias) projection.bias = name + ".bias";
  projection.transposed = transposed;
  return projection;
}

// Attentions of every kind but those of random_mixture.h.
AttentionSpec RandomAttention(const std::string& name, int64_t dim, Draw& draw, bool experts);
LatentAttentionSpec RandomLatentAttention(const std::string& name, int64_t dim, Draw& draw);

}  // namespace sluice::testing
