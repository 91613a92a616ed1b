#include "engine/model/model_builder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/blocks/attention.h"
#include "engine/blocks/cross_attention.h"
#include "engine/blocks/dense_ffn.h"
#include "engine/blocks/latent_attention.h"
#include "engine/blocks/mixture_attention.h"
#include "engine/blocks/mixture_ffn.h"
#include "engine/blocks/moe_ffn.h"
#include "engine/model/exit_layer.h"
#include "engine/model/kv_need.h"
#include "engine/model/last_layer.h"
#include "engine/model/parameter_count.h"
#include "engine/status_macros.h"

namespace sluice {
using kernels::WeightFormat;

class ModelBuilder {
 public:
  ModelBuilder(const ModelSpec& spec,
               WeightStore& weights,
               kernels::Backend& backend,
               const BuildOptions& options,
               WeightFormat format,
               WeightFormat stored)
      : backend_(backend),
        options_(options),
        stored_(stored),
        loader_(weights, backend, format, options.progress, options.packed),
        kv_dtype_(options.kv_dtype.value_or(KvDTypeFor(loader_.format()))) {
    model_->spec_ = spec;
    model_->weight_format_ = loader_.format();
    model_->max_rows_ = options.max_rows;
  }

  absl::StatusOr<std::unique_ptr<Model>> Build() {
    if (options_.exit_layer != 0) {
      RETURN_IF_ERROR(CheckExitLayer(model_->spec_, options_.exit_layer));
      model_->exit_instance_ = options_.exit_layer;
    }
    RETURN_IF_ERROR(LoadEmbeddingAndHead());
    if (const StackSpec* encoder = model_->spec_.encoder(); encoder != nullptr) {
      cost_ = &model_->costs_[1];
      for (const LayerGroupSpec& group : encoder->groups)
        RETURN_IF_ERROR(AddGroup(group, model_->encoder_groups_));
      model_->num_encoder_instances_ = static_cast<int32_t>(model_->instances_.size());
    }
    cost_ = &model_->costs_[0];
    for (const LayerGroupSpec& group : stack().groups)
      RETURN_IF_ERROR(AddGroup(group, model_->groups_));
    RETURN_IF_ERROR(model_->rope_tables_.Allocate(backend_, options_.max_rows));
    FinishSizes();
    loader_.FinishProgress();
    return std::move(model_);
  }

 private:
  const StackSpec& stack() const { return model_->spec_.decoder(); }

  // The error of the head goes straight into the logits, nothing after it evens it out.
  WeightFormat HeadFormat() const {
    return loader_.format() == WeightFormat::kInt4 ? WeightFormat::kInt8 : loader_.format();
  }

  // Integers save no time where a table is only looked up, a row a token: that stays as stored.
  WeightFormat EmbeddingFormat() const {
    const bool is_head = model_->spec_.head.weight.empty() && !model_->spec_.is_encoder();
    if (is_head) return HeadFormat();
    return kernels::IsInteger(loader_.format()) ? stored_ : loader_.format();
  }

