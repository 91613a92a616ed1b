// Packing of weights into the CPU layout (packed_layout.h), experts in slices, and Embed, which
// reads it back.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/int4.h"
#include "kernels/int8.h"
#include "kernels/packed_storage.h"

namespace sluice::kernels::cpu {
namespace {

// Hidden width of an expert slice: 3 * 256 * dim weights are one task.
constexpr int64_t kSliceHidden = kInt8SliceHidden;

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
void QuantizeRowToInt4(const Element* from, int64_t step, int64_t row, const PackedMatrix& matrix) {
  std::vector<float> values(static_cast<size_t>(matrix.k));
  std::vector<int8_t> q(static_cast<size_t>(matrix.k_padded));
  std::vector<int8_t> groups(static_cast<size_t>(matrix.k_padded / kInt4Group));
  for (int64_t k = 0; k < matrix.k; ++k) values[static_cast<size_t>(k)] = Value(from[k * step]);
  matrix.scales()[row] = RoundToInt4(values, q.data(), groups.data());
  auto* to = static_cast<int8_t*>(const_cast<void*>(matrix.data));
  int32_t sum = 0;
  for (int64_t k = 0; k < matrix.k_padded; k += 8) {
    const int8_t scale = groups[static_cast<size_t>(k / kInt4Group)];
    to[PackedOffsetInt4Scale(row, k, matrix.k_padded)] = scale;
    int8_t* bytes = to + PackedOffsetInt4(row, k, matrix.k_padded);
    for (int64_t i = 0; i < 4; ++i) {
      const int8_t low = q[static_cast<size_t>(k + i)];
      const int8_t high = q[static_cast<size_t>(k + i + 4)];
      bytes[i] = static_cast<int8_t>((low & 15) | (high << 4));
      sum += (low + high) * scale;
    }
  }
  matrix.sums()[row] = 128 * sum;
}

// The part of a source that becomes rows of a matrix, from `target_row` on.
template <typename Element>
struct PartOf {
  PartOf(const WeightSource& source, const SourcePart& part)
      : row_step(source.transposed ? 1 : source.k),
        step(source.transposed ? source.n : 1),
        data(static_cast<const Element*>(source.data) + part.row * row_step + part.column * step),
        target_row(part.target_row) {}

  const Element* Row(int64_t row) const { return data + row * row_step; }

