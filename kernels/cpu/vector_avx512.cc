// The row-wise kernels compiled for avx512.
#include "kernels/cpu/vector_attention.inc"
#include "kernels/cpu/vector_rows.inc"

namespace sluice::kernels::cpu {
const VectorKernels kVectorAvx512{"avx512",  &Epilogue,  &RoundToBf16, &RoundInF32, &ToInt8, &Norm,
                                  &Activate, &AddScaled, &Softmax,     &SigmoidRow, &Attend};
}  // namespace sluice::kernels::cpu