  absl::Status LoadEmbeddingAndHead() {
    const EmbeddingSpec& embedding = stack().embedding;
    const ProjectionSpec table{embedding.dim, embedding.vocab_size, embedding.weight};
    ASSIGN_OR_RETURN(model_->embedding_, loader_.Matrix({table}, EmbeddingFormat()));
    model_->weight_bytes_ += model_->embedding_.bytes();
    if (!embedding.position_weight.empty()) {
      const ProjectionSpec positions{.in = embedding.dim,
                                     .out = model_->spec_.max_positions,
                                     .weight = embedding.position_weight};
      ASSIGN_OR_RETURN(model_->positions_, loader_.Matrix({positions}, WeightFormat::kF32));
      model_->weight_bytes_ += model_->positions_->bytes();
    }
    if (!embedding.token_type_weight.empty()) {
      const ProjectionSpec types{
          .in = embedding.dim, .out = 1, .weight = embedding.token_type_weight};
      ASSIGN_OR_RETURN(model_->token_type_, loader_.Matrix({types}, WeightFormat::kF32));
      model_->weight_bytes_ += model_->token_type_->bytes();
    }
    if (embedding.norm.has_value()) {
      ASSIGN_OR_RETURN(model_->embedding_norm_,
                       Norm::Load(*embedding.norm, embedding.dim, loader_));
    }
    const HeadSpec& head = model_->spec_.head;
    ProjectionSpec projection{
        .in = embedding.dim, .out = embedding.vocab_size, .weight = head.weight, .bias = head.bias};
    if (!head.weight.empty()) {
      ASSIGN_OR_RETURN(model_->head_, loader_.Matrix({projection}, HeadFormat()));
      model_->weight_bytes_ += model_->head_->bytes();
    }
    ASSIGN_OR_RETURN(model_->head_bias_, loader_.Biases({projection}));
    if (const StackSpec* encoder = model_->spec_.encoder();
        encoder != nullptr && encoder->final_norm.has_value()) {
      ASSIGN_OR_RETURN(model_->encoder_norm_,
                       Norm::Load(*encoder->final_norm, embedding.dim, loader_));
    }
    if (stack().final_norm.has_value()) {
      ASSIGN_OR_RETURN(model_->final_norm_,
                       Norm::Load(*stack().final_norm, embedding.dim, loader_));
    }
    return absl::OkStatus();
  }

  absl::Status AddGroup(const LayerGroupSpec& spec, std::vector<Model::Group>& groups) {
    ASSIGN_OR_RETURN(Recurrence recurrence,
                     Recurrence::Load(spec, stack().embedding.dim, KeptWidth(spec), loader_));
    Model::Group group(std::move(recurrence));
    group.repeat = spec.repeat;
    group.first_instance = static_cast<int32_t>(model_->instances_.size());
    const auto num_layers = static_cast<int32_t>(spec.layers.size());
    for (int32_t step = 0; step < spec.repeat.times; ++step) {
      for (int32_t index = 0; index < num_layers; ++index) {
        const auto& depth = spec.layers[static_cast<size_t>(index)].depth;
        const auto number = static_cast<int32_t>(model_->instances_.size());
        model_->instances_.push_back({.label = spec.repeat.times == 1
                                                   ? absl::StrCat(number)
                                                   : absl::StrCat(spec.name, ".", step, ".", index),
                                      .routed = depth.has_value(),
                                      .may_stop = spec.repeat.rows_may_stop(),
                                      .capacity = ShareOfRows(depth, spec.repeat)});
      }
    }
    int64_t kept = 0;
    for (int32_t index = 0; index < num_layers; ++index) {
      ASSIGN_OR_RETURN(Model::Layer layer, MakeLayer(spec.layers[static_cast<size_t>(index)], group,
                                                     index, num_layers, kept));
      group.layers.push_back(std::move(layer));
    }
    model_->weight_bytes_ += group.recurrence.WeightBytes();
    cost_->flops_per_row += group.recurrence.FlopsPerRow();
    recurrence_workspace_ =
        std::max(recurrence_workspace_, group.recurrence.WorkspaceBytes(options_.max_rows));
    groups.push_back(std::move(group));
    return absl::OkStatus();
  }

  // Where rows stop by themselves the share is what the rule makes of the text.
  static std::optional<double> ShareOfRows(const std::optional<DepthRouterSpec>& depth,
                                           const RepeatSpec& repeat) {
    if (depth.has_value()) return TrainedShare(*depth);
    return repeat.halting == HaltingKind::kNone ? std::optional(1.0) : std::nullopt;
  }

