#include "kernels/cpu/peak_vector.inc"

namespace sluice::kernels::cpu {
const PeakLoop kPeakF32Avx2{"f32 FMA, avx2", &RunF32, kF32OperationsPerRound};
uint64_t ReadAvx2(const void* begin, int64_t bytes) { return Read(begin, bytes); }
}  // namespace sluice::kernels::cpu
