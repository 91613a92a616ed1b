#include "kernels/op_profile.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

namespace sluice::kernels {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

OpCost LinearCost(const LinearArgs& args) {
  const PackedMatrix& weight = *args.weight;
  OpCost cost{.op = "linear", .label = weight.label, .weights = weight.format};
  if (args.x_rows.count == 0) return cost;
  cost.bytes = static_cast<double>(weight.bytes());
  cost.operations = 2.0 * args.x_rows.count * static_cast<double>(weight.n * weight.k);
  return cost;
}

OpCost ExpertLinearCost(const ExpertLinearArgs& args) {
  OpCost cost{.op = "expert_linear"};
  if (args.weights.empty()) return cost;
  cost.label = args.weights[0].label;
  cost.weights = args.weights[0].format;
  std::vector<bool> touched(args.weights.size(), false);
  for (int32_t a = 0; a < args.count; ++a) {
    const auto expert = static_cast<size_t>(args.expert[a]);
    const PackedMatrix& weight = args.weights[expert];
    if (!touched[expert]) cost.bytes += static_cast<double>(weight.bytes());
    touched[expert] = true;
    cost.operations += 2.0 * static_cast<double>(weight.n * weight.k);
  }
  return cost;
}

OpCost MoeCost(const MoeFfnArgs& args) {
  const PackedExperts& experts = *args.experts;
  OpCost cost{.op = "moe_ffn", .label = experts.label, .weights = experts.format};
  std::vector<bool> touched(static_cast<size_t>(experts.num_experts), false);
  const double products = experts.gated ? 3.0 : 2.0;
  for (int64_t a = 0; a < int64_t{args.x_rows.count} * args.top_k; ++a) {
    if (args.expert_ids[a] >= experts.num_experts) continue;  // a null expert
    const auto expert = static_cast<size_t>(args.expert_ids[a]);
    if (!touched[expert]) cost.bytes += static_cast<double>(experts.bytes_per_expert());
    touched[expert] = true;
    cost.operations += 2.0 * products * static_cast<double>(experts.dim * experts.hidden);
  }
  return cost;
}

// The slots that a row sees: between which, and how many.
struct Visible {
  int32_t begin = 0, end = 0;
  int64_t slots = 0;
};

Visible VisibleTo(const AttentionArgs& args, int32_t row) {
  Visible out{args.rows.begin[row], args.rows.end[row], 0};
  out.slots = std::max(0, out.end - out.begin);
  if (args.spans == nullptr) return out;
  const KvSpan* spans = args.spans + int64_t{row} * args.span_heads * args.num_spans;
  out = {std::numeric_limits<int32_t>::max(), 0, 0};
  for (int32_t s = 0; s < args.num_spans; ++s) {  // of the first head: the others see as many
    if (spans[s].begin >= spans[s].end) continue;
    out.begin = std::min(out.begin, spans[s].begin);
    out.end = std::max(out.end, spans[s].end);
    out.slots += spans[s].end - spans[s].begin;
  }
  return out;
}

double SlotBytes(const KvGeometry& shape) {
  const int32_t value_dim = shape.value_in_key ? 0 : shape.value_dim;
  return static_cast<double>(shape.num_kv_heads) * (shape.key_dim + value_dim) *
         static_cast<double>(SizeOf(shape.dtype));
}

OpCost AppendKvCost(const AppendKvArgs& args) {
  return {.op = "append_kv", .bytes = SlotBytes(args.kv.geometry) * args.rows.count};
}

// Rows of one sequence stand together.
OpCost AttentionCost(const AttentionArgs& args) {
  OpCost cost{.op = "attention"};
  const KvGeometry& shape = args.kv.geometry;
  const double slot_bytes = SlotBytes(shape);
  const double slot_operations = 2.0 * args.num_heads * (shape.key_dim + shape.value_dim);
  for (int32_t i = 0; i < args.rows.count;) {
    const int32_t sequence = args.rows.sequence[i];
    Visible all = VisibleTo(args, i);
    for (int64_t slots = 0; i < args.rows.count && args.rows.sequence[i] == sequence; ++i) {
      const Visible row = VisibleTo(args, i);
      all.begin = std::min(all.begin, row.begin);
      all.end = std::max(all.end, row.end);
      all.slots = slots += row.slots;
    }
    cost.operations += slot_operations * static_cast<double>(all.slots);
    const int64_t read = std::min<int64_t>(all.slots, std::max(0, all.end - all.begin));
    cost.bytes += slot_bytes * static_cast<double>(read);
  }
  return cost;
}

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
    Time([] { return OpCost{.op = "embed"}; }, [&] { backend_->Embed(table, ids, scale, out); });
  }
  void Linear(const LinearArgs& args) override {
    Time([&] { return LinearCost(args); }, [&] { backend_->Linear(args); });
  }
  void ExpertLinear(const ExpertLinearArgs& args) override {
    Time([&] { return ExpertLinearCost(args); }, [&] { backend_->ExpertLinear(args); });
  }
  void Norm(const NormArgs& args) override {
    Time([] { return OpCost{.op = "norm"}; }, [&] { backend_->Norm(args); });
  }
  void RopeTable(const RopeTableArgs& args) override {
    Time([] { return OpCost{.op = "rope_table"}; }, [&] { backend_->RopeTable(args); });
  }
  void Rope(const RopeArgs& args) override {
    Time([] { return OpCost{.op = "rope"}; }, [&] { backend_->Rope(args); });
  }
  void AppendKv(const AppendKvArgs& args) override {
    Time([&] { return AppendKvCost(args); }, [&] { backend_->AppendKv(args); });
  }
  void PagedAttention(const AttentionArgs& args) override {
    Time([&] { return AttentionCost(args); }, [&] { backend_->PagedAttention(args); });
  }
  void Activate(const ActivateArgs& args) override {
    Time([] { return OpCost{.op = "activate"}; }, [&] { backend_->Activate(args); });
  }
  void Route(const RouteArgs& args) override {
    Time([] { return OpCost{.op = "route"}; }, [&] { backend_->Route(args); });
  }
  void Gather(TensorView x, const RowSet& rows, TensorView out) override {
    Time([] { return OpCost{.op = "gather"}; }, [&] { backend_->Gather(x, rows, out); });
  }
  void AddRows(TensorView y, float scale, TensorView x, const RowSet& rows) override {
    Time([] { return OpCost{.op = "add_rows"}; }, [&] { backend_->AddRows(y, scale, x, rows); });
  }
  void CombineDepth(const DepthCombineArgs& args) override {
    Time([] { return OpCost{.op = "combine_depth"}; }, [&] { backend_->CombineDepth(args); });
  }
  void SelectAbove(const SelectAboveArgs& args) override {
    Time([] { return OpCost{.op = "select_above"}; }, [&] { backend_->SelectAbove(args); });
  }
  void Fill(TensorView x, float value) override {
    Time([] { return OpCost{.op = "fill"}; }, [&] { backend_->Fill(x, value); });
  }
  void MoeFfn(const MoeFfnArgs& args) override {
    Time([&] { return MoeCost(args); }, [&] { backend_->MoeFfn(args); });
  }
  void CopyToHost(const void* device, void* host, size_t bytes) override {
    Time([] { return OpCost{.op = "copy"}; }, [&] { backend_->CopyToHost(device, host, bytes); });
  }
  void CopyToDevice(const void* host, void* device, size_t bytes) override {
    Time([] { return OpCost{.op = "copy"}; }, [&] { backend_->CopyToDevice(host, device, bytes); });
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