  absl::StatusOr<Model::Layer> MakeLayer(const LayerSpec& spec,
                                         const Model::Group& group,
                                         int32_t index,
                                         int32_t num_layers,
                                         int64_t& kept) {
    const int64_t dim = stack().embedding.dim;
    Model::Layer layer;
    layer.index_in_group = index;
    layer.can_skip =
        &spec == &stack().groups.back().layers.back() && LastLayerCanSkip(model_->spec_);
    const int32_t times = group.repeat.times;
    if (spec.depth.has_value()) {
      ASSIGN_OR_RETURN(layer.depth, DepthRouter::Load(*spec.depth, dim, loader_));
      model_->weight_bytes_ += layer.depth->WeightBytes();
      cost_->flops_per_row += layer.depth->FlopsPerRow() * times;
    }
    for (size_t i = 0; i < spec.sublayers.size(); ++i) {
      const SublayerSpec& sublayer_spec = spec.sublayers[i];
      const bool routed =
          spec.depth.has_value() && i >= static_cast<size_t>(spec.depth->first_sublayer);
      const bool skips_keys = routed && spec.depth->kv != DepthKv::kAllTokens;
      const bool query_apart =
          group.repeat.kv == RepeatKv::kFirst || (routed && !skips_keys) || layer.can_skip;
      ASSIGN_OR_RETURN(Model::Sublayer sublayer, MakeSublayer(sublayer_spec, query_apart));
      const std::optional<KvNeed> need =
          KvNeedOf(sublayer_spec.block, skips_keys ? &*spec.depth : nullptr, kv_dtype_);
      for (int32_t step = 0; need.has_value() && step < times; ++step) {
        if (step > 0 && group.repeat.kv == RepeatKv::kFirst) {
          sublayer.kv.push_back(sublayer.kv[0]);
          continue;
        }
        const int32_t instance = group.first_instance + step * num_layers + index;
        sublayer.kv.push_back(
            AddKvLayer(*need, ChooseKvClass(*need, group.repeat, instance, step)));
      }
      sublayer.kept_begin = kept;
      if (group.repeat.kv == RepeatKv::kLatest) sublayer.kept_width = KvWidth(sublayer_spec.block);
      kept += sublayer.kept_width;
      const Block& block = *sublayer.block;
      cost_->flops_per_row += block.FlopsPerRow(true) * times;
      if (group.repeat.kv == RepeatKv::kFirst)
        cost_->flops_per_row -= block.KeyFlopsPerRow(true) * (times - 1);
      cost_->flops_per_slot += block.FlopsPerSlot() * times;
      if (layer.can_skip) {
        cost_->skipped_per_row += block.FlopsPerRow(true) - block.KeyFlopsPerRow(true);
        cost_->skipped_per_slot += block.FlopsPerSlot();
      }
      model_->weight_bytes_ += block.WeightBytes();
      layer.sublayers.push_back(std::move(sublayer));
    }
    layer_workspace_ = std::max(layer_workspace_, LayerWorkspace(layer));
    return layer;
  }

