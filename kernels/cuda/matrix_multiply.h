// One step of the tensor cores: d += a b with a of 16 outputs, b of 8 rows, and their fragments as
// the PTX ISA lays them out for mma.sync ("Matrix Fragments for mma.m16n8k16", "... m16n8k32").
// sm_80 and later.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace sluice::kernels::cuda {

// 16 inputs of bf16.
__device__ inline void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  cuda_emulation::MultiplyBf16(d, a, b);
#endif
}

// 32 inputs of int8.
__device__ inline void MultiplyAdd(int32_t (&d)[4],
                                   const uint32_t (&a)[4],
                                   const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  cuda_emulation::MultiplyInt8(d, a, b);
#endif
}

// A block of 64 bytes of the inputs: two steps. Lane 4 g + t holds 16 bytes of outputs g (`low`)
// and g + 8 (`high`) and of row g (`x`), at 16 t: which input is which of a step's does not matter
// as long as it is the same on both sides, and so every load is 16 bytes.
template <typename Sum>
__device__ inline void MultiplyBlock(Sum (&d)[4],
                                     const uint4& low,
                                     const uint4& high,
                                     const uint4& x) {
  const uint32_t first_a[4] = {low.x, high.x, low.y, high.y}, first_b[2] = {x.x, x.y};
  MultiplyAdd(d, first_a, first_b);
  const uint32_t second_a[4] = {low.z, high.z, low.w, high.w}, second_b[2] = {x.z, x.w};
  MultiplyAdd(d, second_a, second_b);
}

}  // namespace sluice::kernels::cuda
