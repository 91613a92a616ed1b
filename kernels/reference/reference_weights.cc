// Packing of the reference backend: row-major, padded like every packed matrix.
#include <algorithm>

#include "kernels/host_memory.h"
#include "kernels/int8.h"
#include "kernels/packed_storage.h"
#include "kernels/reference/reference_backend.h"
#include "kernels/row_major_packing.h"

namespace sluice::kernels {

absl::StatusOr<Buffer> ReferenceBackend::Allocate(size_t bytes) { return AllocateHost(bytes); }

absl::StatusOr<PackedMatrix> ReferenceBackend::AllocateMatrix(int64_t n,
                                                              int64_t k,
                                                              WeightFormat format) {
  const WeightSource shape{.n = n, .k = k};
  return AllocatePacked(*this, {&shape, 1}, format);
}

void ReferenceBackend::PackRows(const WeightSource& rows, int64_t first_row, PackedMatrix& matrix) {
  PackRowMajorRows(rows, first_row, matrix);
}

absl::StatusOr<PackedMatrix> ReferenceBackend::Pack(std::span<const WeightSource> parts,
                                                    WeightFormat format) {
  return PackRowMajor(*this, parts, format);
}

absl::StatusOr<PackedExperts> ReferenceBackend::AllocateExperts(
    int32_t num_experts, int64_t dim, int64_t hidden, bool gated, WeightFormat format) {
  return AllocatePacked(
      *this, {.num_experts = num_experts,
              .dim = dim,
              .hidden = hidden,
              .slice_hidden = IsInteger(format) ? std::min(hidden, kInt8SliceHidden) : hidden,
              .gated = gated,
              .format = format});
}

void ReferenceBackend::PackExpert(const ExpertSource& source,
                                  int32_t expert,
                                  PackedExperts& experts) {
  PackRowMajorExpert(source, expert, experts);
}

void ReferenceBackend::PackExpertRows(const WeightSource& rows,
                                      const ExpertRows& at,
                                      PackedExperts& experts) {
  PackRowMajorExpertRows(rows, at, experts);
}

}  // namespace sluice::kernels
