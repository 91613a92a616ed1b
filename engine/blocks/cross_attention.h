// Attention of a decoder's rows to the rows of its encoder: q from the decoder, k and v from the
// encoder's output, computed once per request and kept in a KV class of their own.
#pragma once

#include <memory>

#include "engine/blocks/block.h"
#include "engine/blocks/weight_loader.h"
#include "engine/model/model_spec.h"

namespace sluice {

class CrossAttention final : public Block {
 public:
  static absl::StatusOr<std::unique_ptr<CrossAttention>> Load(const AttentionSpec& spec,
                                                              WeightLoader& loader);

  void Forward(const BlockInput& input, ForwardContext& context) override;
  int64_t WorkspaceBytes(int32_t max_rows) const override;
  double FlopsPerRow(bool dense) const override;
  double FlopsPerSlot() const override;
  int64_t WeightBytes() const override;

 private:
  // Keys and values of the encoder rows of this step.
  void Store(const BlockInput& input, ForwardContext& context);

  AttentionSpec spec_;
  kernels::PackedMatrix q_, kv_, o_;  // kv: k | v
  FloatVector q_bias_, kv_bias_, o_bias_;
};

}  // namespace sluice
