// Portable GEMM families: whatever vectors the compiler's base target has, multiply then add.
#include "kernels/cpu/gemm_vector.inc"

namespace sluice::kernels::cpu {
const GemmFamily kGemmF32Scalar{"scalar", GemmInputType::kF32, 8, &VectorTile<F32Step>};
const GemmFamily kGemmBf16Scalar{"scalar", GemmInputType::kRounded, 8, &VectorTile<Bf16WidenStep>};
const GemmFamily kGemmInt8Scalar{"scalar", GemmInputType::kInt8, 8, &VectorTile<Int8WidenStep>};
}  // namespace sluice::kernels::cpu
