// AVX-512 families without the bf16 extension.
#include "kernels/cpu/gemm_vector.inc"

namespace sluice::kernels::cpu {
const GemmFamily kGemmF32Avx512{"avx512", GemmInputType::kF32, 12, &VectorTile<F32Step>};
const GemmFamily kGemmBf16Avx512{"avx512", GemmInputType::kRounded, 12, &VectorTile<Bf16WidenStep>};
}  // namespace sluice::kernels::cpu
