// The AVX512-VNNI family (VPDPBUSD).
#include "kernels/cpu/gemm_vector.inc"

namespace sluice::kernels::cpu {
const GemmFamily kGemmInt8Avx512Vnni{"avx512-vnni", GemmInputType::kInt8Offset, 12,
                                     &VectorTile<Int8VnniStep>};
const GemmFamily kGemmInt4Avx512Vnni{"avx512-vnni", GemmInputType::kInt8Offset, 8,
                                     &VectorTile<Int4VnniStep, 4>};
}  // namespace sluice::kernels::cpu
