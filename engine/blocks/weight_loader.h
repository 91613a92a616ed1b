// Reads tensors of a WeightStore and packs them for a backend, a few rows or one tensor at a time,
// so that raw and packed copies of the model never coexist. Shapes are checked against what the
// spec expects. Load time only. Projections and experts get the loader's format; what decides
// (routers, gates, halting, predictors), positions, vectors and low-rank adapters is asked for as
// f32 by its owner.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/blocks/packed_source.h"
#include "engine/model/model_spec.h"
#include "engine/weights/weight_store.h"
#include "kernels/backend.h"

namespace sluice {

// Bytes loaded so far of all bytes. Called on the loading thread.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// A few floats in device memory: norm weights, biases, sinks.
struct FloatVector {
  kernels::Buffer storage;
  int64_t size = 0;
  const float* data() const { return static_cast<const float*>(storage.data()); }
  bool empty() const { return size == 0; }
};

// out[i] += vector for the first `count` rows; nothing without a vector.
inline void AddToRows(const FloatVector& vector,
                      int32_t count,
                      kernels::TensorView out,
                      kernels::Backend& backend) {
  if (!vector.empty()) backend.Synchronize();
  for (int32_t i = 0; i < count && !vector.empty(); ++i) {
    for (int64_t c = 0; c < vector.size; ++c) out.Row(i)[c] += vector.data()[c];
  }
}

// Bytes that are not zeroed before they are read into.
struct UnsetBytes : std::allocator<std::byte> {
  template <typename T>
  struct rebind {
    using other = UnsetBytes;
  };
  void construct(std::byte* at) { ::new (static_cast<void*>(at)) std::byte; }
};
using RawBytes = std::vector<std::byte, UnsetBytes>;

class WeightLoader {
 public:
  WeightLoader(WeightStore& store,
               kernels::Backend& backend,
               kernels::WeightFormat format,
               LoadProgress progress,
               PackedCacheFiles packed = {});

  kernels::Backend& backend() const { return backend_; }
  kernels::WeightFormat format() const { return format_; }

  // All of a projection's rows, stacked along the outputs in the given order. InvalidArgument
  // naming the tensor when a shape differs.
  absl::StatusOr<kernels::PackedMatrix> Matrix(const std::vector<ProjectionSpec>& parts,
                                               kernels::WeightFormat format);
  absl::StatusOr<kernels::PackedMatrix> Matrix(const ProjectionSpec& part) {
    return Matrix({part}, format_);
  }
  // The biases of `parts`, stacked; empty when none has one, zeros where only some have.
  absl::StatusOr<FloatVector> Biases(const std::vector<ProjectionSpec>& parts);
  // A whole 1-D tensor (or one whose elements are `size` in number), plus `offset`. Empty name:
  // empty vector.
  absl::StatusOr<FloatVector> Vector(const std::string& name, int64_t size, float offset = 0.0f);
  // Matrices of a stacked tensor [count, a, b], one packed matrix each.
  absl::StatusOr<std::vector<kernels::PackedMatrix>> Stacked(const ProjectionSpec& part,
                                                             int32_t count,
                                                             kernels::WeightFormat format);
  absl::StatusOr<std::vector<kernels::PackedMatrix>> Stacked(const ProjectionSpec& part,
                                                             int32_t count) {
    return Stacked(part, count, format_);
  }
  // The same as one matrix, their outputs behind one another.
  absl::StatusOr<kernels::PackedMatrix> Joined(const ProjectionSpec& part,
                                               int32_t count,
                                               kernels::WeightFormat format);
  absl::StatusOr<kernels::PackedExperts> Experts(const MoeFfnSpec& spec, int64_t dim);
  // Biases of all experts, gate and up apart; empty where the spec names none.
  struct ExpertVectors {
    FloatVector gate, up, down;
  };
  absl::StatusOr<ExpertVectors> ExpertBiases(const MoeFfnSpec& spec, int64_t dim);
  // The rows of `part`, stored [out, in], as the matrix of the transposed map: `out` inputs.
  absl::StatusOr<kernels::PackedMatrix> Turned(const ProjectionSpec& part);

