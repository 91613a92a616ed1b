// Reading of the weight loader: what goes in parallel, and what is packed while it is read.
#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/blocks/weight_loader.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using kernels::PackedMatrix;
using kernels::WeightSource;

// Of one task: little enough to be packed while it is in the second cache.
constexpr int64_t kTaskBytes = int64_t{1} << 20;
// A block of the packed layouts; also what shares their cache lines.
constexpr int64_t kTaskRows = 64;

// The first error of several threads.
class SharedStatus {
 public:
  void Update(const absl::Status& status) {
    if (status.ok()) return;
    const absl::MutexLock lock(&mutex_);
    status_.Update(status);
  }
  absl::Status status() const {
    const absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  mutable absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// Buffers that tasks are done with, for the next ones: memory that was given back to the system
// costs a page fault for every page of every task.
class SpareBytes {
 public:
  RawBytes Take() {
    const absl::MutexLock lock(&mutex_);
    if (spare_.empty()) return {};
    RawBytes bytes = std::move(spare_.back());
    spare_.pop_back();
    return bytes;
  }
  void Return(RawBytes bytes) {
    const absl::MutexLock lock(&mutex_);
    spare_.push_back(std::move(bytes));
  }

 private:
  absl::Mutex mutex_;
  std::vector<RawBytes> spare_ ABSL_GUARDED_BY(mutex_);
};

// Stored row by row as the packed matrix wants them.
bool IsPlain(const ProjectionSpec& part) { return !part.transposed && part.row_run == 0; }

}  // namespace

void WeightLoader::Report(int64_t bytes) {
  const int64_t done = done_bytes_ += bytes;
  if (!progress_ || std::this_thread::get_id() != thread_) return;
  const int64_t step = std::max<int64_t>(total_bytes_ / 100, 1);
  if (done - last_reported_ < step) return;
  last_reported_ = done;
  progress_(std::min(done, total_bytes_), total_bytes_);
}

void WeightLoader::FinishProgress() const {
  if (progress_) progress_(total_bytes_, total_bytes_);
}

absl::Status WeightLoader::ReadElements(const std::string& name, int64_t first, Raw& raw) {
  const int64_t element = kernels::SizeOf(raw.dtype);
  const auto bytes = static_cast<int64_t>(raw.bytes.size());
  const int64_t tasks = std::max<int64_t>(1, bytes / kTaskBytes);
  const int64_t elements_per_task = (bytes / element + tasks - 1) / tasks;
  SharedStatus shared;
  const auto read = [&](int64_t task) {
    const int64_t begin = std::min(bytes, task * elements_per_task * element);
    const int64_t end = std::min(bytes, begin + elements_per_task * element);
    const std::span<std::byte> into(raw.bytes.data() + begin, static_cast<size_t>(end - begin));
    if (tasks == 1 || begin < end) shared.Update(store_.Read(name, first + begin / element, into));
  };
  backend_.ForEach(tasks, read);
  RETURN_IF_ERROR(shared.status());
  Report(bytes);
  return absl::OkStatus();
}

absl::Status WeightLoader::ForStoredRows(const std::vector<StoredRows>& parts,
                                         PackStoredRows pack) {
  struct Task {
    size_t part = 0;
    int64_t begin = 0;
    int64_t rows = 0;
  };
  std::vector<Task> tasks;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int64_t row_bytes = parts[i].cols * kernels::SizeOf(parts[i].dtype);
    const int64_t rows_per_task =
        std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, row_bytes * kTaskRows)) * kTaskRows;
    for (int64_t begin = 0; begin < parts[i].rows; begin += rows_per_task)
      tasks.push_back({i, begin, std::min(rows_per_task, parts[i].rows - begin)});
  }
  SharedStatus shared;
  SpareBytes spare;
  const auto run = [&](int64_t index) {
    const auto& [number, begin, rows] = tasks[static_cast<size_t>(index)];
    const StoredRows& part = parts[number];
    RawBytes raw = spare.Take();
    raw.clear();  // or growing would copy what was there
    raw.resize(static_cast<size_t>(rows * part.cols * kernels::SizeOf(part.dtype)));
    const absl::Status status = store_.Read(part.name, part.first_element + begin * part.cols, raw);
    if (status.ok()) {
      pack(number, begin, {raw.data(), part.dtype, rows, part.cols});
      Report(static_cast<int64_t>(raw.size()));
    }
    shared.Update(status);
    spare.Return(std::move(raw));
  };
  backend_.ForEach(static_cast<int64_t>(tasks.size()), run);
  Report(0);  // what the other threads read
  return shared.status();
}

absl::Status WeightLoader::PackStored(const ProjectionSpec& part,
                                      int64_t first_row,
                                      PackedMatrix& matrix) {
  ASSIGN_OR_RETURN(const TensorRange stored, store_.Find(part.weight));
  ASSIGN_OR_RETURN(const TensorRange range,
                   CheckedRange(part.weight, stored.num_elements(), /*allow_bytes=*/false));
  return ForStoredRows({{part.weight, range.dtype, part.row_begin * part.in, part.out, part.in}},
                       [&](size_t, int64_t begin, const WeightSource& rows) {
                         backend_.PackRows(rows, first_row + begin, matrix);
                       });
}

absl::StatusOr<PackedMatrix> WeightLoader::PackParts(const std::vector<ProjectionSpec>& parts,
                                                     const MatrixShape& shape) {
  if (std::all_of(parts.begin(), parts.end(), IsPlain)) {
    for (const ProjectionSpec& part : parts)  // before anything is allocated by its size
      RETURN_IF_ERROR(CheckMatrixShape(part.weight, part.row_begin + part.out, part.in, false));
    ASSIGN_OR_RETURN(PackedMatrix matrix, backend_.AllocateMatrix(shape.n, shape.k, shape.format));
    int64_t row = 0;
    for (const ProjectionSpec& part : parts) {
      RETURN_IF_ERROR(PackStored(part, row, matrix));
      row += part.out;
    }
    return matrix;
  }
  std::vector<Raw> raws;
  std::vector<WeightSource> sources;
  for (const ProjectionSpec& part : parts) {
    ASSIGN_OR_RETURN(Raw raw, ReadProjection(part));
    raws.push_back(std::move(raw));
    sources.push_back(
        {raws.back().bytes.data(), raws.back().dtype, part.out, part.in, part.transposed});
  }
  return backend_.Pack(sources, shape.format);
}

}  // namespace sluice
