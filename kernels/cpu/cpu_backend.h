// The CPU backend: chooses one kernel per op when it is made, owns the thread pool and the scratch
// memory. The ops are spread over cpu_*.cc by theme; the arithmetic is in vector_*.inc and gemm_*.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/backend_factory.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/prefetch_choice.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/vector_kernels.h"

namespace sluice::kernels::cpu {

// Rows of a GEMM as its family reads them.
struct GemmInput {
  const void* data = nullptr;
  int64_t stride = 0;                  // elements
  const float* scales = nullptr;       // int8, int4: of each row
  const GemmFamily* family = nullptr;  // that the rows were prepared for
};

// Where the values of an output block start.
inline const void* ValuesAt(const PackedMatrix& weight, int64_t block) {
  const int64_t values = block * kBlockColumns * weight.k_padded;
  return static_cast<const char*>(weight.data) + ValueBytes(weight.format, values);
}

// Where one product goes.
struct GemmOutput {
  TensorView out;
  RowSet rows;
  int64_t first_column = 0;  // of the product, that `out` starts with
  const float* bias = nullptr;
  VectorActivation activation = VectorActivation::kNone;
  bool accumulate = false;
  const float* row_scale = nullptr;
};

// One output block of 64 columns for the input rows [begin, end).
struct BlockRange {
  int64_t block = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int8_t* expanded = nullptr;  // CpuBackend::Expanded of the worker
  const void* next = nullptr;  // GemmTile::next, once all rows are done
};

// Slices [first, last) of an expert. Accumulate: those before them are in the partial results.
struct MoeSlices {
  int32_t first = 0;
  int32_t last = 0;
  bool accumulate = false;
};

// Rows [first_row, last_row) of one sequence and one KV head.
struct AttendUnit {
  int32_t first_row = 0;
  int32_t last_row = 0;
  int32_t kv_head = 0;
};

constexpr int64_t kSumColumns = 512;
struct RowColumns {
  int64_t row = 0;
  int64_t column = 0;
  int64_t columns = 0;  // at most kSumColumns
};

// Assignments of an ExpertLinear that are computed together.
constexpr int32_t kExpertChunk = 1024;
// Products of them that a worker keeps until it adds them up, in floats: a block of 64 outputs of
// all.
constexpr int64_t kExpertProducts = kExpertChunk * kBlockColumns;
// Output blocks for each thread from which on threads share an ExpertLinear by outputs alone.
constexpr int64_t kExpertBlocksPerThread = 4;

struct ExpertChunk;  // cpu_expert_linear.cc
struct MoePlan;      // cpu_moe.cc
struct MoeRows;
struct WeightSample;  // cpu_prefetch.cc

// Host memory that only grows. Growth happens at load; in a step only if ReserveScratch was not
// told.
class Scratch {
 public:
  template <typename T>
  T* Get(int64_t count) {
    return static_cast<T*>(Grow(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  void* Grow(size_t bytes);
  Buffer buffer_;
};

class CpuBackend final : public Backend {
 public:
  // Codes of DetectCpuFeatures and SelectGemm.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const DeviceSpec& spec);

  std::string name() const override { return "cpu"; }
  int num_threads() const override { return pool_.num_threads(); }
  std::vector<KernelChoice> Kernels() const override;

  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
  void ForEach(int64_t count, absl::FunctionRef<void(int64_t)> task) override;
  absl::StatusOr<PackedMatrix> AllocateMatrix(int64_t n, int64_t k, WeightFormat format) override;
  void PackRows(const WeightSource& rows, int64_t first_row, PackedMatrix& matrix) override;
  absl::StatusOr<PackedMatrix> Pack(std::span<const WeightSource> parts,
                                    WeightFormat format) override;
  absl::StatusOr<PackedExperts> AllocateExperts(
      int32_t num_experts, int64_t dim, int64_t hidden, bool gated, WeightFormat format) override;
  void PackExpert(const ExpertSource& source, int32_t expert, PackedExperts& experts) override;
  void PackExpertRows(const WeightSource& rows,
                      const ExpertRows& at,
                      PackedExperts& experts) override;

  void Embed(const PackedMatrix& table,
             std::span<const int32_t> ids,
             float scale,
             TensorView out) override;
  void Linear(const LinearArgs& args) override;
  void ExpertLinear(const ExpertLinearArgs& args) override;
  void Norm(const NormArgs& args) override;
  void RopeTable(const RopeTableArgs& args) override;
  void Rope(const RopeArgs& args) override;
  int64_t KvPageBytes(const KvGeometry& geometry) const override;
  void AppendKv(const AppendKvArgs& args) override;
  void PagedAttention(const AttentionArgs& args) override;
  void Activate(const ActivateArgs& args) override;
  void Route(const RouteArgs& args) override;
  void Gather(TensorView x, const RowSet& rows, TensorView out) override;
  void AddRows(TensorView y, float scale, TensorView x, const RowSet& rows) override;
  void CombineDepth(const DepthCombineArgs& args) override;
  void SelectAbove(const SelectAboveArgs& args) override;
  void Fill(TensorView x, float value) override;

  int64_t MoeWorkspaceBytes(const PackedExperts& experts,
                            int32_t max_rows,
                            int32_t top_k) const override;
  void MoeFfn(const MoeFfnArgs& args) override;
  void ReserveScratch(int32_t max_rows) override;
  bool Prefetches(WeightFormat format) const override { return Family(format, 1).prefetches; }
  void Tune(std::span<const PackedMatrix* const> weights, double seconds) override;

  void CopyToHost(const void* device, void* host, size_t bytes) override;
  void CopyToDevice(const void* host, void* device, size_t bytes) override;
  void Synchronize() override {}

 private:
  struct Selection {
    const VectorKernels* vector = nullptr;
    GemmChoice f32;
    GemmChoice bf16;
    GemmChoice int8;
    GemmChoice int4;
  };

  CpuBackend(int threads,
             const CpuFeatures& features,
             const Selection& selection,
             std::optional<int64_t> prefetch_bytes);

  // For int4 weights it depends on the rows of the product, but no bit does: the family of int4 has
  // those of int8 on the weights made int8.
  const GemmFamily& Family(WeightFormat format, int64_t rows) const {
    const GemmFamily& int4 = selection_.int4.family;
    if (format == WeightFormat::kInt4 && int4.tile != nullptr && rows <= int4.max_rows) return int4;
    if (IsInteger(format)) return selection_.int8.family;
    return format == WeightFormat::kF32 ? selection_.f32.family : selection_.bf16.family;
  }

  // Runs task(i, worker) for all i, on the calling thread alone when `work` (a rough count of
  // elements) is too small to be worth waking anybody.
  template <typename Task>
  void For(int64_t num_tasks, int64_t work, Task&& task) {
    if (work < kMinParallelWork) {
      for (int64_t i = 0; i < num_tasks; ++i) task(i, 0);
      return;
    }
    pool_.ParallelFor(num_tasks, task);
  }

  // Runs body(row) for all rows of a row-wise op.
  template <typename Body>
  void ForRows(int64_t rows, int64_t columns, const Body& body) {
    constexpr int64_t kRowsPerTask = 8;
    For((rows + kRowsPerTask - 1) / kRowsPerTask, rows * columns, [&](int64_t task, int) {
      const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
      for (int64_t row = task * kRowsPerTask; row < end; ++row) body(row);
    });
  }

  // Rows of x, gathered and padded as `family` wants them. Valid until the next call.
  GemmInput PrepareInput(TensorView x,
                         const RowSet& rows,
                         const PackedMatrix& weight,
                         const GemmFamily& family);
  // `scale` is set by families of integers only.
  void PrepareRow(
      const float* x, const GemmFamily& family, int64_t columns, void* out, float* scale) const;
  // The block of outputs that starts at `column` as the family of `input` reads it: in its place,
  // or for int4 made int8 in `expanded`.
  const void* BlockAt(const GemmInput& input,
                      const PackedMatrix& weight,
                      int64_t column,
                      int8_t* expanded) const;
  // The product of the input rows from `row` on and the block of outputs that starts at `column`;
  // how many rows, with which values, and where to, is the caller's.
  GemmTile TileAt(const GemmInput& input,
                  int64_t row,
                  const PackedMatrix& weight,
                  int64_t column) const;
  // Room for two int4 blocks made int8, null without int4 weights. A worker's own.
  int8_t* Expanded(int worker) {
    return expanded_[static_cast<size_t>(worker)].Get<int8_t>(2 * kBlockColumns * max_int4_k_);
  }
  void RunGemm(const GemmInput& input, const PackedMatrix& weight, const GemmOutput& output);
  // Output block `block` (64 columns) for the rows [begin, end).
  void RunBlock(const GemmInput& input,
                const PackedMatrix& weight,
                const GemmOutput& output,
                const BlockRange& range) const;
  void NoteShape(const PackedMatrix& matrix);

  // Of weights of one format, for at most `seconds`. Leaves the last distance that it tried.
  PrefetchTimes TimePrefetch(std::span<const PackedMatrix* const> weights, double seconds);
  double TimeSample(const GemmInput& input, const WeightSample& sample);

  void ReserveExperts(const PackedExperts& experts);
  void RunMoeTask(const MoeFfnArgs& args, const MoePlan& plan, int64_t task, int worker);
  void RunMoeSlices(const MoeFfnArgs& args, const MoeRows& rows, const MoeSlices& slices) const;
  void RunMoeHidden(const MoeFfnArgs& args,
                    const MoeRows& rows,
                    const PackedExperts::Slice& slice) const;
  void RunMoeDown(const PackedExperts& experts, const MoeRows& rows, const MoeSlices& slices) const;
  void RunMoeUp(const MoeFfnArgs& args,
                const MoeRows& rows,
                const PackedExperts::Slice& slice,
                int64_t column) const;
  void SumExperts(const MoeFfnArgs& args, const MoePlan& plan, const RowColumns& at) const;
  void RunExpertChunk(const ExpertLinearArgs& args, int32_t begin, int32_t count);
  void RunExpertColumns(const ExpertLinearArgs& args,
                        const ExpertChunk& chunk,
                        const GemmInput& input,
                        int64_t first_block,
                        int64_t last_block,
                        int worker);
  void RunExpertBlocks(const ExpertLinearArgs& args,
                       const ExpertChunk& chunk,
                       const GemmInput& input);
  // Adds the products in `from`, a row for each assignment of the chunk, to the columns of `out`
  // from `column` on.
  void AddProducts(const ExpertLinearArgs& args,
                   const ExpertChunk& chunk,
                   TensorView from,
                   int64_t column) const;

  void AttendRow(const AttentionArgs& args, const AttendUnit& unit, float* scratch) const;
  void RouteRow(const RouteArgs& args, int64_t row, float* scores) const;

  static constexpr int64_t kMinParallelWork = 16384;

  CpuFeatures features_;
  Selection selection_;
  const bool asked_for_prefetch_;
  std::array<PrefetchChoice, kNumWeightFormats> prefetch_;
  ThreadPool pool_;
  Scratch input_;                  // rows of the current GEMM
  Scratch partial_;                // products of an ExpertLinear of few outputs
  std::vector<Scratch> worker_;    // one per worker
  std::vector<Scratch> expanded_;  // one per worker
  int64_t max_k_ = 64;
  int64_t max_n_ = 64;
  int64_t max_int4_k_ = 0;
};

}  // namespace sluice::kernels::cpu
