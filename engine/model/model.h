// A loaded model: packed weights and the one forward loop. Architecture is data: there is no class
// per family. Engine thread only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/blocks/block.h"
#include "engine/blocks/norm.h"
#include "engine/blocks/rope_tables.h"
#include "engine/model/depth_router.h"
#include "engine/model/model_spec.h"
#include "engine/model/recurrence.h"
#include "engine/model/rows.h"

namespace sluice {

// Receives the logits (of an encoder: the last hidden state) of wanted row `index` (into
// Batch::wanted). The row may be changed in place.
using LogitsSink = absl::FunctionRef<void(int32_t index, std::span<float> logits)>;

// One execution of a layer in the unrolled network.
struct LayerInstance {
  std::string label;  // "3", or "group.repeat.layer" in a repeated group
  bool routed = false;
  bool may_stop = false;           // in a repeat that rows may not reach
  std::optional<double> capacity;  // trained share of rows; none: not known
};

class Model {
 public:
  // Runs one step. `context.stats` and `context.placements` have been reset. Nothing is allocated.
  void Forward(ForwardContext& context, LogitsSink logits);

  const ModelSpec& spec() const { return spec_; }
  const std::vector<LayerInstance>& instances() const { return instances_; }
  // Of them the encoder's, which come first, where there are two stacks.
  int32_t num_encoder_instances() const { return num_encoder_instances_; }
  const std::vector<KvClassSpec>& kv_classes() const { return kv_classes_; }
  const std::vector<KvRule>& kv_rules() const { return kv_rules_; }
  int64_t WorkspaceBytes() const { return workspace_bytes_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  // The matrices that hold most of the bytes that steps multiply with.
  std::vector<const kernels::PackedMatrix*> Matrices() const;
  kernels::WeightFormat weight_format() const { return weight_format_; }
  int64_t num_parameters() const { return num_parameters_; }
  // Read by an average row: chosen experts and the trained share of depth-routed layers.
  int64_t num_active_parameters() const { return num_active_parameters_; }
  int64_t max_expert_ids_per_row() const { return max_expert_ids_per_row_; }
  int32_t max_rows() const { return max_rows_; }
  // Where draft rows leave the network (Batch::early_exit); 0: nowhere.
  int32_t exit_instance() const { return exit_instance_; }
  // FLOPs of a row at `position` with every routed layer and every expert run; the head, and what
  // leads from the last keys and values to it, only for a row whose logits are wanted, as when it
  // is executed.
  double DenseFlops(int32_t position, bool with_logits, bool in_encoder = false) const {
    const StackCost& cost = costs_[in_encoder ? 1 : 0];
    const double all = cost.flops_per_row + cost.flops_per_slot * (position + 1);
    if (with_logits) return all + head_flops_;
    return all - cost.skipped_per_row - cost.skipped_per_slot * (position + 1);
  }

 private:
  friend class ModelBuilder;

  struct Sublayer {
    std::optional<Norm> input_norm, output_norm, residual_norm;
    std::unique_ptr<Block> block;
    float residual_scale = 1.0f;
    std::vector<KvLayer> kv;  // per repeat; empty when the block stores nothing
    int64_t kept_begin = 0;   // its columns of StoredRows::kept
    int64_t kept_width = 0;
  };
  struct Layer {
    std::optional<DepthRouter> depth;
    std::vector<Sublayer> sublayers;
    int32_t index_in_group = 0;
    bool can_skip = false;  // it is the last one, and LastLayerCanSkip
  };
  struct Group {
    explicit Group(Recurrence loaded) : recurrence(std::move(loaded)) {}
    RepeatSpec repeat;
    Recurrence recurrence;
    std::vector<Layer> layers;
    int32_t first_instance = 0;
  };
  // One execution of a layer.
  struct Execution {
    int32_t step = 0;  // repeat of its group
    int32_t instance = 0;
    const SecondStream* second = nullptr;
    const StoredRows* stored = nullptr;
    uint8_t* taken = nullptr;           // per row of the batch: took the last depth-routed layer
    const Rows* encoded = nullptr;      // the encoder's last rows of this step
    const KeyRows* keys = nullptr;      // where more rows leave keys than run
    const Selection* chosen = nullptr;  // of a routed layer: the rows it was given
    bool wanted_only = false;           // rows whose logits nobody wants end with keys and values
  };

  // Layer instances [first, last) of the unrolled network.
  struct Span {
    int32_t first = 0;
    int32_t last = 0;
  };

  const kernels::PackedMatrix& head() const { return head_.has_value() ? *head_ : embedding_; }
  Rows Embed(ForwardContext& context);
  // The layers `span` of some groups. `encoded`: what decoders attend to; may be null.
  struct Course {
    Span span;
    uint8_t* taken = nullptr;
    const Rows* encoded = nullptr;
  };
  void RunGroups(std::vector<Group>& groups,
                 const Course& course,
                 const Rows& rows,
                 ForwardContext& context);
  void RunFromCut(const Course& course, const Rows& rows, ForwardContext& context);
  // Encoder rows through the encoder, then decoder rows through the decoder, back into `rows`.
  void RunStacks(const Course& course, const Rows& rows, ForwardContext& context);
  static Rows Part(const Rows& rows, bool encoder, ForwardContext& context);
  void RunGroup(Group& group, const Course& course, const Rows& rows, ForwardContext& context);
  void RunLayer(Layer& layer, const Execution& at, const Rows& rows, ForwardContext& context);
  // Sublayers [first, last) of a layer.
  void RunSublayers(Layer& layer,
                    std::pair<size_t, size_t> part,
                    const Execution& at,
                    const Rows& rows,
                    ForwardContext& context);
  // The same where only the rows whose logits are wanted run; the others leave keys and values.
  void RunWanted(Layer& layer,
                 std::pair<size_t, size_t> part,
                 const Execution& at,
                 const Rows& rows,
                 ForwardContext& context);
  static kernels::TensorView Normed(const Sublayer& sublayer,
                                    kernels::TensorView x,
                                    ForwardContext& context);
  void RunSublayer(const Layer& layer,
                   const Sublayer& sublayer,
                   const Execution& at,
                   const Rows& rows,
                   ForwardContext& context);
  static kernels::TensorView NormedSecond(const Sublayer& sublayer,
                                          const SecondStream& second,
                                          ForwardContext& context);
  void AddEmbedding(const kernels::PackedMatrix& table,
                    std::span<const int32_t> ids,
                    kernels::TensorView x,
                    ForwardContext& context) const;
  void RunHead(const Rows& rows, ForwardContext& context, LogitsSink logits);

  ModelSpec spec_;
  int32_t max_rows_ = 0;
  int32_t exit_instance_ = 0;
  int32_t num_encoder_instances_ = 0;
  kernels::WeightFormat weight_format_ = kernels::WeightFormat::kF32;  // of the projections
  kernels::PackedMatrix embedding_;
  std::optional<kernels::PackedMatrix> positions_, token_type_;
  std::optional<Norm> embedding_norm_;
  std::optional<kernels::PackedMatrix> head_;  // none: tied to the embedding
  FloatVector head_bias_;
  std::optional<Norm> final_norm_, encoder_norm_;
  RopeTables rope_tables_;
  std::vector<Group> encoder_groups_, groups_;  // the first of an encoder-decoder only
  std::vector<LayerInstance> instances_;
  std::vector<KvClassSpec> kv_classes_;
  std::vector<KvRule> kv_rules_;  // per KV class
  int64_t workspace_bytes_ = 0, weight_bytes_ = 0, num_parameters_ = 0, num_active_parameters_ = 0;
  int64_t max_expert_ids_per_row_ = 0;
  // With every layer and every expert run.
  struct StackCost {
    double flops_per_row = 0.0, flops_per_slot = 0.0;
    double skipped_per_row = 0.0, skipped_per_slot = 0.0;  // of a row whose logits nobody wants
  };
  std::array<StackCost, 2> costs_;  // the decoder's, and of an encoder-decoder the encoder's
  double head_flops_ = 0.0;
};

}  // namespace sluice
