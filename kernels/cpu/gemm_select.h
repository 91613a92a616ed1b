// Chooses one GEMM family per weight format, once. Not for choosing by shape: a family serves every
// shape.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/gemm.h"
#include "kernels/packed_matrix.h"

namespace sluice::kernels::cpu {

struct GemmChoice {
  GemmFamily family;
  std::string reason;
};

// The best family that passes a self-test against the scalar family. `gemm` as of DeviceSpec;
// FailedPrecondition when oneDNN is not built in. Where it has no product of the format on this
// processor the family is "none" and has no tile: such weights can be looked up but not multiplied
// (CheckProduct of engine/model/model_builder.cc). For int4 the family
// may have no tile: then its blocks are made int8 for the family of that, which with many rows they
// always are.
absl::StatusOr<GemmChoice> SelectGemm(WeightFormat format,
                                      const CpuFeatures& features,
                                      const std::string& gemm);

// Largest difference to the scalar family on a small product, relative to the largest result;
// infinity when a result is not finite.
float SelfTestError(const GemmFamily& family, WeightFormat format);

// The oneDNN family (gemm_onednn.cc). FailedPrecondition where it is not built in, Unimplemented
// where it has no such product on this processor.
absl::StatusOr<GemmFamily> OneDnnGemm(WeightFormat format);

}  // namespace sluice::kernels::cpu
