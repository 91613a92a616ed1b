// AVX-512 families without the bf16 and VNNI extensions.
#include "kernels/cpu/gemm_vector.inc"

namespace sluice::kernels::cpu {
const GemmFamily kGemmF32Avx512{"avx512", GemmInputType::kF32, 12, &VectorTile<F32Step>};
const GemmFamily kGemmBf16Avx512{"avx512", GemmInputType::kRounded, 12, &VectorTile<Bf16WidenStep>};
const GemmFamily kGemmInt8Avx512{"avx512", GemmInputType::kInt8, 12, &VectorTile<Int8WidenStep>};
}  // namespace sluice::kernels::cpu
