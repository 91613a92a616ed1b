// The executable specification of every op: naive loops, double accumulation, row-major weights.
// Used by the tests and to debug a model; far too slow to serve with.
#pragma once

#include <string>
#include <vector>

#include "kernels/backend.h"

namespace sluice::kernels {

class ReferenceBackend final : public Backend {
 public:
  std::string name() const override { return "reference"; }
  int num_threads() const override { return 1; }
  std::vector<KernelChoice> Kernels() const override;

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

  void CopyToHost(const void* device, void* host, size_t bytes) override;
  void CopyToDevice(const void* host, void* device, size_t bytes) override;
  void Synchronize() override {}
};

}  // namespace sluice::kernels
