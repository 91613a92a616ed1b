#include "engine/model/model.h"

#include <algorithm>

#include "engine/model/last_layer.h"

namespace sluice {
namespace {

// Rows of logits computed at a time: bounds the arena, whatever the prompt length.
constexpr int32_t kHeadTile = 64;

}  // namespace

void Model::Forward(ForwardContext& context, LogitsSink logits) {
  SLUICE_CHECK(context.batch.num_rows() <= max_rows_) << context.batch.num_rows();
  Workspace::Scope scope(context.workspace);
  rope_tables_.Compute(context.batch, context.backend);
  const Rows rows = Embed(context);
  if (context.Watching() != nullptr) context.observer->OnHidden("embed", -1, rows);
  uint8_t* taken = context.workspace.Take<uint8_t>(rows.count());
  std::fill_n(taken, rows.count(), uint8_t{1});
  const EarlyExit& exit = context.batch.early_exit;
  const Course course{{0, static_cast<int32_t>(instances_.size())}, taken, nullptr};
  if (!encoder_groups_.empty()) {
    RunStacks(course, rows, context);
  } else if (exit.slots.empty()) {
    RunGroups(groups_, course, rows, context);
  } else if (exit.draft) {
    RunGroups(groups_, {{0, exit_instance_}, taken, nullptr}, rows, context);
    Replace(rows.x, exit.states, {exit.slots.data(), rows.count(), nullptr}, context);
  } else {
    RunFromCut(course, rows, context);
  }
  RunHead(rows, context, logits);
}

void Model::RunGroups(std::vector<Group>& groups,
                      const Course& course,
                      const Rows& rows,
                      ForwardContext& context) {
  for (Group& group : groups) RunGroup(group, course, rows, context);
}

Rows Model::Part(const Rows& rows, bool encoder, ForwardContext& context) {
  int32_t* index = context.workspace.Take<int32_t>(rows.count());
  int32_t count = 0;
  for (int32_t i = 0; i < rows.count(); ++i) {
    if ((context.batch.in_encoder[static_cast<size_t>(i)] != 0) == encoder) index[count++] = i;
  }
  const kernels::RowSet chosen{index, count, nullptr};
  const kernels::TensorView x = context.workspace.TakeMatrix(count, rows.x.cols);
  if (count > 0) context.backend.Gather(rows.x, chosen, x);
  return {x, chosen};
}

void Model::RunStacks(const Course& course, const Rows& rows, ForwardContext& context) {
  SLUICE_CHECK(context.batch.in_encoder.size() == context.batch.tokens.size());
  Workspace::Scope scope(context.workspace);
  const Rows encoded = Part(rows, true, context);
  const Rows decoded = Part(rows, false, context);
  if (encoded.count() > 0) {
    RunGroups(encoder_groups_, course, encoded, context);
    if (encoder_norm_.has_value())
      encoder_norm_->Apply(encoded.x, encoded.x, encoded.count(), 0, context.backend);
  }
  std::fill_n(course.taken, context.batch.num_rows(), uint8_t{1});
  RunGroups(groups_, {course.span, course.taken, &encoded}, decoded, context);
  Replace(decoded.x, rows.x, decoded.origin, context);
}

// The rows without a stored state catch up with the others at the cut; from there all go on.
void Model::RunFromCut(const Course& course, const Rows& rows, ForwardContext& context) {
  Workspace::Scope scope(context.workspace);
  const EarlyExit& exit = context.batch.early_exit;
  SLUICE_CHECK(exit_instance_ > 0);
  int32_t* fresh = context.workspace.Take<int32_t>(rows.count());
  int32_t* resumed = context.workspace.Take<int32_t>(rows.count());
  int32_t* slots = context.workspace.Take<int32_t>(rows.count());
  int32_t num_fresh = 0, num_resumed = 0;
  for (int32_t i = 0; i < rows.count(); ++i) {
    const int32_t slot = exit.slots[static_cast<size_t>(i)];
    if (slot < 0) {
      fresh[num_fresh++] = i;
    } else {
      slots[num_resumed] = slot;
      resumed[num_resumed++] = i;
    }
  }
  if (num_fresh > 0) {
    const Selection chosen{.rows = {fresh, num_fresh, nullptr}};
    const Rows packed = Pack(rows, chosen, context);
    RunGroups(groups_, {{0, exit_instance_}, course.taken, nullptr}, packed, context);
    Replace(packed.x, rows.x, chosen.rows, context);
  }
  const kernels::TensorView stored = context.workspace.TakeMatrix(num_resumed, rows.x.cols);
  context.backend.Gather(exit.states, {slots, num_resumed, nullptr}, stored);
  Replace(stored, rows.x, {resumed, num_resumed, nullptr}, context);
  RunGroups(groups_, {{exit_instance_, course.span.last}, course.taken, nullptr}, rows, context);
}

void Model::RunGroup(Group& group,
                     const Course& course,
                     const Rows& rows,
                     ForwardContext& context) {
  Workspace::Scope scope(context.workspace);
  Recurrence::Pass pass(group.recurrence, rows, context);
  const bool may_stop = group.repeat.rows_may_stop();
  const auto num_layers = static_cast<int32_t>(group.layers.size());
  for (int32_t step = 0; step < group.repeat.times; ++step) {
    const Rows live = pass.Enter(step);
    const int32_t first = group.first_instance + step * num_layers;
    for (Layer& layer : group.layers) {
      Execution at{step,          first + layer.index_in_group,
                   pass.second(), pass.stored(),
                   course.taken,  course.encoded};
      // An observer sees every row of every layer; DenseFlops does not count that.
      at.wanted_only = layer.can_skip && step + 1 == group.repeat.times &&
                       context.observer == nullptr &&
                       context.batch.wanted.size() < context.batch.tokens.size();
      if (at.instance < course.span.first || at.instance >= course.span.last) continue;
      if (may_stop) context.stats.CountRouted(at.instance, rows.origin, live.origin);
      if (context.Watching() != nullptr && group.repeat.halting != HaltingKind::kNone)
        context.observer->OnSelection(at.instance, pass.Running());
      // Nobody is left, and nobody's keys and values are wanted.
      if (live.count() == 0 && at.second == nullptr && at.stored == nullptr) continue;
      RunLayer(layer, at, live, context);
      if (context.Watching() != nullptr && at.second == nullptr) {
        context.observer->OnHidden("layer", at.instance, live);
      }
    }
    pass.Leave();
    // With halting it is the state of all rows that goes on.
    if (context.Watching() != nullptr && pass.second() != nullptr) {
      context.observer->OnHidden("layer", first + num_layers - 1, rows);
    }
  }
  pass.Finish();
  if (may_stop && context.Watching() != nullptr) {
    context.observer->OnHidden("group", group.first_instance + group.repeat.times * num_layers - 1,
                               rows);
  }
}

Rows Model::Embed(ForwardContext& context) {
  const Batch& batch = context.batch;
  const EmbeddingSpec& embedding = spec_.decoder().embedding;
  const kernels::TensorView x = context.workspace.TakeMatrix(batch.num_rows(), embedding.dim);
  context.backend.Embed(embedding_, batch.tokens, embedding.scale, x);
  if (positions_.has_value()) AddEmbedding(*positions_, batch.positions, x, context);
  if (token_type_.has_value()) {
    Workspace::Scope scope(context.workspace);
    int32_t* zeros = context.workspace.Take<int32_t>(batch.num_rows());
    std::fill_n(zeros, batch.num_rows(), 0);
    AddEmbedding(*token_type_, {zeros, static_cast<size_t>(batch.num_rows())}, x, context);
  }
  if (embedding_norm_.has_value()) {
    embedding_norm_->Apply(x, x, batch.num_rows(), 0, context.backend);
  }
  return {x, kernels::AllRows(batch.num_rows())};
}

void Model::AddEmbedding(const kernels::PackedMatrix& table,
                         std::span<const int32_t> ids,
                         kernels::TensorView x,
                         ForwardContext& context) const {
  Workspace::Scope scope(context.workspace);
  const kernels::TensorView rows = context.workspace.TakeMatrix(x.rows, x.cols);
  context.backend.Embed(table, ids, 1.0f, rows);
  context.backend.AddRows(rows, 1.0f, x, kernels::AllRows(static_cast<int32_t>(x.rows)));
}

void Model::RunLayer(Layer& layer, const Execution& at, const Rows& rows, ForwardContext& context) {
  const int32_t instance = at.instance;
  const size_t last = layer.sublayers.size();
  if (!layer.depth.has_value()) {
    context.stats.CountLayer(rows.origin);
    return RunSublayers(layer, {0, last}, at, rows, context);
  }
  Workspace::Scope scope(context.workspace);
  const DepthRouterSpec& depth = layer.depth->spec();
  const auto first = static_cast<size_t>(depth.first_sublayer);
  Rows read = rows;
  if (depth.reads_normed) read.x = Normed(layer.sublayers.front(), rows.x, context);
  const Selection chosen =
      layer.depth->Select(read, instance, depth.nested ? at.taken : nullptr, context);
  std::fill_n(at.taken, context.batch.num_rows(), uint8_t{0});
  RunSublayers(layer, {0, first}, at, rows, context);
  const bool skips_keys = depth.kv != DepthKv::kAllTokens;
  if (chosen.empty() && skips_keys) {  // nobody needs it: its weights are never read
    context.stats.CountRouted(instance, rows.origin, chosen.rows);
    if (context.Watching() != nullptr) context.observer->OnSelection(instance, {});
    return;
  }
  const Rows packed = Pack(rows, chosen, context);
  for (int32_t i = 0; i < packed.count(); ++i) at.taken[packed.origin[i]] = 1;
  context.stats.CountRouted(instance, rows.origin, packed.origin);
  context.stats.CountLayer(packed.origin);
  if (context.Watching() != nullptr) {
    context.observer->OnSelection(instance,
                                  {packed.origin.index, static_cast<size_t>(packed.count())});
    if (chosen.gate == GateFunction::kIdentity) {
      context.observer->OnValues("gate", instance, packed.origin,
                                 kernels::MatrixView(chosen.scores, packed.count(), 1));
    }
  }
  Execution routed = at;
  routed.chosen = &chosen;
  KeyRows keys{rows, read.x, chosen.rows};
  if (!skips_keys) {
    if (!depth.reads_normed || first > 0)
      keys.normed = Normed(layer.sublayers[first], rows.x, context);
    routed.keys = &keys;
  }
  RunSublayers(layer, {first, last}, routed, packed, context);
  if (!chosen.empty()) Unpack(packed, chosen, depth, rows, context);
}

void Model::RunSublayers(Layer& layer,
                         std::pair<size_t, size_t> part,
                         const Execution& at,
                         const Rows& rows,
                         ForwardContext& context) {
  if (at.wanted_only && part.first < part.second) return RunWanted(layer, part, at, rows, context);
  for (size_t i = part.first; i < part.second; ++i) {
    const Sublayer& sublayer = layer.sublayers[i];
    // Attention stores the rows of a second stream, or copies, even when no row asks.
    if (rows.count() == 0 && sublayer.kv.empty()) continue;
    RunSublayer(layer, sublayer, at, rows, context);
    if (context.Watching() != nullptr) context.observer->OnHidden("sublayer", at.instance, rows);
  }
}

// Such rows still count as executed where a router took them: what it decides of a text does not
// depend on who reads the result. Their FLOPs are those of keys and values.
void Model::RunWanted(Layer& layer,
                      std::pair<size_t, size_t> part,
                      const Execution& at,
                      const Rows& rows,
                      ForwardContext& context) {
  Workspace::Scope scope(context.workspace);
  const kernels::RowSet wanted = WantedOf(rows, context);
  const Rows packed = Pack(rows, {.rows = wanted}, context);
  Execution of_wanted = at;
  of_wanted.wanted_only = false;
  KeyRows keys;
  if (at.keys != nullptr) {
    keys = *at.keys;
    keys.running = Compose(at.keys->running, wanted, context);
    of_wanted.keys = &keys;
  } else if (!layer.sublayers[part.first].kv.empty()) {
    keys = {rows, Normed(layer.sublayers[part.first], rows.x, context), wanted};
    of_wanted.keys = &keys;
  }
  Selection chosen;
  if (at.chosen != nullptr) {
    chosen = Narrow(*at.chosen, wanted, context);
    of_wanted.chosen = &chosen;
  }
  RunSublayers(layer, part, of_wanted, packed, context);
  if (wanted.count > 0) Replace(packed.x, rows.x, wanted, context);
}

// `x` itself where the sublayer has no input norm.
kernels::TensorView Model::Normed(const Sublayer& sublayer,
                                  kernels::TensorView x,
                                  ForwardContext& context) {
  if (!sublayer.input_norm.has_value()) return x;
  const kernels::TensorView normed = context.workspace.TakeMatrix(x.rows, x.cols);
  sublayer.input_norm->Apply(x, normed, static_cast<int32_t>(x.rows), 0, context.backend);
  return normed;
}

kernels::TensorView Model::NormedSecond(const Sublayer& sublayer,
                                        const SecondStream& second,
                                        ForwardContext& context) {
  const int32_t count = second.fresh.count;
  const kernels::TensorView x = context.workspace.TakeMatrix(count, second.rows.x.cols);
  if (count == 0) return x;
  context.backend.Gather(second.rows.x, second.fresh, x);
  if (sublayer.input_norm.has_value()) {
    sublayer.input_norm->Apply(x, x, count, 0, context.backend);
  }
  return x;
}

void Model::RunSublayer(const Layer& layer,
                        const Sublayer& sublayer,
                        const Execution& at,
                        const Rows& rows,
                        ForwardContext& context) {
  Workspace::Scope scope(context.workspace);
  const int32_t count = rows.count();
  StoredRows stored;
  BlockInput input{.rows = rows, .layer_instance = at.instance};
  if (!sublayer.kv.empty()) {
    input.kv = sublayer.kv[static_cast<size_t>(at.step)];
    input.second = at.second;
    input.encoded = at.encoded;
    input.keys = at.keys;
    if (at.second != nullptr) input.second_normed = NormedSecond(sublayer, *at.second, context);
    if (at.stored != nullptr) {
      stored = *at.stored;
      if (stored.kept.cols > 0)
        stored.kept = stored.kept.Columns(sublayer.kept_begin, sublayer.kept_width);
      input.stored = &stored;
    }
  }
  const int64_t dim = rows.x.cols;
  const kernels::TensorView normed = Normed(sublayer, rows.x, context);
  const bool gated = at.chosen != nullptr &&
                     layer.depth->spec().gate_place == DepthGatePlace::kLastSublayer &&
                     &sublayer == &layer.sublayers.back();
  // Without an output norm, scale or gate the block adds straight to the residual stream.
  const bool direct =
      !gated && !sublayer.output_norm.has_value() && sublayer.residual_scale == 1.0f;
  const kernels::TensorView out = direct ? rows.x : context.workspace.TakeMatrix(count, dim);
  input.normed = normed;
  input.out = out;
  input.accumulate = direct;
  sublayer.block->Forward(input, context);
  if (count == 0) return;
  if (!direct) {
    if (sublayer.output_norm.has_value()) {
      sublayer.output_norm->Apply(out, out, count, 0, context.backend);
    }
    if (gated) {
      AddGated(out, *at.chosen, rows, context);
    } else {
      context.backend.AddRows(out, sublayer.residual_scale, rows.x, kernels::AllRows(count));
    }
  }
  if (sublayer.residual_norm.has_value()) {
    sublayer.residual_norm->Apply(rows.x, rows.x, count, 0, context.backend);
  }
}

std::vector<const kernels::PackedMatrix*> Model::Matrices() const {
  std::vector<const kernels::PackedMatrix*> out;
  for (const std::vector<Group>* groups : {&encoder_groups_, &groups_}) {
    for (const Group& group : *groups) {
      for (const Layer& layer : group.layers) {
        for (const Sublayer& sublayer : layer.sublayers) sublayer.block->AddMatrices(out);
      }
    }
  }
  if (!spec_.is_encoder()) out.push_back(&head());
  return out;
}

void Model::RunHead(const Rows& rows, ForwardContext& context, LogitsSink logits) {
  const auto wanted = static_cast<int32_t>(context.batch.wanted.size());
  const kernels::PackedMatrix& head = this->head();
  for (int32_t first = 0; first < wanted; first += kHeadTile) {
    Workspace::Scope scope(context.workspace);
    const int32_t count = std::min(kHeadTile, wanted - first);
    const kernels::RowSet chosen{context.batch.wanted.data() + first, count, nullptr};
    const kernels::RowSet all = kernels::AllRows(count);
    const kernels::TensorView x = context.workspace.TakeMatrix(count, rows.x.cols);
    context.backend.Gather(rows.x, chosen, x);
    if (final_norm_.has_value()) final_norm_->Apply(x, x, count, 0, context.backend);
    if (spec_.is_encoder()) {
      context.backend.Synchronize();
      if (!context.backend.status().ok()) return;
      for (int32_t i = 0; i < count; ++i)
        logits(first + i, {x.Row(i), static_cast<size_t>(x.cols)});
      continue;
    }
    const kernels::TensorView out = context.workspace.TakeMatrix(count, head.n);
    context.backend.Linear({.x = x,
                            .x_rows = all,
                            .weight = &head,
                            .bias = head_bias_.data(),
                            .out = out,
                            .out_rows = all});
    context.backend.Synchronize();
    if (!context.backend.status().ok()) return;  // there are no logits
    context.stats.AddFlops(chosen, 2.0 * static_cast<double>(head.n * head.k));
    context.stats.AddWeightBytes(head.bytes());
    for (int32_t i = 0; i < count; ++i) {
      const std::span<float> row(out.Row(i), static_cast<size_t>(head.n));
      if (spec_.head.logit_scale != 1.0f) {
        for (float& value : row) value *= spec_.head.logit_scale;
      }
      logits(first + i, row);
    }
  }
}

}  // namespace sluice
