// Small random models: a spec drawn from the whole supported grammar and weights to go with it,
// both functions of a seed. For the laws that must hold on any model.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "engine/model/model_spec.h"
#include "tests/support/memory_weight_store.h"
#include "tests/support/sanitized.h"

namespace sluice::testing {

// What to draw from; everything on by default.
struct SpecDraw {
  bool depth = true;         // Mixture-of-Depths layers
  bool experts = true;       // MoE feed-forwards and SwitchHead projections
  bool repeats = true;       // groups that run more than once
  bool topk_prompt = false;  // routers may take the top-k of the prompt, which must then be whole
  bool two_stacks = false;   // an encoder before the decoder; needs depth and repeats off
  bool encoder = false;      // instead of a decoder; needs depth and repeats off
};

// How many of them a law is tried on (house rules 7.6). A sanitizer is ten times slower and looks
// for other faults, which fewer specs show as well.
inline constexpr uint32_t kNumRandomSpecs = SLUICE_SANITIZED ? 50 : 500;

// Passes ValidateSpec.
ModelSpec RandomSpec(uint32_t seed, const SpecDraw& draw = {});

inline constexpr int32_t kPlainVocabulary = 61;
// A plain pre-norm model with `layers` layers: the base of degenerate-setting laws.
ModelSpec PlainSpec(int32_t layers);

// `count` ids in [0, vocab).
std::vector<int32_t> RandomTokens(uint32_t seed, int32_t count, int32_t vocab);

// Every tensor the spec names, normal with a scale that keeps activations near 1.
void FillWeights(const ModelSpec& spec, uint32_t seed, MemoryWeightStore& store);

}  // namespace sluice::testing
