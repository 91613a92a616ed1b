// AVX2 and FMA families; bf16 is widened to f32.
#include "kernels/cpu/gemm_vector.inc"

namespace sluice::kernels::cpu {
const GemmFamily kGemmF32Avx2{"avx2", GemmInputType::kF32, 10, &VectorTile<F32Step>};
const GemmFamily kGemmBf16Avx2{"avx2", GemmInputType::kRounded, 10, &VectorTile<Bf16WidenStep>};
const GemmFamily kGemmInt8Avx2{"avx2", GemmInputType::kInt8, 10, &VectorTile<Int8WidenStep>};
}  // namespace sluice::kernels::cpu
