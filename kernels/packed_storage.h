// Shapes and memory of packed weights, the same for every backend; the order of the values inside
// a matrix is the backend's.
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/packed_matrix.h"

namespace sluice::kernels {

// A matrix of `parts` stacked along n, without values. All parts have the same k (CHECK). Errors of
// Backend::Allocate and, for int8 or int4 that is too deep, InvalidArgument.
absl::StatusOr<PackedMatrix> AllocatePacked(Backend& backend,
                                            std::span<const WeightSource> parts,
                                            WeightFormat format);

struct ExpertShape {
  int32_t num_experts = 0;
  int64_t dim = 0;
  int64_t hidden = 0;
  int64_t slice_hidden = 0;  // at most `hidden`
  bool gated = true;
  WeightFormat format = WeightFormat::kF32;
};
// Experts in slices, without values. Errors as above.
absl::StatusOr<PackedExperts> AllocatePacked(Backend& backend, const ExpertShape& shape);

}  // namespace sluice::kernels
