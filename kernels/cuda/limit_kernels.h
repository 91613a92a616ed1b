// Kernels that do nothing but keep one part of the device busy, to measure what it can do at best.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace sluice::kernels::cuda {

// Starts nothing else: what a launch costs.
cudaError_t LaunchNothing(cudaStream_t stream);

// Reads `bytes` (a multiple of 16) of `data` once, 16 bytes a load. `sink` takes a float.
cudaError_t LaunchRead(
    const void* data, int64_t bytes, int multiprocessors, float* sink, cudaStream_t stream);

enum class ArithmeticUnit : uint8_t {
  kF32,   // fma
  kBf16,  // mma.sync.m16n8k16
  kInt8,  // mma.sync.m16n8k32
};

// Multiply-adds on registers only, `rounds` rounds of them in every thread. `sink` takes a float.
struct ArithmeticCall {
  ArithmeticUnit unit = ArithmeticUnit::kF32;
  int64_t rounds = 0;
  int multiprocessors = 0;
  float* sink = nullptr;
};
cudaError_t LaunchArithmetic(const ArithmeticCall& call, cudaStream_t stream);
// Of the whole launch, an addition and a multiplication counted as two.
double OperationsPerRound(ArithmeticUnit unit, int multiprocessors);

}  // namespace sluice::kernels::cuda
