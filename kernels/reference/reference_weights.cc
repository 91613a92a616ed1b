// Packing of the reference backend: row-major, padded like every packed matrix.
#include "absl/status/status.h"
#include "kernels/check.h"
#include "kernels/host_memory.h"
#include "kernels/reference/reference_backend.h"
#include "kernels/reference/reference_math.h"

namespace sluice::kernels {
namespace {

int64_t RoundUp64(int64_t value) { return (value + 63) / 64 * 64; }

PackedMatrix Shape(int64_t n, int64_t k, WeightFormat format) {
  PackedMatrix matrix;
  matrix.format = format;
  matrix.n = n;
  matrix.k = k;
  matrix.n_padded = RoundUp64(n);
  matrix.k_padded = RoundUp64(k);
  return matrix;
}

float SourceElement(const WeightSource& source, int64_t row, int64_t column) {
  const int64_t index = source.transposed ? column * source.n + row : row * source.k + column;
  return reference::ReadElement(source.data, source.dtype, index);
}

// Copies the block [row0, row0 + matrix.n) x [column0, column0 + matrix.k) of `source`.
struct SourceBlock {
  int64_t row0 = 0;
  int64_t column0 = 0;
  int64_t first_row = 0;  // in the packed matrix
  int64_t rows = 0;
};

void CopyBlock(const WeightSource& source, const SourceBlock& block, const PackedMatrix& matrix) {
  const DType dtype = matrix.format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
  void* data = const_cast<void*>(matrix.data);
  for (int64_t row = 0; row < block.rows; ++row) {
    for (int64_t column = 0; column < matrix.k; ++column) {
      const float value = SourceElement(source, block.row0 + row, block.column0 + column);
      const int64_t index = (block.first_row + row) * matrix.k_padded + column;
      reference::WriteElement(data, dtype, index, value);
    }
  }
}

}  // namespace

absl::StatusOr<Buffer> ReferenceBackend::Allocate(size_t bytes) { return AllocateHost(bytes); }

absl::StatusOr<PackedMatrix> ReferenceBackend::Pack(std::span<const WeightSource> parts,
                                                    WeightFormat format) {
  SLUICE_CHECK(!parts.empty());
  int64_t n = 0;
  for (const WeightSource& part : parts) {
    SLUICE_CHECK(part.k == parts[0].k) << part.k << " " << parts[0].k;
    n += part.n;
  }
  PackedMatrix matrix = Shape(n, parts[0].k, format);
  absl::StatusOr<Buffer> storage = Allocate(static_cast<size_t>(matrix.bytes()));
  if (!storage.ok()) return storage.status();
  matrix.storage = std::move(*storage);
  matrix.data = matrix.storage.data();
  int64_t first_row = 0;
  for (const WeightSource& part : parts) {
    CopyBlock(part, {.first_row = first_row, .rows = part.n}, matrix);
    first_row += part.n;
  }
  return matrix;
}

absl::StatusOr<PackedExperts> ReferenceBackend::AllocateExperts(
    int32_t num_experts, int64_t dim, int64_t hidden, bool gated, WeightFormat format) {
  PackedExperts experts;
  experts.format = format;
  experts.num_experts = num_experts;
  experts.slices_per_expert = 1;
  experts.dim = dim;
  experts.hidden = hidden;
  experts.slice_hidden = hidden;
  experts.gated = gated;
  const PackedMatrix up = Shape(hidden, dim, format);
  const PackedMatrix down = Shape(dim, hidden, format);
  const int64_t up_bytes = up.bytes();
  const int64_t expert_bytes = (gated ? 2 : 1) * up_bytes + down.bytes();
  absl::StatusOr<Buffer> storage = Allocate(static_cast<size_t>(expert_bytes * num_experts));
  if (!storage.ok()) return storage.status();
  experts.storage = std::move(*storage);
  experts.slices.resize(static_cast<size_t>(num_experts));
  char* next = static_cast<char*>(experts.storage.data());
  for (PackedExperts::Slice& slice : experts.slices) {
    slice.w1 = Shape(hidden, dim, format);
    slice.w1.data = next;
    next += up_bytes;
    slice.w3.format = format;
    if (gated) {
      slice.w3 = Shape(hidden, dim, format);
      slice.w3.data = next;
      next += up_bytes;
    }
    slice.w2 = Shape(dim, hidden, format);
    slice.w2.data = next;
    next += slice.w2.bytes();
  }
  return experts;
}

void ReferenceBackend::PackExpert(const ExpertSource& source,
                                  int32_t expert,
                                  PackedExperts& experts) {
  const PackedExperts::Slice& slice = experts.At(expert, 0);
  CopyBlock(source.w1, {.rows = slice.w1.n}, slice.w1);
  if (experts.gated) CopyBlock(source.w3, {.rows = slice.w3.n}, slice.w3);
  CopyBlock(source.w2, {.rows = slice.w2.n}, slice.w2);
}

}  // namespace sluice::kernels
