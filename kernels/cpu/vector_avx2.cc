// The row-wise kernels compiled for avx2.
#include "kernels/cpu/vector_attention.inc"
#include "kernels/cpu/vector_int4.inc"
#include "kernels/cpu/vector_int8.inc"
#include "kernels/cpu/vector_rows.inc"

namespace sluice::kernels::cpu {
const VectorKernels kVectorAvx2{"avx2",      &Epilogue, &RoundToBf16, &RoundInF32, &ToInt8,
                                &PackInt8,   &Norm,     &Activate,    &AddScaled,  &Softmax,
                                &SigmoidRow, &Attend,   &ExpandInt4};
}  // namespace sluice::kernels::cpu
