// Ops on rows, one launch each. All pointers are memory of the device; row lists may be null for
// the identity. Strides are in elements. Shapes and formulae: kernels/backend.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/op_kinds.h"

namespace sluice::kernels::cuda {

// Rows of a matrix of floats.
struct DeviceRows {
  float* data = nullptr;
  int64_t stride = 0;
  const int32_t* index = nullptr;

  __device__ float* At(int64_t i) const {
    return data + (index == nullptr ? i : static_cast<int64_t>(index[i])) * stride;
  }
};

struct NormCall {
  NormKind kind;
  float epsilon;
  const float* weight;
  const float* bias;
  int64_t group;  // > 0
  int64_t groups;
  DeviceRows x, out;
  int32_t count;
};
cudaError_t LaunchNorm(const NormCall& call, cudaStream_t stream);

struct RopeTableCall {
  const int32_t* positions;
  const double* inverse_frequencies;
  int32_t count;
  int32_t num_frequencies;
  double factor;
  DeviceRows out;
};
cudaError_t LaunchRopeTable(const RopeTableCall& call, cudaStream_t stream);

struct RopeCall {
  DeviceRows x;
  DeviceRows table;
  int32_t count;
  int32_t num_heads;
  int32_t head_dim;
  int32_t half;
  RopeStyle style;
};
cudaError_t LaunchRope(const RopeCall& call, cudaStream_t stream);

struct ActivateCall {
  Activation activation;
  bool gated;
  SwigluClamp clamp;
  DeviceRows x, out;
  int32_t rows;
  int64_t width;  // of `out`
};
cudaError_t LaunchActivate(const ActivateCall& call, cudaStream_t stream);

// to[i] = from[i], + scale * from[i] when `add`.
struct CopyCall {
  DeviceRows from, to;
  int32_t rows;
  int64_t cols;
  bool add;
  float scale;
};
cudaError_t LaunchCopy(const CopyCall& call, cudaStream_t stream);

cudaError_t LaunchFill(
    const DeviceRows& x, int32_t rows, int64_t cols, float value, cudaStream_t stream);

struct CombineCall {
  DepthCombine combine;
  GateFunction gate;
  DeviceRows y, x;
  const float* scores;
  int32_t rows;
  int64_t cols;
};
cudaError_t LaunchCombineDepth(const CombineCall& call, cudaStream_t stream);

struct SelectCall {
  const float* scores;
  const float* thresholds;
  int32_t rows;
  int32_t* selected;  // [rows + 1]: the number of them stands at [rows]
};
cudaError_t LaunchSelectAbove(const SelectCall& call, cudaStream_t stream);

struct RouteCall {
  ScoreFunction score;
  int32_t top_k;
  bool renormalize;
  float renormalize_epsilon;
  float scale;
  const float* selection_bias;
  DeviceRows logits;
  int32_t rows;
  int32_t num_experts;
  int32_t num_groups;
  int32_t top_groups;
  GroupScore group_score;
  int32_t* experts;
  float* weights;
};
cudaError_t LaunchRoute(const RouteCall& call, cudaStream_t stream);

}  // namespace sluice::kernels::cuda
