#include "kernels/op_profile.h"

#include <chrono>
#include <utility>

#include "kernels/op_cost.h"

namespace sluice::kernels {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Decorates every op that runs in a step; what runs at load is passed on.
class ProfilingBackend final : public Backend {
 public:
  ProfilingBackend(std::unique_ptr<Backend> backend, OpProfile* profile)
      : backend_(std::move(backend)), profile_(profile) {}

  std::string name() const override { return backend_->name(); }
  int num_threads() const override { return backend_->num_threads(); }
  std::vector<KernelChoice> Kernels() const override { return backend_->Kernels(); }
  absl::StatusOr<Buffer> Allocate(size_t bytes) override { return backend_->Allocate(bytes); }
  void ForEach(int64_t count, absl::FunctionRef<void(int64_t)> task) override {
    backend_->ForEach(count, task);
  }
  absl::StatusOr<PackedMatrix> AllocateMatrix(int64_t n, int64_t k, WeightFormat format) override {
    return backend_->AllocateMatrix(n, k, format);
  }
  void PackRows(const WeightSource& rows, int64_t first_row, PackedMatrix& matrix) override {
    backend_->PackRows(rows, first_row, matrix);
  }
  absl::StatusOr<PackedMatrix> Pack(std::span<const WeightSource> parts,
                                    WeightFormat format) override {
    return backend_->Pack(parts, format);
  }
  absl::StatusOr<PackedExperts> AllocateExperts(
      int32_t num_experts, int64_t dim, int64_t hidden, bool gated, WeightFormat format) override {
    return backend_->AllocateExperts(num_experts, dim, hidden, gated, format);
  }
  void PackExpert(const ExpertSource& source, int32_t expert, PackedExperts& experts) override {
    backend_->PackExpert(source, expert, experts);
  }
  void PackExpertRows(const WeightSource& rows,
                      const ExpertRows& at,
                      PackedExperts& experts) override {
    backend_->PackExpertRows(rows, at, experts);
  }
  int64_t KvPageBytes(const KvGeometry& geometry) const override {
    return backend_->KvPageBytes(geometry);
  }
  int64_t MoeWorkspaceBytes(const PackedExperts& experts,
                            int32_t max_rows,
                            int32_t top_k) const override {
    return backend_->MoeWorkspaceBytes(experts, max_rows, top_k);
  }
  void ReserveScratch(int32_t max_rows) override { backend_->ReserveScratch(max_rows); }
  bool Prefetches(WeightFormat format) const override { return backend_->Prefetches(format); }
  void Tune(std::span<const PackedMatrix* const> weights, double seconds) override {
    backend_->Tune(weights, seconds);
  }

  void Embed(const PackedMatrix& table,
             std::span<const int32_t> ids,
             float scale,
             TensorView out) override {
    Time([&] { return EmbedCost(table, static_cast<int64_t>(ids.size())); },
         [&] { backend_->Embed(table, ids, scale, out); });
  }
  void Linear(const LinearArgs& args) override {
    Time([&] { return LinearCost(args); }, [&] { backend_->Linear(args); });
  }
  void ExpertLinear(const ExpertLinearArgs& args) override {
    Time([&] { return ExpertLinearCost(args); }, [&] { backend_->ExpertLinear(args); });
  }
  void Norm(const NormArgs& args) override {
    Time([&] { return NormCost(args); }, [&] { backend_->Norm(args); });
  }
  void RopeTable(const RopeTableArgs& args) override {
    Time([&] { return RopeTableCost(args); }, [&] { backend_->RopeTable(args); });
  }
  void Rope(const RopeArgs& args) override {
    Time([&] { return RopeCost(args); }, [&] { backend_->Rope(args); });
  }
  void AppendKv(const AppendKvArgs& args) override {
    Time([&] { return AppendKvCost(args); }, [&] { backend_->AppendKv(args); });
  }
  void PagedAttention(const AttentionArgs& args) override {
    Time([&] { return AttentionCost(args); }, [&] { backend_->PagedAttention(args); });
  }
  void Activate(const ActivateArgs& args) override {
    Time([&] { return ActivateCost(args); }, [&] { backend_->Activate(args); });
  }
  void Route(const RouteArgs& args) override {
    Time([&] { return RouteCost(args); }, [&] { backend_->Route(args); });
  }
  void Gather(TensorView x, const RowSet& rows, TensorView out) override {
    Time([&] { return GatherCost(rows, x.cols); }, [&] { backend_->Gather(x, rows, out); });
  }
  void AddRows(TensorView y, float scale, TensorView x, const RowSet& rows) override {
    Time([&] { return AddRowsCost(rows, x.cols); }, [&] { backend_->AddRows(y, scale, x, rows); });
  }
  void CombineDepth(const DepthCombineArgs& args) override {
    Time([&] { return CombineDepthCost(args); }, [&] { backend_->CombineDepth(args); });
  }
  void SelectAbove(const SelectAboveArgs& args) override {
    Time([&] { return SelectAboveCost(args); }, [&] { backend_->SelectAbove(args); });
  }
  void Fill(TensorView x, float value) override {
    Time([&] { return FillCost(x); }, [&] { backend_->Fill(x, value); });
  }
  void MoeFfn(const MoeFfnArgs& args) override {
    Time([&] { return MoeCost(args); }, [&] { backend_->MoeFfn(args); });
  }
  void CopyToHost(const void* device, void* host, size_t bytes) override {
    Time([&] { return CopyCost(bytes); }, [&] { backend_->CopyToHost(device, host, bytes); });
  }
  void CopyToDevice(const void* host, void* device, size_t bytes) override {
    Time([&] { return CopyCost(bytes); }, [&] { backend_->CopyToDevice(host, device, bytes); });
  }
  void Synchronize() override { backend_->Synchronize(); }
  bool memory_is_host() const override { return backend_->memory_is_host(); }
  std::optional<DeviceMemory> device_memory() const override { return backend_->device_memory(); }
  absl::Status status() const override { return backend_->status(); }

 private:
  template <typename Cost, typename Op>
  void Time(const Cost& cost_of, const Op& op) {
    const Clock::time_point entered = Clock::now();
    OpCost cost = cost_of();
    const Clock::time_point begin = Clock::now();
    op();
    backend_->Synchronize();
    const Clock::time_point end = Clock::now();
    cost.seconds = Seconds(end - begin);
    cost.calls = 1;
    profile_->Add(cost);
    profile_->AddBookkeeping(Seconds(begin - entered) + Seconds(Clock::now() - end));
  }

  const std::unique_ptr<Backend> backend_;
  OpProfile* const profile_;
};

}  // namespace

void OpProfile::Add(const OpCost& cost) {
  for (OpCost& row : costs_) {
    if (row.op != cost.op || row.label != cost.label || row.weights != cost.weights) continue;
    row.calls += cost.calls;
    row.seconds += cost.seconds;
    row.bytes += cost.bytes;
    row.operations += cost.operations;
    return;
  }
  costs_.push_back(cost);
}

void OpProfile::Reset() {
  costs_.clear();
  bookkeeping_ = 0.0;
}

double OpProfile::seconds() const {
  double sum = 0.0;
  for (const OpCost& cost : costs_) sum += cost.seconds;
  return sum;
}

std::unique_ptr<Backend> WithProfile(std::unique_ptr<Backend> backend, OpProfile* profile) {
  return std::make_unique<ProfilingBackend>(std::move(backend), profile);
}

}  // namespace sluice::kernels