  absl::StatusOr<Model::Sublayer> MakeSublayer(const SublayerSpec& spec, bool query_apart) {
    const int64_t dim = stack().embedding.dim;
    Model::Sublayer sublayer;
    sublayer.residual_scale = spec.residual_scale;
    const auto load_norm = [&](const std::optional<NormSpec>& norm,
                               std::optional<Norm>& into) -> absl::Status {
      if (!norm.has_value()) return absl::OkStatus();
      ASSIGN_OR_RETURN(into, Norm::Load(*norm, dim, loader_));
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(load_norm(spec.input_norm, sublayer.input_norm));
    RETURN_IF_ERROR(load_norm(spec.output_norm, sublayer.output_norm));
    RETURN_IF_ERROR(load_norm(spec.residual_norm, sublayer.residual_norm));
    ASSIGN_OR_RETURN(sublayer.block, MakeBlock(spec.block, query_apart));
    return sublayer;
  }

  absl::StatusOr<std::unique_ptr<Block>> MakeBlock(const BlockSpec& spec, bool query_apart) {
    const int64_t dim = stack().embedding.dim;
    if (const auto* attention = std::get_if<AttentionSpec>(&spec)) {
      if (attention->q.experts.has_value()) {
        expert_ids_ += attention->q.experts->top_k;
        return MixtureAttention::Load(*attention, model_->rope_tables_, loader_);
      }
      for (const auto* projection : {&attention->v, &attention->o}) {
        if (projection->experts.has_value()) {
          expert_ids_ += int64_t{attention->num_heads} * projection->experts->top_k;
        }
      }
      if (attention->kv_source == KvSource::kEncoder)
        return CrossAttention::Load(*attention, loader_);
      return Attention::Load(*attention, model_->rope_tables_, loader_, query_apart);
    }
    if (const auto* moe = std::get_if<MoeFfnSpec>(&spec)) {
      expert_ids_ += moe->router.top_k;
      return MoeFfn::Load(*moe, dim, backend_, loader_);
    }
    if (const auto* latent = std::get_if<LatentAttentionSpec>(&spec)) {
      return LatentAttention::Load(*latent, model_->rope_tables_, loader_);
    }
    if (const auto* mixture = std::get_if<MixtureFfnSpec>(&spec))
      return MixtureFfn::Load(*mixture, dim, loader_);
    return DenseFfn::Load(std::get<DenseFfnSpec>(spec), loader_);
  }

  // Layers that store every row share a class with others of the same window and geometry; a routed
  // instance that does not has its own, and so have the layers of a repeat that rows may not reach.
  // Attention to a second stream stores every row. Draft rows run ahead in the layers before the
  // cut.
  struct KvClassChoice {
    std::string name;
    bool routed = false;
  };
  KvClassChoice ChooseKvClass(const KvNeed& need,
                              const RepeatSpec& repeat,
                              int32_t instance,
                              int32_t step) const {
    const LayerInstance& layer = model_->instances_[static_cast<size_t>(instance)];
    if (need.routed) return {absl::StrCat("layer ", layer.label), true};
    if (repeat.keys_may_miss() && !need.second_stream) {
      return {absl::StrCat("group ", model_->groups_.size(), " repeat ", step), true};
    }
    if (need.from_encoder) return {"encoder"};
    if (need.rule.full) return {"both ways"};
    const char* where =
        model_->exit_instance_ > 0 && instance < model_->exit_instance_ ? ", drafting" : "";
    return {need.rule.window == 0 ? absl::StrCat("all", where)
                                  : absl::StrCat("window ", need.rule.window, where)};
  }

  KvLayer AddKvLayer(const KvNeed& need, const KvClassChoice& chosen) {
    const kernels::KvGeometry& geometry = need.geometry;
    auto& classes = model_->kv_classes_;
    for (size_t c = 0; c < classes.size(); ++c) {
      if (classes[c].name == chosen.name && classes[c].geometry == geometry &&
          model_->kv_rules_[c] == need.rule) {
        return {static_cast<int32_t>(c), classes[c].num_layers++};
      }
    }
    classes.push_back(
        {.name = chosen.name, .num_layers = 1, .geometry = geometry, .routed = chosen.routed});
    model_->kv_rules_.push_back(need.rule);
    return {static_cast<int32_t>(classes.size()) - 1, 0};
  }

  int64_t LayerWorkspace(const Model::Layer& layer) const {
    const int32_t rows = options_.max_rows;
    const int64_t matrix = Workspace::BytesFor(rows * stack().embedding.dim);
    int64_t block = 0;
    for (const auto& sublayer : layer.sublayers) {
      // To store again what rows that stopped left.
      const int64_t kept = Workspace::BytesFor(rows * sublayer.kept_width);
      block = std::max(block, sublayer.block->WorkspaceBytes(rows) + kept);
    }
    int64_t depth = 0;
    if (layer.depth.has_value()) {
      // The rows that run, what the router reads and what keys are made of.
      depth = layer.depth->WorkspaceBytes(rows) + 3 * matrix + Workspace::BytesFor(rows);
    }
    int64_t wanted = 0;
    if (layer.can_skip) wanted = 2 * matrix + 6 * Workspace::BytesFor(rows);  // RunWanted's
    return depth + wanted + 3 * matrix + block;  // normed, out, and the second stream normed
  }

  void FinishSizes() {
    const int64_t rows = options_.max_rows;
    const int64_t matrix = Workspace::BytesFor(rows * stack().embedding.dim);
    const kernels::PackedMatrix& head =
        model_->head_.has_value() ? *model_->head_ : model_->embedding_;
    const int64_t head_bytes =
        Workspace::BytesFor(64 * stack().embedding.dim) + Workspace::BytesFor(64 * head.n);
    const int64_t stacks = model_->spec_.encoder() == nullptr
                               ? 0
                               : 2 * (matrix + Workspace::BytesFor(rows, sizeof(int32_t)));
    model_->workspace_bytes_ = stacks + 2 * matrix + Workspace::BytesFor(rows, 1) +
                               std::max(recurrence_workspace_ + layer_workspace_, head_bytes);
    if (model_->exit_instance_ > 0) {  // rows packed and resumed, and the lists of both
      model_->workspace_bytes_ += 2 * matrix + 3 * Workspace::BytesFor(rows);
    }
    if (!model_->spec_.is_encoder())
      model_->head_flops_ = 2.0 * static_cast<double>(head.n * head.k);
    const ParameterCount parameters = CountParameters(model_->spec_);
    model_->num_parameters_ = parameters.total;
    model_->num_active_parameters_ = static_cast<int64_t>(parameters.active);
    int64_t repeats = 1;
    for (const auto& group : model_->encoder_groups_)
      repeats = std::max<int64_t>(repeats, group.repeat.times);
    for (const auto& group : model_->groups_)
      repeats = std::max<int64_t>(repeats, group.repeat.times);
    model_->max_expert_ids_per_row_ = expert_ids_ * repeats;
  }

  kernels::Backend& backend_;
  const BuildOptions& options_;
  const WeightFormat stored_;  // f32 or bf16
  WeightLoader loader_;
  kernels::DType kv_dtype_;
  std::unique_ptr<Model> model_ = std::make_unique<Model>();
  Model::StackCost* cost_ = nullptr;  // of the stack that is being built
  int64_t layer_workspace_ = 0, recurrence_workspace_ = 0, expert_ids_ = 0;
};

namespace {

// What numbers that nobody rounds to integers are kept as: f32 or bf16.
absl::StatusOr<WeightFormat> StoredFormat(const ModelSpec& spec, const WeightStore& weights) {
  ASSIGN_OR_RETURN(const TensorRange table, weights.Find(spec.decoder().embedding.weight));
  const bool wide = table.dtype == kernels::DType::kF32 && !weights.quantized();
  return wide ? WeightFormat::kF32 : WeightFormat::kBF16;
}

// FailedPrecondition when the backend was asked for kernels that cannot multiply with such weights.
absl::Status CheckProduct(const kernels::Backend& backend, WeightFormat format) {
  const std::string op = absl::StrCat("linear ", kernels::Name(format));
  for (const kernels::KernelChoice& choice : backend.Kernels()) {
    if (choice.op != op || choice.kernel != "none") continue;
    return absl::FailedPreconditionError(
        absl::StrCat("--gemm: ", choice.reason, "; leave --gemm out or try other --weights"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WeightFormat> FormatOfProjections(const ModelSpec& spec,
                                                 const WeightStore& weights,
                                                 std::optional<WeightFormat> asked_for) {
  ASSIGN_OR_RETURN(const WeightFormat stored, StoredFormat(spec, weights));
  return asked_for.value_or(weights.quantized() ? WeightFormat::kInt8 : stored);
}

absl::StatusOr<std::unique_ptr<Model>> BuildModel(const ModelSpec& spec,
                                                  WeightStore& weights,
                                                  kernels::Backend& backend,
                                                  const BuildOptions& options) {
  ASSIGN_OR_RETURN(const WeightFormat stored, StoredFormat(spec, weights));
  ASSIGN_OR_RETURN(const WeightFormat projections,
                   FormatOfProjections(spec, weights, options.weight_format));
  RETURN_IF_ERROR(CheckProduct(backend, projections));
  ASSIGN_OR_RETURN(const WeightFormat format,
                   FormatOfProjections(spec, weights, options.weight_format));
  return ModelBuilder(spec, weights, backend, options, format, stored).Build();
}

}  // namespace sluice
