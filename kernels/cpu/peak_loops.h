// Loops that do nothing but keep one unit of the processor busy. Plain structs only: included by
// files with ISA flags.
#pragma once

#include <cstdint>

namespace sluice::kernels::cpu {

struct PeakLoop {
  const char* unit = "";
  // Runs `rounds` rounds and returns a value that depends on all of them.
  float (*run)(int64_t rounds) = nullptr;
  double operations_per_round = 0.0;
};

// Adds up `bytes` (a multiple of 512) of memory, aligned to 64.
using ReadLoop = uint64_t (*)(const void* begin, int64_t bytes);

extern const PeakLoop kPeakF32Scalar;
extern const PeakLoop kPeakF32Avx2;
extern const PeakLoop kPeakF32Avx512;
extern const PeakLoop kPeakBf16Avx512;  // VDPBF16PS
extern const PeakLoop kPeakInt8Avx512;  // VPDPBUSD
extern const PeakLoop kPeakBf16Amx;     // TDPBF16PS
extern const PeakLoop kPeakInt8Amx;     // TDPBUSD

uint64_t ReadScalar(const void* begin, int64_t bytes);
uint64_t ReadAvx2(const void* begin, int64_t bytes);
uint64_t ReadAvx512(const void* begin, int64_t bytes);

}  // namespace sluice::kernels::cpu
