// The row-wise kernels compiled for scalar.
#include "kernels/cpu/vector_attention.inc"
#include "kernels/cpu/vector_rows.inc"

namespace sluice::kernels::cpu {
const VectorKernels kVectorScalar{"scalar",  &Epilogue,  &RoundToBf16, &RoundInF32, &ToInt8, &Norm,
                                  &Activate, &AddScaled, &Softmax,     &SigmoidRow, &Attend};
}  // namespace sluice::kernels::cpu
