// The ops of backend.h on an NVIDIA GPU (sm_80 and later), enqueued on one stream. Memory is
// managed: the host may touch it after Synchronize. Lists of the host are copied when an op is
// called. int4 weights are refused.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/backend_factory.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/product_kernels.h"
#include "kernels/cuda/row_kernels.h"

namespace sluice::kernels::cuda {

class CudaBackend final : public Backend {
 public:
  // `spec.device`: "cuda" or "cuda:N". FailedPrecondition when there is no such device, or it is
  // too old.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const DeviceSpec& spec);
  ~CudaBackend() override;

  std::string name() const override { return "cuda"; }
  int num_threads() const override { return 1; }
  std::vector<KernelChoice> Kernels() const override;
  bool memory_is_host() const override { return false; }
  std::optional<DeviceMemory> device_memory() const override { return memory_.Count(); }
  absl::Status status() const override { return status_.status(); }

  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
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

  void CopyToHost(const void* device, void* host, size_t bytes) override;
  void CopyToDevice(const void* host, void* device, size_t bytes) override;
  void Synchronize() override;

 private:
  // Rows ready for a product (PrepareCall).
  struct Prepared {
    const void* data = nullptr;
    const float* scales = nullptr;
  };
  // Assignments in the order of a key (their expert, their output row), and in their own inside it.
  struct Runs {
    std::vector<int32_t> order;  // place -> assignment
    std::vector<int32_t> keys;   // of the runs, ascending
    std::vector<int32_t> begin;  // [runs + 1] places

    int32_t Longest() const;
  };

  CudaBackend(const DeviceSpec& spec, const Device& device, cudaStream_t stream);

  // Makes the device that of this thread: the one that loads is not the one that serves.
  void Select() const;
  // For the stream; what an op still holds stays.
  void Wait();

  // A copy of a list of the host.
  template <typename T>
  const T* List(const T* list, int64_t count) {
    Select();
    return lists_.Copy(list, count);
  }
  // `values` themselves, which are memory of the device: checked when ops are waited for.
  const float* Values(const float* values) const;
  DeviceRows Rows(const TensorView& x, const RowSet& rows);
  PageShape ShapeOf(const KvLayerView& kv) const;
  // Runs `launch` and keeps its error; nothing is launched on a device that has failed.
  template <typename LaunchOp>
  void Run(const char* what, const LaunchOp& launch) {
    if (!status_.ok()) return;
    Select();
    status_.Check(launch(), what);
    if (synchronous_) Wait();
  }
  // `scratch` with room for so many bytes; when it must grow, it waits.
  void* Reserve(Buffer& scratch, int64_t bytes);
  Prepared Prepare(const PackedMatrix& weight, const DeviceRows& x, int32_t rows, Buffer& scratch);
  // Leaves assignments out whose key is `end` or more.
  static void Sort(const int32_t* keys, int32_t count, int32_t end, Runs& runs);
  // Multiplies every run of experts_ with its weight, cut into tiles.
  template <typename TileOf>
  void RunTiles(ProductCall call, const TileOf& tile_of);

  int device_;
  std::string description_;  // of the device
  cudaStream_t stream_;
  DeviceStatus status_;
  MemoryPlan memory_;
  ListRing lists_{stream_, status_};
  bool synchronous_ = false;
  Buffer inputs_, hidden_inputs_, partials_;
  int64_t widest_row_ = 0;  // bytes of a prepared row, of all weights so far
  // Lists that ops make, kept so that they do not allocate.
  Runs experts_, outputs_;
  std::vector<ProductTile> tiles_;
  std::vector<int32_t> table_, table_row_, pages_, sequences_, rows_;
  std::vector<float> weights_;
};

}  // namespace sluice::kernels::cuda
