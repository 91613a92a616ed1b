// Self-attention over the paged cache: q, k, v -> (norms, rope) -> append -> attend -> o. MHA, GQA,
// windows, sinks, sparse patterns; value and output projections may be per-head experts
// (SwitchHead, Csordas et al. 2024).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "engine/blocks/block.h"
#include "engine/blocks/expert_router.h"
#include "engine/blocks/norm.h"
#include "engine/blocks/position_bias.h"
#include "engine/blocks/rope_tables.h"
#include "engine/blocks/soft_adapter.h"
#include "engine/blocks/sparse_pattern.h"

namespace sluice {

class Attention final : public Block {
 public:
  // `tables`: shared by all attentions of the model; outlives the block. `query_apart`: some
  // executions need no keys and values (RepeatKv::kFirst), or those of more rows than they run
  // (KeyRows).
  static absl::StatusOr<std::unique_ptr<Attention>> Load(const AttentionSpec& spec,
                                                         RopeTables& tables,
                                                         WeightLoader& loader,
                                                         bool query_apart);

  void Forward(const BlockInput& input, ForwardContext& context) override;
  int64_t WorkspaceBytes(int32_t max_rows) const override;
  double FlopsPerRow(bool dense) const override;
  double FlopsPerSlot() const override;
  double KeyFlopsPerRow(bool dense) const override;
  int64_t WeightBytes() const override;

 private:
  // A projection whose matrix is chosen per (row, head) among experts.
  struct ExpertProjection {
    ExpertRouter router;
    std::vector<kernels::PackedMatrix> matrices;  // [heads * experts]
  };
  struct Heads {
    kernels::TensorView q, k, v;
  };
  // Absent ones do nothing.
  struct Adapters {
    SoftLowRank q, k, v, o;
    SoftScaling k_scaling, v_scaling;
    std::array<const SoftLowRank*, 4> low_ranks() const { return {&q, &k, &v, &o}; }
    std::array<const SoftScaling*, 2> scalings() const { return {&k_scaling, &v_scaling}; }
    // `stores`: with the parts of keys and values.
    double FlopsPerRow(bool stores = true) const;
    int64_t WeightBytes(bool stores = true) const;
    int64_t WorkspaceBytes(int32_t max_rows) const;
  };

  // What each query sees, where the attention is sparse; else no spans.
  struct Sight {
    const kernels::KvSpan* spans = nullptr;
    int32_t num_spans = 0;
    int32_t heads = 1;
  };

  static absl::StatusOr<std::optional<ExpertProjection>> LoadExperts(
      const ProjectionSpec& projection, const AttentionSpec& spec, WeightLoader& loader);
  static absl::StatusOr<Adapters> LoadAdapters(const AttentionSpec& spec, WeightLoader& loader);
  Heads Project(const BlockInput& input, ForwardContext& context);
  kernels::TensorView Linear(const kernels::PackedMatrix& weight,
                             const FloatVector& bias,
                             kernels::TensorView x,
                             ForwardContext& context) const;
  void ProjectKeys(const BlockInput& input,
                   kernels::TensorView keys,
                   Heads& heads,
                   ForwardContext& context);
  void Adapt(const BlockInput& input, const Heads& heads, ForwardContext& context) const;
  void ProjectExpertValues(const BlockInput& input,
                           kernels::TensorView values,
                           ForwardContext& context);
  void NormAndRotate(const Heads& heads,
                     const Rows& rows,
                     const int32_t* positions,
                     ForwardContext& context);
  void Store(const BlockInput& input,
             const Heads& heads,
             const kernels::KvRows& places,
             ForwardContext& context);
  void StoreKeyRows(const BlockInput& input,
                    const kernels::KvRows& places,
                    ForwardContext& context);
  Sight Look(const BlockInput& input, const kernels::KvRows& rows, ForwardContext& context) const;
  void CountSlots(const Rows& rows,
                  const kernels::KvRows& placed,
                  const Sight& sight,
                  ForwardContext& context) const;
  void ProjectOutput(const BlockInput& input,
                     kernels::TensorView attended,
                     ForwardContext& context);
  void ProjectExpertOutput(const BlockInput& input,
                           kernels::TensorView attended,
                           ForwardContext& context);
  void RunExperts(const ExpertProjection& experts,
                  const kernels::ExpertLinearArgs& args,
                  const Rows& rows,
                  ForwardContext& context) const;
  bool Stores(const BlockInput& input) const;
  double DenseProjectionFlops(bool stores) const;
  double KeyFlops() const;
  int64_t KeyBytes() const;
  double ExpertFlops(const std::optional<ExpertProjection>& experts, bool dense) const;

  AttentionSpec spec_;
  RopeTables* tables_ = nullptr;
  int32_t rope_table_ = -1;
  kernels::PackedMatrix q_;    // of queries apart; n == 0 otherwise
  kernels::PackedMatrix qkv_;  // q | k | v, or less: without q apart, without v of another input
  kernels::PackedMatrix v_;    // values read from the residual stream; n == 0 otherwise
  kernels::PackedMatrix o_;    // n == 0 with output experts
  FloatVector q_bias_, qkv_bias_, v_bias_, o_bias_, sinks_;
  std::optional<Norm> q_norm_, k_norm_;
  std::optional<SparsePattern> pattern_;
  std::optional<PositionBias> position_bias_;
  std::optional<ExpertProjection> value_experts_, output_experts_;
  Adapters adapters_;
};

}  // namespace sluice
