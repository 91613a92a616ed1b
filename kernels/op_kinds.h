// The choices that ops take, as plain types: device code sees no more of backend.h.
#pragma once

#include <cstdint>

namespace sluice::kernels {

enum class Activation : uint8_t { kNone, kSilu, kRelu, kGelu, kGeluTanh, kTanh, kClampedSwiglu };
enum class NormKind : uint8_t { kRms, kLayer };
enum class RopeStyle : uint8_t { kHalf, kInterleaved };
enum class ScoreFunction : uint8_t { kSoftmax, kSigmoid, kSoftmaxOverTopK };
// How a group of experts is ranked: by its largest score, or by the sum of its two largest.
enum class GroupScore : uint8_t { kMax, kTopTwoSum };
enum class GateFunction : uint8_t { kIdentity, kSigmoid, kOne, kTanh };
enum class DepthCombine : uint8_t { kScaledUpdate, kPlusBlock, kOnlyBlock };

// Of kClampedSwiglu, which is gated only: with g = min(gate, limit) and u = up clamped to [-limit,
// limit] it is g sigmoid(alpha g) (u + 1) (openai/gpt-oss, gpt_oss/torch/model.py, swiglu).
struct SwigluClamp {
  float alpha = 1.702f;
  float limit = 7.0f;
  bool operator==(const SwigluClamp&) const = default;
};

}  // namespace sluice::kernels
