#include "engine/blocks/moe_ffn.h"

#include <utility>

#include "engine/status_macros.h"

namespace sluice {

absl::StatusOr<std::unique_ptr<MoeFfn>> MoeFfn::Load(const MoeFfnSpec& spec,
                                                     int64_t dim,
                                                     kernels::Backend& backend,
                                                     WeightLoader& loader) {
  ASSIGN_OR_RETURN(ExpertRouter router, ExpertRouter::Load(spec.router, dim, 1, loader));
  auto block = std::make_unique<MoeFfn>(std::move(router));
  block->spec_ = spec;
  block->backend_ = &backend;
  ASSIGN_OR_RETURN(block->experts_, loader.Experts(spec, dim));
  ASSIGN_OR_RETURN(block->biases_, loader.ExpertBiases(spec, dim));
  if (spec.shared.has_value()) {
    ASSIGN_OR_RETURN(block->shared_, DenseFfn::Load(*spec.shared, loader));
  }
  if (!spec.shared_gate.empty()) {
    const ProjectionSpec gate{.in = dim, .out = 1, .weight = spec.shared_gate};
    ASSIGN_OR_RETURN(block->shared_gate_, loader.Matrix({gate}, kernels::WeightFormat::kF32));
  }
  ASSIGN_OR_RETURN(block->output_bias_, loader.Vector(spec.output_bias, dim));
  return block;
}

void MoeFfn::Forward(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  const kernels::RowSet rows = kernels::AllRows(count);
  Workspace::Scope scope(context.workspace);
  const Routing routing = router_.Route({.x = input.normed,
                                         .rows = &input.rows,
                                         .layer_instance = input.layer_instance,
                                         .kind = ExpertKind::kFfn},
                                        context);
  // The shared part and the experts read the same input; with a target that is not the residual
  // stream it starts from zero.
  if (!input.accumulate) context.backend.Fill(input.out.Rows(0, count), 0.0f);
  context.backend.MoeFfn({.x = spec_.input_from_residual ? input.rows.x : input.normed,
                          .x_rows = rows,
                          .experts = &experts_,
                          .activation = spec_.activation,
                          .expert_ids = routing.experts,
                          .weights = routing.weights,
                          .top_k = routing.top_k,
                          .out = input.out,
                          .out_rows = rows,
                          .workspace = context.workspace.TakeDevice(
                              context.backend.MoeWorkspaceBytes(experts_, count, routing.top_k)),
                          .biases = {biases_.gate.data(), biases_.up.data(), biases_.down.data()},
                          .clamp = spec_.clamp});
  CountExpertWork(routing, input.rows, context);
  if (shared_ != nullptr) AddShared(input, context);
  AddToRows(output_bias_, count, input.out, context.backend);
}

void MoeFfn::AddShared(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  float* gate = nullptr;
  if (shared_gate_.n > 0) {
    const kernels::RowSet rows = kernels::AllRows(count);
    gate = context.workspace.Take<float>(count);
    int32_t* ignored = context.workspace.Take<int32_t>(count);
    const kernels::TensorView logits = context.workspace.TakeMatrix(count, 1);
    context.backend.Linear({.x = input.normed,
                            .x_rows = rows,
                            .weight = &shared_gate_,
                            .out = logits,
                            .out_rows = rows});
    // A sigmoid router with one expert: its weight is sigmoid(logit).
    context.backend.Route({.score = ScoreFunction::kSigmoid,
                           .top_k = 1,
                           .logits = logits,
                           .rows = count,
                           .experts = ignored,
                           .weights = gate});
    context.stats.AddFlops(input.rows.origin, 2.0 * static_cast<double>(shared_gate_.k));
    context.stats.AddWeightBytes(shared_gate_.bytes());
  }
  BlockInput shared_input = input;
  shared_input.accumulate = true;
  shared_->ForwardScaled(shared_input, gate, context);
}

void MoeFfn::CountExpertWork(const Routing& routing,
                             const Rows& rows,
                             ForwardContext& context) const {
  int64_t touched = 0;
  uint64_t seen[64] = {};  // up to 4096 experts
  for (int32_t i = 0; i < rows.count(); ++i) {
    int32_t real = 0;
    for (int32_t j = 0; j < routing.top_k; ++j) {
      const int32_t expert = routing.experts[i * routing.top_k + j];
      if (expert >= experts_.num_experts) continue;
      ++real;
      uint64_t& word = seen[static_cast<size_t>(expert) / 64 % 64];
      const uint64_t bit = uint64_t{1} << (static_cast<uint64_t>(expert) % 64);
      touched += (word & bit) == 0 ? 1 : 0;
      word |= bit;
    }
    context.stats.AddRowFlops(rows.origin[i], ExpertFlops() * real);
  }
  context.stats.AddWeightBytes(touched * experts_.bytes_per_expert());
}

int64_t MoeFfn::WorkspaceBytes(int32_t max_rows) const {
  return router_.WorkspaceBytes(max_rows) +
         Workspace::BytesFor(backend_->MoeWorkspaceBytes(experts_, max_rows, spec_.router.top_k),
                             1) +
         (shared_ != nullptr ? shared_->WorkspaceBytes(max_rows) : 0) +
         3 * Workspace::BytesFor(max_rows);
}

double MoeFfn::ExpertFlops() const {
  return 2.0 * static_cast<double>((spec_.gated ? 3 : 2) * experts_.dim * experts_.hidden);
}

double MoeFfn::FlopsPerRow(bool dense) const {
  const int32_t experts = dense ? spec_.router.num_experts : spec_.router.top_k;
  return router_.FlopsPerRow() + ExpertFlops() * experts +
         (shared_ != nullptr ? shared_->FlopsPerRow(dense) : 0.0) +
         2.0 * static_cast<double>(shared_gate_.n * shared_gate_.k);
}

int64_t MoeFfn::WeightBytes() const {
  return router_.weight_bytes() + static_cast<int64_t>(experts_.storage.bytes()) +
         (shared_ != nullptr ? shared_->WeightBytes() : 0) + shared_gate_.bytes();
}

void MoeFfn::AddMatrices(std::vector<const kernels::PackedMatrix*>& to) const {
  for (const kernels::PackedExperts::Slice& slice : experts_.slices)
    to.insert(to.end(), {&slice.w1, &slice.w3, &slice.w2});
  if (shared_ != nullptr) shared_->AddMatrices(to);
}

}  // namespace sluice
