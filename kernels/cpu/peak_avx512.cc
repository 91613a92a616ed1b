#include "kernels/cpu/peak_vector.inc"

namespace sluice::kernels::cpu {
const PeakLoop kPeakF32Avx512{"f32 FMA, avx512", &RunF32, kF32OperationsPerRound};
uint64_t ReadAvx512(const void* begin, int64_t bytes) { return Read(begin, bytes); }
}  // namespace sluice::kernels::cpu
