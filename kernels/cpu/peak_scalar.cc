#include "kernels/cpu/peak_vector.inc"

namespace sluice::kernels::cpu {
const PeakLoop kPeakF32Scalar{"f32 multiply and add, scalar build", &RunF32,
                              kF32OperationsPerRound};
uint64_t ReadScalar(const void* begin, int64_t bytes) { return Read(begin, bytes); }
}  // namespace sluice::kernels::cpu