  const int64_t row_step;
  const int64_t step;  // from input to input
  const Element* const data;
  const int64_t target_row;
};

// Neighbouring rows share the cache lines of a packed matrix, neighbouring inputs those of the
// source: with so many inputs at a time both stay in the first cache for 64 rows.
constexpr int64_t kInputsAtOnce = 32;

// Inputs [begin, end) of a row, at most kInputsAtOnce.
struct InputRange {
  int64_t begin = 0;  // even
  int64_t end = 0;
};

// Pairs that lie together in the source, which starts with the range, as they do in the matrix.
void CopyPairs(const BF16* from, InputRange range, BF16* to) {
  int64_t k = range.begin;
  for (; k + 1 < range.end; k += 2, from += 2)
    std::memcpy(to + k * kBlockColumns, from, 2 * sizeof(BF16));
  if (k < range.end) to[k * kBlockColumns] = *from;
}

template <typename Element>
void PackInputs(const VectorKernels& vector,
                const PartOf<Element>& part,
                int64_t row,
                InputRange range,
                const PackedMatrix& matrix) {
  const Element* from = part.Row(row);
  const int64_t target = part.target_row + row;
  void* data = const_cast<void*>(matrix.data);
  if (matrix.format == WeightFormat::kF32) {
    float* to = static_cast<float*>(data) + PackedOffsetF32(target, 0, matrix.k_padded);
    for (int64_t k = range.begin; k < range.end; ++k)
      to[k * kBlockColumns] = Value(from[k * part.step]);
    return;
  }
  BF16* to = static_cast<BF16*>(data) + PackedOffsetBf16(target, 0, matrix.k_padded);
  if constexpr (std::is_same_v<Element, BF16>) {
    if (part.step == 1) return CopyPairs(from + range.begin, range, to);
  }
  if constexpr (std::is_same_v<Element, float>) {
    if (part.step == 1) {
      BF16 rounded[kInputsAtOnce];
      vector.to_bf16(from + range.begin, range.end - range.begin, kInputsAtOnce,
                     static_cast<uint16_t*>(static_cast<void*>(rounded)));
      return CopyPairs(rounded, range, to);
    }
  }
  for (int64_t k = range.begin; k < range.end; ++k) {
    to[(k / 2) * 2 * kBlockColumns + k % 2] = ToBF16(Value(from[k * part.step]));
  }
}

// Rows of one output block.
void QuantizeRows(const VectorKernels& vector,
                  Int8Weights rows,
                  int64_t target_row,
                  const PackedMatrix& matrix) {
  rows.columns = matrix.k;
  rows.out = static_cast<int8_t*>(const_cast<void*>(matrix.data)) +
             PackedOffsetInt8(target_row, 0, matrix.k_padded);
  rows.scales = matrix.scales() + target_row;
  rows.sums = matrix.sums() + target_row;
  vector.pack_int8(rows);
}

template <typename Element>
void PackToInt8(const VectorKernels& vector,
                const PartOf<Element>& from,
                const SourcePart& part,
                const PackedMatrix& matrix) {
  constexpr bool kHalf = std::is_same_v<Element, Half>;
  const bool in_place = !kHalf && from.step == 1;
  // What does not lie as the kernel reads it is copied: inputs of so many outputs share lines.
  constexpr int64_t kRowsCopied = 16;
  std::vector<float> copy(in_place ? 0 : static_cast<size_t>(kRowsCopied * matrix.k));
  for (int64_t row = 0; row < part.rows;) {
    const int64_t target = part.target_row + row;
    const int64_t in_block = std::min(part.rows - row, kBlockColumns - target % kBlockColumns);
    const int64_t rows = in_place ? in_block : std::min(in_block, kRowsCopied);
    if (in_place) {
      constexpr bool kBf16 = std::is_same_v<Element, BF16>;
      QuantizeRows(vector, {from.Row(row), kBf16, from.row_step, rows}, target, matrix);
    } else {
      for (int64_t k = 0; k < matrix.k; ++k) {
        for (int64_t r = 0; r < rows; ++r)
          copy[static_cast<size_t>(r * matrix.k + k)] = Value(from.Row(row + r)[k * from.step]);
      }
      QuantizeRows(vector, {copy.data(), false, matrix.k, rows}, target, matrix);
    }
    row += rows;
  }
}

template <typename Element>
void PackSource(const VectorKernels& vector,
                const WeightSource& source,
                const SourcePart& part,
                const PackedMatrix& matrix) {
  const PartOf<Element> from(source, part);
  if (matrix.format == WeightFormat::kInt8) return PackToInt8(vector, from, part, matrix);
  if (matrix.format == WeightFormat::kInt4) {
    for (int64_t r = 0; r < part.rows; ++r)
      QuantizeRowToInt4(from.Row(r), from.step, part.target_row + r, matrix);
    return;
  }
  for (int64_t first = 0; first < part.rows; first += kBlockColumns) {
    const int64_t last = std::min(part.rows, first + kBlockColumns);
    for (int64_t k = 0; k < matrix.k; k += kInputsAtOnce) {
      const InputRange range{k, std::min(matrix.k, k + kInputsAtOnce)};
      for (int64_t r = first; r < last; ++r) PackInputs(vector, from, r, range, matrix);
    }
  }
}

void PackPart(const VectorKernels& vector,
              const WeightSource& source,
              const SourcePart& part,
              const PackedMatrix& matrix) {
  SLUICE_CHECK(part.row + part.rows <= source.n && part.column + matrix.k <= source.k)
      << source.n << "x" << source.k;
  switch (source.dtype) {
    case DType::kF32:
      return PackSource<float>(vector, source, part, matrix);
    case DType::kBF16:
      return PackSource<BF16>(vector, source, part, matrix);
    case DType::kF16:
      return PackSource<Half>(vector, source, part, matrix);
    case DType::kI32:
    case DType::kU8:
      break;
  }
  SLUICE_CHECK(false) << Name(source.dtype);
}

struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Rows of `source` become those of a part of an expert, in all its slices.
void PackExpertPart(const VectorKernels& vector,
                    const WeightSource& source,
                    const RowRange& range,
                    const ExpertRows& at,
                    const PackedExperts& experts) {
  for (int32_t s = 0; s < experts.slices_per_expert; ++s) {
    const SliceRows place = RowsInSlice(experts, at, range.end - range.begin, s);
    if (place.rows <= 0) continue;
    const SourcePart part{range.begin + place.row, place.column, place.rows, place.target_row};
    PackPart(vector, source, part, PartOfSlice(experts.At(at.expert, s), at.part));
  }
}

// The int8 at a place, or that it stands for.
int32_t IntegerWeight(const PackedMatrix& matrix, int64_t n, int64_t k) {
  const auto* values = static_cast<const int8_t*>(matrix.data);
  if (matrix.format == WeightFormat::kInt8) return values[PackedOffsetInt8(n, k, matrix.k_padded)];
  const int32_t byte = values[PackedOffsetInt4(n, k, matrix.k_padded)];
  const int32_t half = (byte >> PackedShiftInt4(k)) & 15;
  return (half < 8 ? half : half - 16) * values[PackedOffsetInt4Scale(n, k, matrix.k_padded)];
}

}  // namespace

void CpuBackend::NoteShape(const PackedMatrix& matrix) {
  max_k_ = std::max(max_k_, matrix.k_padded);
  max_n_ = std::max(max_n_, matrix.n_padded);
  if (matrix.format == WeightFormat::kInt4) max_int4_k_ = std::max(max_int4_k_, matrix.k_padded);
}

absl::StatusOr<PackedMatrix> CpuBackend::AllocateMatrix(int64_t n, int64_t k, WeightFormat format) {
  const WeightSource shape{.n = n, .k = k};
  absl::StatusOr<PackedMatrix> matrix = AllocatePacked(*this, {&shape, 1}, format);
  if (matrix.ok()) NoteShape(*matrix);
  return matrix;
}

void CpuBackend::PackRows(const WeightSource& rows, int64_t first_row, PackedMatrix& matrix) {
  SLUICE_CHECK(rows.k == matrix.k && first_row + rows.n <= matrix.n) << rows.n << "x" << rows.k;
  PackPart(*selection_.vector, rows, {0, 0, rows.n, first_row}, matrix);
}

absl::StatusOr<PackedMatrix> CpuBackend::Pack(std::span<const WeightSource> parts,
                                              WeightFormat format) {
  absl::StatusOr<PackedMatrix> packed = AllocatePacked(*this, parts, format);
  if (!packed.ok()) return packed;
  PackedMatrix& matrix = *packed;
  int64_t target_row = 0;
  for (const WeightSource& part : parts) {
    // Every task packs up to 64 source rows; rows never share a byte.
    pool_.ParallelFor((part.n + kBlockColumns - 1) / kBlockColumns, [&](int64_t task, int) {
      const int64_t first = task * kBlockColumns;
      const int64_t rows = std::min(kBlockColumns, part.n - first);
      PackPart(*selection_.vector, part, {first, 0, rows, target_row + first}, matrix);
    });
    target_row += part.n;
  }
  NoteShape(matrix);
  return packed;
}

absl::StatusOr<PackedExperts> CpuBackend::AllocateExperts(
    int32_t num_experts, int64_t dim, int64_t hidden, bool gated, WeightFormat format) {
  absl::StatusOr<PackedExperts> experts =
      AllocatePacked(*this, {.num_experts = num_experts,
                             .dim = dim,
                             .hidden = hidden,
                             .slice_hidden = std::min(hidden, kSliceHidden),
                             .gated = gated,
                             .format = format});
  if (!experts.ok()) return experts;
  for (const PackedExperts::Slice& slice : experts->slices) {
    NoteShape(slice.w1);
    NoteShape(slice.w2);
  }
  ReserveExperts(*experts);
  return experts;
}

void CpuBackend::PackExpert(const ExpertSource& source, int32_t expert, PackedExperts& experts) {
  SLUICE_CHECK(source.w1.n == experts.hidden && source.w2.n == experts.dim);
  SLUICE_CHECK(!experts.gated || source.w3.n == experts.hidden);
  const auto pack = [&](const WeightSource& whole, ExpertPart part) {
    pool_.ParallelFor((whole.n + kBlockColumns - 1) / kBlockColumns, [&](int64_t block, int) {
      const int64_t begin = block * kBlockColumns;
      const RowRange range{begin, std::min(whole.n, begin + kBlockColumns)};
      PackExpertPart(*selection_.vector, whole, range, {expert, part, begin}, experts);
    });
  };
  pack(source.w1, ExpertPart::kW1);
  if (experts.gated) pack(source.w3, ExpertPart::kW3);
  pack(source.w2, ExpertPart::kW2);
}

void CpuBackend::PackExpertRows(const WeightSource& rows,
                                const ExpertRows& at,
                                PackedExperts& experts) {
  PackExpertPart(*selection_.vector, rows, {0, rows.n}, at, experts);
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
    if (IsInteger(table.format)) {
      const float row_scale = table.scales()[id];
      for (int64_t k = 0; k < table.k; ++k) {
        row[k] = scale * (static_cast<float>(IntegerWeight(table, id, k)) * row_scale);
      }
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