  // Tells of all bytes: what nobody asks for is never read.
  void FinishProgress() const;

  // A device vector of host floats.
  absl::StatusOr<FloatVector> ToDevice(const std::vector<float>& values);

 private:
  struct Raw {
    RawBytes bytes;
    kernels::DType dtype = kernels::DType::kF32;
  };
  // Its range; InvalidArgument unless it has `total` elements, which are float or, where allowed,
  // bytes.
  absl::StatusOr<TensorRange> CheckedRange(const std::string& name,
                                           int64_t total,
                                           bool allow_bytes) const;
  // WeightStore::Read, large ranges by several threads.
  absl::Status ReadElements(const std::string& name, int64_t first, Raw& raw);
  // Counts what was read, on any thread, and tells on the loading thread.
  void Report(int64_t bytes);
  // Rows of a stored tensor, one behind the other as a packed matrix wants them.
  struct StoredRows {
    std::string name;
    kernels::DType dtype = kernels::DType::kF32;
    int64_t first_element = 0;
    int64_t rows = 0;
    int64_t cols = 0;
  };
  // Reads `parts`, some rows at a time, and hands these to `pack` with the number of their part and
  // of their first row in it. Several threads do.
  using PackStoredRows =
      absl::FunctionRef<void(size_t part, int64_t first_row, const kernels::WeightSource& rows)>;
  absl::Status ForStoredRows(const std::vector<StoredRows>& parts, PackStoredRows pack);
  // Reads and packs the rows of a plain projection, some at a time.
  absl::Status PackStored(const ProjectionSpec& part,
                          int64_t first_row,
                          kernels::PackedMatrix& matrix);
  absl::StatusOr<kernels::PackedMatrix> PackParts(const std::vector<ProjectionSpec>& parts,
                                                  const MatrixShape& shape);
  // Elements [first, first + count) of a tensor that must have `total` elements of rank >= 1.
  // Numbers are float, or with `allow_bytes` may be bytes.
  absl::StatusOr<Raw> ReadRaw(const std::string& name,
                              int64_t total,
                              int64_t first,
                              int64_t count,
                              bool allow_bytes = false);
  absl::StatusOr<Raw> ReadProjection(const ProjectionSpec& part);
  absl::StatusOr<Raw> ReadRuns(const ProjectionSpec& part);
  // One matrix [out, count * in] as `count` matrices of its column ranges.
  absl::StatusOr<std::vector<kernels::PackedMatrix>> SplitColumns(const ProjectionSpec& part,
                                                                  int32_t count);
  // A matrix [rows, cols] ([cols, rows] when the experts are transposed).
  struct ExpertMatrix {
    int32_t expert = 0;
    int64_t rows = 0;
    int64_t cols = 0;
  };
  absl::StatusOr<Raw> ReadExpertMatrix(const std::string& pattern,
                                       const MoeFfnSpec& spec,
                                       const ExpertMatrix& matrix);
  absl::StatusOr<Raw> ReadMxfp4(const std::string& name,
                                int32_t num_experts,
                                const ExpertMatrix& matrix);
  absl::Status CheckMatrixShape(const std::string& name,
                                int64_t rows,
                                int64_t cols,
                                bool exact_rows);
  absl::Status FillExpert(const MoeFfnSpec& spec, int32_t expert, kernels::PackedExperts& experts);
  // All experts, whose matrices are stored row by row and by themselves, some rows at a time.
  absl::Status FillFromStored(const MoeFfnSpec& spec, kernels::PackedExperts& experts);

  WeightStore& store_;
  kernels::Backend& backend_;
  kernels::WeightFormat format_;
  LoadProgress progress_;
  const int64_t total_bytes_;  // of the packed cache, where there is one
  PackedSource packed_;
  const std::thread::id thread_ = std::this_thread::get_id();
  std::atomic<int64_t> done_bytes_ = 0;
  int64_t last_reported_ = 0;
};

// Host floats of raw f32, bf16 or f16 elements.
std::vector<float> ToFloats(const std::byte* data, kernels::DType dtype, int64_t count);

}  // namespace sluice
