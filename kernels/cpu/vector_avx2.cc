// The row-wise kernels compiled for avx2.
#include "kernels/cpu/vector_attention.inc"
#include "kernels/cpu/vector_rows.inc"

namespace sluice::kernels::cpu {
const VectorKernels kVectorAvx2{"avx2",    &Epilogue,  &RoundToBf16, &RoundInF32, &ToInt8, &Norm,
                                &Activate, &AddScaled, &Softmax,     &SigmoidRow, &Attend};
}  // namespace sluice::kernels::cpu
