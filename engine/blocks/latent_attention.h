// Multi-head latent attention (DeepSeek-AI 2024, sec. 2.1) over a cache of one narrow key per
// token: [rotated key shared by all heads | normed latent], whose latent part is the value too. The
// up-projections of keys and values are absorbed: a query head is [rotated part | W_k^T q_nope],
// and what it attends is turned into its value by W_v afterwards. Prompts and decoded tokens take
// the same path, so chunking changes no bit.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/blocks/block.h"
#include "engine/blocks/norm.h"
#include "engine/blocks/rope_tables.h"
#include "engine/blocks/weight_loader.h"

namespace sluice {

class LatentAttention final : public Block {
 public:
  // `tables`: shared by all attentions of the model; outlives the block.
  static absl::StatusOr<std::unique_ptr<LatentAttention>> Load(const LatentAttentionSpec& spec,
                                                               RopeTables& tables,
                                                               WeightLoader& loader);

  void Forward(const BlockInput& input, ForwardContext& context) override;
  int64_t WorkspaceBytes(int32_t max_rows) const override;
  double FlopsPerRow(bool dense) const override;
  double FlopsPerSlot() const override;
  double KeyFlopsPerRow(bool dense) const override;
  int64_t WeightBytes() const override;

 private:
  int64_t key_dim() const { return int64_t{spec_.rope_dim} + spec_.latent_dim; }
  int64_t rank() const { return spec_.q_down.has_value() ? spec_.q_down->out : 0; }

  absl::Status LoadHeads(WeightLoader& loader);
  // `down`: what the first projection made of these rows, their first rank() columns at least.
  kernels::TensorView Queries(const BlockInput& input,
                              kernels::TensorView down,
                              ForwardContext& context) const;
  void Rotate(kernels::TensorView x,
              int32_t num_heads,
              const Rows& rows,
              ForwardContext& context) const;
  // out[row, h] = x[row, h] matrices[h]^T; both are [count * num_heads, *].
  void MapHeads(const std::vector<kernels::PackedMatrix>& matrices,
                kernels::TensorView x,
                kernels::TensorView out,
                ForwardContext& context) const;

  LatentAttentionSpec spec_;
  RopeTables* tables_ = nullptr;
  int32_t rope_table_ = -1;
  kernels::PackedMatrix down_;  // query rank (if any) | rotated key | latent
  kernels::PackedMatrix q_, o_;
  FloatVector down_bias_, o_bias_;
  std::optional<Norm> q_norm_, kv_norm_;
  std::vector<kernels::PackedMatrix> key_heads_;    // [num_heads], nope_dim -> latent_dim
  std::vector<kernels::PackedMatrix> value_heads_;  // [num_heads], latent_dim -> value_dim
};

}  // namespace sluice
