// Packing of weights row by row, [n_padded, k_padded], int4 two values to a byte with the scales of
// its groups behind them: the layout of the reference backend and of GPUs.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/packed_matrix.h"

namespace sluice::kernels {

inline float ReadElement(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kBF16 ? ToFloat(BF16{bits}) : HalfToFloat(bits);
}

inline void WriteElement(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<BF16*>(data)[index] = ToBF16(value);
  }
}

// A row of int4 weights: two values to a byte, behind them the scales of the groups.
struct Int4Row {
  Int4Row(const PackedMatrix& matrix, int64_t row)
      : values(static_cast<uint8_t*>(const_cast<void*>(matrix.data)) +
               row * ValueBytes(WeightFormat::kInt4, matrix.k_padded)),
        groups(static_cast<int8_t*>(static_cast<void*>(values + matrix.k_padded / 2))) {}

  void Set(int64_t k, int8_t q) const {
    const int shift = static_cast<int>(k % 2) * 4;
    values[k / 2] = static_cast<uint8_t>((values[k / 2] & (0xF0 >> shift)) | ((q & 15) << shift));
  }
  // The int8 that the weight stands for.
  int32_t At(int64_t k) const {
    const int32_t bits = (values[k / 2] >> (k % 2 * 4)) & 15;
    return (bits < 8 ? bits : bits - 16) * groups[k / kInt4Group];
  }

  uint8_t* values;
  int8_t* groups;
};

// Backend::PackRows, Pack, PackExpert and PackExpertRows of a backend with this layout, whose
// memory the host may write.
void PackRowMajorRows(const WeightSource& rows, int64_t first_row, const PackedMatrix& matrix);
absl::StatusOr<PackedMatrix> PackRowMajor(Backend& backend,
                                          std::span<const WeightSource> parts,
                                          WeightFormat format);
void PackRowMajorExpert(const ExpertSource& source, int32_t expert, const PackedExperts& experts);
void PackRowMajorExpertRows(const WeightSource& rows,
                            const ExpertRows& at,
                            const PackedExperts& experts);

}  // namespace sluice::kernels
