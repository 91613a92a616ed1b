#include "kernels/row_major_packing.h"

#include <vector>

#include "kernels/check.h"
#include "kernels/int4.h"
#include "kernels/int8.h"
#include "kernels/packed_storage.h"

namespace sluice::kernels {
namespace {

float SourceElement(const WeightSource& source, int64_t row, int64_t column) {
  const int64_t index = source.transposed ? column * source.n + row : row * source.k + column;
  return ReadElement(source.data, source.dtype, index);
}

// The block [row0, row0 + rows) x [column0, column0 + matrix.k) of a source, and where its first
// row goes.
struct SourceBlock {
  int64_t row0 = 0;
  int64_t column0 = 0;
  int64_t first_row = 0;  // in the packed matrix
  int64_t rows = 0;       // none where they are negative
};

void QuantizeBlock(const WeightSource& source,
                   const SourceBlock& block,
                   const PackedMatrix& matrix) {
  auto* data = static_cast<int8_t*>(const_cast<void*>(matrix.data));
  for (int64_t row = 0; row < block.rows; ++row) {
    const auto value = [&](int64_t column) {
      return SourceElement(source, block.row0 + row, block.column0 + column);
    };
    float largest = 0.0f;
    for (int64_t k = 0; k < matrix.k; ++k) largest = LargerMagnitude(largest, value(k));
    const Int8Scale scale = ScaleForInt8(largest);
    const int64_t target = block.first_row + row;
    matrix.scales()[target] = scale.scale;
    for (int64_t k = 0; k < matrix.k; ++k) {
      data[target * matrix.k_padded + k] = ToInt8(value(k), scale);
    }
  }
}

void QuantizeBlockToInt4(const WeightSource& source,
                         const SourceBlock& block,
                         const PackedMatrix& matrix) {
  std::vector<float> values(static_cast<size_t>(matrix.k));
  std::vector<int8_t> q(values.size());
  for (int64_t row = 0; row < block.rows; ++row) {
    for (int64_t k = 0; k < matrix.k; ++k) {
      values[static_cast<size_t>(k)] = SourceElement(source, block.row0 + row, block.column0 + k);
    }
    const int64_t target = block.first_row + row;
    const Int4Row to(matrix, target);
    matrix.scales()[target] = RoundToInt4(values, q.data(), to.groups);
    for (int64_t k = 0; k < matrix.k; ++k) to.Set(k, q[static_cast<size_t>(k)]);
  }
}

void CopyBlock(const WeightSource& source, const SourceBlock& block, const PackedMatrix& matrix) {
  if (matrix.format == WeightFormat::kInt4) return QuantizeBlockToInt4(source, block, matrix);
  if (matrix.format == WeightFormat::kInt8) return QuantizeBlock(source, block, matrix);
  const DType dtype = matrix.format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
  void* data = const_cast<void*>(matrix.data);
  for (int64_t row = 0; row < block.rows; ++row) {
    for (int64_t column = 0; column < matrix.k; ++column) {
      const float value = SourceElement(source, block.row0 + row, block.column0 + column);
      const int64_t index = (block.first_row + row) * matrix.k_padded + column;
      WriteElement(data, dtype, index, value);
    }
  }
}

}  // namespace

void PackRowMajorRows(const WeightSource& rows, int64_t first_row, const PackedMatrix& matrix) {
  SLUICE_CHECK(rows.k == matrix.k && first_row + rows.n <= matrix.n) << rows.n << "x" << rows.k;
  CopyBlock(rows, {.first_row = first_row, .rows = rows.n}, matrix);
}

absl::StatusOr<PackedMatrix> PackRowMajor(Backend& backend,
                                          std::span<const WeightSource> parts,
                                          WeightFormat format) {
  absl::StatusOr<PackedMatrix> matrix = AllocatePacked(backend, parts, format);
  if (!matrix.ok()) return matrix;
  int64_t first_row = 0;
  for (const WeightSource& part : parts) {
    PackRowMajorRows(part, first_row, *matrix);
    first_row += part.n;
  }
  return matrix;
}

void PackRowMajorExpert(const ExpertSource& source, int32_t expert, const PackedExperts& experts) {
  PackRowMajorExpertRows(source.w1, {expert, ExpertPart::kW1}, experts);
  if (experts.gated) PackRowMajorExpertRows(source.w3, {expert, ExpertPart::kW3}, experts);
  PackRowMajorExpertRows(source.w2, {expert, ExpertPart::kW2}, experts);
}

void PackRowMajorExpertRows(const WeightSource& rows,
                            const ExpertRows& at,
                            const PackedExperts& experts) {
  for (int32_t s = 0; s < experts.slices_per_expert; ++s) {
    const PackedMatrix& matrix = PartOfSlice(experts.At(at.expert, s), at.part);
    const SliceRows place = RowsInSlice(experts, at, rows.n, s);
    CopyBlock(rows, {place.row, place.column, place.target_row, place.rows}, matrix);
  }
}

}  // namespace sluice::kernels
