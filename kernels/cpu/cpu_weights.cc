// Packing of weights into the CPU layout (packed_layout.h), experts in slices, and Embed, which
// reads it back.
#include <limits>

#include "absl/status/status.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {
namespace {

// Hidden width of an expert slice: 3 * 256 * dim weights are one task.
constexpr int64_t kSliceHidden = 256;

PackedMatrix Shape(int64_t n, int64_t k, WeightFormat format) {
  PackedMatrix matrix;
  matrix.format = format;
  matrix.n = n;
  matrix.k = k;
  matrix.n_padded = RoundUp(n, kBlockColumns);
  matrix.k_padded = RoundUp(k, kBlockColumns);
  return matrix;
}

// Part of a source that goes to rows [target_row, target_row + rows) of a packed matrix.
struct SourcePart {
  int64_t row = 0;
  int64_t column = 0;
  int64_t rows = 0;
  int64_t target_row = 0;
};

float Value(float value) { return value; }
float Value(BF16 value) { return ToFloat(value); }
struct Half {
  uint16_t bits = 0;
};
float Value(Half value) { return HalfToFloat(value.bits); }

template <typename Element>
void PackRow(const Element* from, int64_t step, int64_t row, const PackedMatrix& matrix) {
  void* data = const_cast<void*>(matrix.data);
  if (matrix.format == WeightFormat::kF32) {
    float* to = static_cast<float*>(data) + PackedOffsetF32(row, 0, matrix.k_padded);
    for (int64_t k = 0; k < matrix.k; ++k) to[k * kBlockColumns] = Value(from[k * step]);
    return;
  }
  BF16* to = static_cast<BF16*>(data) + PackedOffsetBf16(row, 0, matrix.k_padded);
  for (int64_t k = 0; k < matrix.k; ++k) {
    to[(k / 2) * 2 * kBlockColumns + k % 2] = ToBF16(Value(from[k * step]));
  }
}

template <typename Element>
void PackRows(const WeightSource& source, const SourcePart& part, const PackedMatrix& matrix) {
  const auto* from = static_cast<const Element*>(source.data);
  const int64_t row_step = source.transposed ? 1 : source.k;
  const int64_t column_step = source.transposed ? source.n : 1;
  for (int64_t r = 0; r < part.rows; ++r) {
    const Element* row = from + (part.row + r) * row_step + part.column * column_step;
    PackRow(row, column_step, part.target_row + r, matrix);
  }
}

void PackPart(const WeightSource& source, const SourcePart& part, const PackedMatrix& matrix) {
  SLUICE_CHECK(part.row + part.rows <= source.n && part.column + matrix.k <= source.k)
      << source.n << "x" << source.k;
  switch (source.dtype) {
    case DType::kF32:
      return PackRows<float>(source, part, matrix);
    case DType::kBF16:
      return PackRows<BF16>(source, part, matrix);
    case DType::kF16:
      return PackRows<Half>(source, part, matrix);
    case DType::kI32:
      break;
  }
  SLUICE_CHECK(false) << Name(source.dtype);
}

// Gives `matrix` its place at `next` and moves on.
void Place(PackedMatrix& matrix, char*& next) {
  matrix.data = next;
  next += matrix.bytes();
}

}  // namespace

void CpuBackend::NoteShape(const PackedMatrix& matrix) {
  max_k_ = std::max(max_k_, matrix.k_padded);
  max_n_ = std::max(max_n_, matrix.n_padded);
}

absl::StatusOr<PackedMatrix> CpuBackend::Pack(std::span<const WeightSource> parts,
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
  int64_t target_row = 0;
  for (const WeightSource& part : parts) {
    // Every task packs up to 64 source rows; rows never share a byte.
    pool_.ParallelFor((part.n + kBlockColumns - 1) / kBlockColumns, [&](int64_t task, int) {
      const int64_t first = task * kBlockColumns;
      const int64_t rows = std::min(kBlockColumns, part.n - first);
      PackPart(part, {first, 0, rows, target_row + first}, matrix);
    });
    target_row += part.n;
  }
  NoteShape(matrix);
  return matrix;
}

absl::StatusOr<PackedExperts> CpuBackend::AllocateExperts(
    int32_t num_experts, int64_t dim, int64_t hidden, bool gated, WeightFormat format) {
  PackedExperts experts;
  experts.format = format;
  experts.num_experts = num_experts;
  experts.dim = dim;
  experts.hidden = hidden;
  experts.gated = gated;
  experts.slice_hidden = std::min(hidden, kSliceHidden);
  const int64_t slices = (hidden + experts.slice_hidden - 1) / experts.slice_hidden;
  experts.slices_per_expert = static_cast<int32_t>(slices);
  experts.slices.resize(static_cast<size_t>(num_experts * slices));
  int64_t bytes = 0;
  for (size_t i = 0; i < experts.slices.size(); ++i) {
    PackedExperts::Slice& slice = experts.slices[i];
    const int64_t first = static_cast<int64_t>(i) % slices * experts.slice_hidden;
    const int64_t width = std::min(experts.slice_hidden, hidden - first);
    slice.w1 = Shape(width, dim, format);
    slice.w3 = Shape(gated ? width : 0, dim, format);
    slice.w2 = Shape(dim, width, format);
    bytes += slice.w1.bytes() + slice.w3.bytes() + slice.w2.bytes();
  }
  absl::StatusOr<Buffer> storage = Allocate(static_cast<size_t>(bytes));
  if (!storage.ok()) return storage.status();
  experts.storage = std::move(*storage);
  char* next = static_cast<char*>(experts.storage.data());
  for (PackedExperts::Slice& slice : experts.slices) {
    Place(slice.w1, next);
    Place(slice.w3, next);
    Place(slice.w2, next);
    NoteShape(slice.w1);
    NoteShape(slice.w2);
  }
  ReserveExperts(experts);
  return experts;
}

void CpuBackend::PackExpert(const ExpertSource& source, int32_t expert, PackedExperts& experts) {
  SLUICE_CHECK(source.w1.n == experts.hidden && source.w2.n == experts.dim);
  for (int32_t s = 0; s < experts.slices_per_expert; ++s) {
    const PackedExperts::Slice& slice = experts.At(expert, s);
    const int64_t first = s * experts.slice_hidden;
    PackPart(source.w1, {first, 0, slice.w1.n, 0}, slice.w1);
    if (experts.gated) PackPart(source.w3, {first, 0, slice.w3.n, 0}, slice.w3);
    PackPart(source.w2, {0, first, slice.w2.n, 0}, slice.w2);
  }
}

void CpuBackend::Embed(const PackedMatrix& table,
                       std::span<const int32_t> ids,
                       float scale,
                       TensorView out) {
  ForRows(static_cast<int64_t>(ids.size()), table.k, [&](int64_t i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    SLUICE_CHECK(id >= 0 && id < table.n) << id;
    float* row = out.Row(i);
    if (table.format == WeightFormat::kF32) {
      const auto* from =
          static_cast<const float*>(table.data) + PackedOffsetF32(id, 0, table.k_padded);
      for (int64_t k = 0; k < table.k; ++k) row[k] = scale * from[k * kBlockColumns];
      return;
    }
    const auto* from =
        static_cast<const BF16*>(table.data) + PackedOffsetBf16(id, 0, table.k_padded);
    for (int64_t k = 0; k < table.k; ++k) {
      row[k] = scale * ToFloat(from[(k / 2) * 2 * kBlockColumns + k % 2]);
    }
  });
}

}  // namespace sluice::kernels::cpu
