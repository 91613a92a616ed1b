// The AVX512-BF16 family (VDPBF16PS).
#include "kernels/cpu/gemm_vector.inc"

namespace sluice::kernels::cpu {
const GemmFamily kGemmBf16Avx512Native{"avx512-bf16", GemmInputType::kBf16, 12,
                                       &VectorTile<Bf16NativeStep>};
}  // namespace sluice::kernels::cpu
