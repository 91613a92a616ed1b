#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/limit_kernels.h"
#include "kernels/cuda/matrix_multiply.h"

namespace sluice::kernels::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
// Of a multiprocessor at a time: 32 warps, enough to hide the latency of loads and of products.
constexpr int kBlocks = 4;
constexpr int kLoads = 8;   // of a thread, under way together
constexpr int kChains = 8;  // sums of a thread that do not wait for each other
constexpr int kFmas = 16;   // of each chain in a round, so that counting rounds costs little

__global__ void EmptyKernel() {}

cudaError_t LaunchNothing(cudaStream_t stream) { return Launch(EmptyKernel, 1, kWarp, 0, stream); }

__global__ void ReadKernel(const uint4* data, int64_t count, float* sink) {
  const int64_t threads = int64_t{gridDim.x} * kThreads;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  uint32_t mixed = 0;
  for (int64_t i = first; i < count; i += kLoads * threads) {
    uint4 loaded[kLoads];
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
      const int64_t at = i + l * threads;
      loaded[l] = at < count ? data[at] : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int l = 0; l < kLoads; ++l) mixed ^= loaded[l].x ^ loaded[l].y ^ loaded[l].z ^ loaded[l].w;
  }
  if (mixed == 0x9E3779B9u) *sink = 1.0f;  // seldom; without a use the loads would not be there
}

cudaError_t LaunchRead(
    const void* data, int64_t bytes, int multiprocessors, float* sink, cudaStream_t stream) {
  return Launch(ReadKernel, static_cast<unsigned>(multiprocessors * kBlocks), kThreads, 0, stream,
                static_cast<const uint4*>(data), bytes / 16, sink);
}

// x <- factor x + addend, which stays where it starts when it is addend / (1 - factor).
__global__ void FmaKernel(int64_t rounds, float factor, float addend, float* sink) {
  float sums[kChains];
#pragma unroll
  for (int c = 0; c < kChains; ++c) sums[c] = addend + static_cast<float>(threadIdx.x + c);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma unroll
    for (int i = 0; i < kFmas; ++i) {
#pragma unroll
      for (int c = 0; c < kChains; ++c) sums[c] = fmaf(sums[c], factor, addend);
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int c = 0; c < kChains; ++c) sum += sums[c];
  if (sum == -1.0f) *sink = sum;  // never; without a use the products would not be there
}

// Pairs of 1 and -1 on one side and of 1 on the other: the sums stay 0, what is multiplied does
// not.
template <typename Sum>
__global__ void MatrixKernel(int64_t rounds, uint32_t pairs, uint32_t ones, float* sink) {
  const uint32_t a[4] = {pairs, pairs, pairs, pairs}, b[2] = {ones, ones};
  Sum sums[kChains][4] = {};
  for (int64_t r = 0; r < rounds; ++r) {
#pragma unroll
    for (int c = 0; c < kChains; ++c) MultiplyAdd(sums[c], a, b);
  }
  Sum sum = 0;
#pragma unroll
  for (int c = 0; c < kChains; ++c) sum += sums[c][0] + sums[c][1] + sums[c][2] + sums[c][3];
  if (sum == static_cast<Sum>(-1)) *sink = 1.0f;  // never
}

cudaError_t LaunchArithmetic(const ArithmeticCall& call, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(call.multiprocessors * kBlocks);
  switch (call.unit) {
    case ArithmeticUnit::kF32:
      return Launch(FmaKernel, blocks, kThreads, 0, stream, call.rounds, 0.5f, 1.0f, call.sink);
    case ArithmeticUnit::kBf16:
      return Launch(MatrixKernel<float>, blocks, kThreads, 0, stream, call.rounds, 0xBF803F80u,
                    0x3F803F80u, call.sink);
    case ArithmeticUnit::kInt8:
      return Launch(MatrixKernel<int32_t>, blocks, kThreads, 0, stream, call.rounds, 0xFF01FF01u,
                    0x01010101u, call.sink);
  }
  return cudaErrorInvalidValue;
}

double OperationsPerRound(ArithmeticUnit unit, int multiprocessors) {
  const double blocks = static_cast<double>(multiprocessors) * kBlocks;
  switch (unit) {
    case ArithmeticUnit::kF32:
      return blocks * kThreads * kChains * kFmas * 2;
    case ArithmeticUnit::kBf16:
      return blocks * kWarps * kChains * 16 * 8 * 16 * 2;
    case ArithmeticUnit::kInt8:
      return blocks * kWarps * kChains * 16 * 8 * 32 * 2;
  }
  return 0.0;
}

}  // namespace sluice::kernels::cuda
