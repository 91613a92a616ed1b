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

const PackedMatrix& PartOfSlice(const PackedExperts::Slice& slice, ExpertPart part);

// Which of `rows` rows of an expert's part go to a slice of its hidden width, and where.
struct SliceRows {
  int64_t row = 0;         // the first of them
  int64_t column = 0;      // of the rows, at which the slice's inputs start
  int64_t rows = 0;        // none if it is not above zero
  int64_t target_row = 0;  // in the matrix of the slice
};
SliceRows RowsInSlice(const PackedExperts& experts,
                      const ExpertRows& at,
                      int64_t rows,
                      int32_t slice);

}  // namespace sluice::kernels
