// Mixture-of-Attention (Zhang et al. 2022, arXiv 2210.05144; models.md 4.2): every row takes top_k
// pairs of query and output projections; all of them attend to one set of keys and values. With
// learned relative positions, and keys and values of a second stream where a group halts (SUT), or
// with rotary positions and an output bias (JetMoE, Shen et al. 2024, arXiv 2404.07413).
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "engine/blocks/block.h"
#include "engine/blocks/expert_router.h"
#include "engine/blocks/rope_tables.h"

namespace sluice {

class MixtureAttention final : public Block {
 public:
  // `tables`: shared by all attentions of the model; outlives the block.
  static absl::StatusOr<std::unique_ptr<MixtureAttention>> Load(const AttentionSpec& spec,
                                                                RopeTables& tables,
                                                                WeightLoader& loader);

  explicit MixtureAttention(ExpertRouter router) : router_(std::move(router)) {}
  void Forward(const BlockInput& input, ForwardContext& context) override;
  int64_t WorkspaceBytes(int32_t max_rows) const override;
  double FlopsPerRow(bool dense) const override;
  double FlopsPerSlot() const override;
  int64_t WeightBytes() const override;

 private:
  absl::Status LoadRelative(WeightLoader& loader);
  // The rows' places in the cache after their keys and values have been stored there.
  kernels::KvRows Store(const BlockInput& input, ForwardContext& context);
  // [rows, heads * top_k * head_dim]: the choices of a head are neighbours, so that they share it.
  kernels::TensorView Queries(const BlockInput& input,
                              const Routing& routing,
                              ForwardContext& context);
  // Rotates `heads` heads of each row; nothing without rotary positions.
  void Rotate(const BlockInput& input,
              kernels::TensorView x,
              int32_t heads,
              ForwardContext& context) const;
  const float* RelativeLogits(kernels::TensorView query, ForwardContext& context);
  void Output(const BlockInput& input,
              const Routing& routing,
              kernels::TensorView attended,
              ForwardContext& context);
  int64_t width() const { return int64_t{spec_.num_heads} * spec_.head_dim; }
  int32_t top_k() const { return router_.spec().top_k; }

  AttentionSpec spec_;
  int64_t dim_ = 0;
  RopeTables* tables_ = nullptr;
  int32_t rope_table_ = -1;
  ExpertRouter router_;
  kernels::PackedMatrix kv_;  // k | v
  FloatVector kv_bias_, output_bias_;
  std::vector<kernels::PackedMatrix> queries_, outputs_;  // [experts]
  std::vector<kernels::PackedMatrix> relative_;           // per head [max_distance, head_dim]
};

}  // namespace sluice
