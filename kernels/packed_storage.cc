#include "kernels/packed_storage.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/int8.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kPadding = 64;

int64_t Padded(int64_t value) { return (value + kPadding - 1) / kPadding * kPadding; }

PackedMatrix Shape(int64_t n, int64_t k, WeightFormat format) {
  PackedMatrix matrix;
  matrix.format = format;
  matrix.n = n;
  matrix.k = k;
  matrix.n_padded = Padded(n);
  matrix.k_padded = Padded(k);
  return matrix;
}

absl::Status CheckDepth(int64_t k, WeightFormat format) {
  if (!IsInteger(format) || k <= kMaxInt8Depth) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Name(format), " weights of ", k,
                                                 " inputs: int32 sums hold at most ", kMaxInt8Depth,
                                                 "; use bf16"));
}

// Gives `matrix` its place at `next` and moves on.
void Place(PackedMatrix& matrix, char*& next) {
  matrix.data = next;
  next += matrix.bytes();
}

}  // namespace

absl::StatusOr<PackedMatrix> AllocatePacked(Backend& backend,
                                            std::span<const WeightSource> parts,
                                            WeightFormat format) {
  SLUICE_CHECK(!parts.empty());
  int64_t n = 0;
  for (const WeightSource& part : parts) {
    SLUICE_CHECK(part.k == parts[0].k) << part.k << " " << parts[0].k;
    n += part.n;
  }
  if (absl::Status status = CheckDepth(parts[0].k, format); !status.ok()) return status;
  PackedMatrix matrix = Shape(n, parts[0].k, format);
  absl::StatusOr<Buffer> storage = backend.Allocate(static_cast<size_t>(matrix.bytes()));
  if (!storage.ok()) return storage.status();
  matrix.storage = std::move(*storage);
  matrix.data = matrix.storage.data();
  return matrix;
}

absl::StatusOr<PackedExperts> AllocatePacked(Backend& backend, const ExpertShape& shape) {
  if (absl::Status status = CheckDepth(shape.dim, shape.format); !status.ok()) return status;
  PackedExperts experts;
  experts.format = shape.format;
  experts.num_experts = shape.num_experts;
  experts.dim = shape.dim;
  experts.hidden = shape.hidden;
  experts.slice_hidden = shape.slice_hidden;
  experts.gated = shape.gated;
  const int64_t slices = (shape.hidden + shape.slice_hidden - 1) / shape.slice_hidden;
  experts.slices_per_expert = static_cast<int32_t>(slices);
  experts.slices.resize(static_cast<size_t>(shape.num_experts * slices));
  int64_t bytes = 0;
  for (size_t i = 0; i < experts.slices.size(); ++i) {
    PackedExperts::Slice& slice = experts.slices[i];
    const int64_t first = static_cast<int64_t>(i) % slices * shape.slice_hidden;
    const int64_t width = std::min(shape.slice_hidden, shape.hidden - first);
    slice.w1 = Shape(width, shape.dim, shape.format);
    slice.w3 = Shape(shape.gated ? width : 0, shape.dim, shape.format);
    slice.w2 = Shape(shape.dim, width, shape.format);
    bytes += slice.w1.bytes() + slice.w3.bytes() + slice.w2.bytes();
  }
  absl::StatusOr<Buffer> storage = backend.Allocate(static_cast<size_t>(bytes));
  if (!storage.ok()) return storage.status();
  experts.storage = std::move(*storage);
  char* next = static_cast<char*>(experts.storage.data());
  for (PackedExperts::Slice& slice : experts.slices) {
    Place(slice.w1, next);
    Place(slice.w3, next);
    Place(slice.w2, next);
  }
  return experts;
}

const PackedMatrix& PartOfSlice(const PackedExperts::Slice& slice, ExpertPart part) {
  if (part == ExpertPart::kW2) return slice.w2;
  return part == ExpertPart::kW1 ? slice.w1 : slice.w3;
}

SliceRows RowsInSlice(const PackedExperts& experts,
                      const ExpertRows& at,
                      int64_t rows,
                      int32_t slice) {
  SLUICE_CHECK(at.first_row + rows <= (at.part == ExpertPart::kW2 ? experts.dim : experts.hidden))
      << at.first_row << " " << rows;
  const int64_t first = slice * experts.slice_hidden;
  if (at.part == ExpertPart::kW2) return {0, first, rows, at.first_row};
  const int64_t begin = std::max(first, at.first_row);
  const int64_t end = std::min(first + experts.slice_hidden, at.first_row + rows);
  return {begin - at.first_row, 0, end - begin, begin - first};
}

}  // namespace sluice::kernels
