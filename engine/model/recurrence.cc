#include "engine/model/recurrence.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/status_macros.h"

namespace sluice {

using kernels::AllRows;
using kernels::RowSet;
using kernels::TensorView;

absl::StatusOr<Recurrence> Recurrence::Load(const LayerGroupSpec& spec,
                                            int64_t dim,
                                            int64_t kept_width,
                                            WeightLoader& loader) {
  Recurrence recurrence(spec);
  const RepeatSpec& repeat = spec.repeat;
  recurrence.dim_ = dim;
  recurrence.kept_width_ = kept_width;
  if (repeat.injection.has_value()) {
    ASSIGN_OR_RETURN(recurrence.injection_, loader.Matrix(*repeat.injection));
    ASSIGN_OR_RETURN(recurrence.injection_bias_, loader.Biases({*repeat.injection}));
  }
  if (repeat.gate.has_value()) {
    // f32 whatever the other weights are: a near tie decides who halts.
    const auto f32 = kernels::WeightFormat::kF32;
    ASSIGN_OR_RETURN(recurrence.gate_hidden_, loader.Matrix({repeat.gate->hidden}, f32));
    ASSIGN_OR_RETURN(recurrence.gate_hidden_bias_, loader.Biases({repeat.gate->hidden}));
    ASSIGN_OR_RETURN(recurrence.gate_out_, loader.Matrix({repeat.gate->out}, f32));
    ASSIGN_OR_RETURN(recurrence.gate_out_bias_, loader.Biases({repeat.gate->out}));
  }
  if (repeat.depth_router.has_value()) {
    ASSIGN_OR_RETURN(recurrence.depth_router_,
                     ExpertRouter::Load(*repeat.depth_router, dim, 1, loader));
  }
  if (spec.output_norm.has_value()) {
    ASSIGN_OR_RETURN(recurrence.output_norm_, Norm::Load(*spec.output_norm, dim, loader));
  }
  if (repeat.norm.has_value()) {
    ASSIGN_OR_RETURN(recurrence.norm_, Norm::Load(*repeat.norm, dim, loader));
  }
  RETURN_IF_ERROR(recurrence.LoadExits(loader));
  RETURN_IF_ERROR(recurrence.LoadSignal(loader));
  return recurrence;
}

int64_t Recurrence::WorkspaceBytes(int32_t max_rows) const {
  const int64_t matrix = Workspace::BytesFor(max_rows * dim_);
  const int64_t list = Workspace::BytesFor(max_rows);
  int64_t bytes = 0;
  if (spec_.rows_may_stop() || spec_.exits()) bytes += matrix + 2 * list;
  if (spec_.injection.has_value()) bytes += matrix + Workspace::BytesFor(2 * max_rows * dim_);
  if (depth_router_.has_value()) bytes += matrix + depth_router_->WorkspaceBytes(max_rows);
  if (spec_.halting == HaltingKind::kStickBreaking) {
    bytes += 2 * matrix + 3 * list + Workspace::BytesFor(max_rows * kept_width_) +
             Workspace::BytesFor(max_rows * gate_hidden_.n) + Workspace::BytesFor(2 * max_rows);
  }
  // What is kept, and what the attentions take to find the rows that run.
  if (spec_.kv == RepeatKv::kLatest)
    bytes += 3 * list + Workspace::BytesFor(max_rows * kept_width_);
  if (spec_.kv == RepeatKv::kLatest || spec_.kv == RepeatKv::kFirst) bytes += 4 * list;
  return bytes + ExitBytes(max_rows);
}

double Recurrence::FlopsPerRow() const {
  // Whether to stop behind the last repeat nobody asks, but for ACT, which weighs every repeat.
  const int32_t exits = spec_.times - (spec_.halting == HaltingKind::kExitGate ? 1 : 0);
  return 2.0 * static_cast<double>(injection_.n * injection_.k) * spec_.times +
         2.0 * static_cast<double>(exit_.n * exit_.k) * exits +
         GateFlopsPerRow() * (spec_.times - 1) +
         (depth_router_.has_value() ? depth_router_->FlopsPerRow() : 0.0);
}

double Recurrence::GateFlopsPerRow() const {
  return 2.0 * static_cast<double>(gate_hidden_.n * gate_hidden_.k + gate_out_.n * gate_out_.k);
}

int64_t Recurrence::WeightBytes() const {
  return injection_.bytes() + gate_hidden_.bytes() + gate_out_.bytes() + exit_.bytes() +
         (depth_router_.has_value() ? depth_router_->weight_bytes() : 0);
}

Recurrence::Pass::Pass(const Recurrence& recurrence, const Rows& rows, ForwardContext& context)
    : recurrence_(recurrence), rows_(rows), context_(context), stream_(rows.x) {
  const RepeatSpec& spec = recurrence.spec_;
  const int32_t count = rows.count();
  num_live_ = count;
  if (spec.rows_may_stop() || spec.exits()) {
    live_ = context.workspace.Take<int32_t>(count);
    origin_ = context.workspace.Take<int32_t>(count);
    packed_ = context.workspace.TakeMatrix(count, recurrence.dim_);
    for (int32_t i = 0; i < count; ++i) live_[i] = i;
  }
  if (spec.injection.has_value() || spec.depth_router.has_value()) {
    input_ = context.workspace.TakeMatrix(count, recurrence.dim_);
    context.backend.Gather(rows.x, AllRows(count), input_);
  }
  if (spec.depth_router.has_value()) ChooseDepths();
  if (spec.halting == HaltingKind::kStickBreaking) BeginHalting();
  if (spec.exits()) BeginExits();
  if (spec.signal.has_value()) BeginSignal();
  if (spec.kv == RepeatKv::kLatest) {
    present_ = context.workspace.Take<int32_t>(count);
    present_origin_ = context.workspace.Take<int32_t>(count);
    running_ = context.workspace.Take<int32_t>(count);
    stored_.kept = context.workspace.TakeMatrix(count, recurrence.kept_width_);
    for (int32_t i = 0; i < count; ++i) present_[i] = i;
    num_present_ = count;
  }
}

void Recurrence::Pass::ChooseDepths() {
  depth_ =
      recurrence_.depth_router_->Route({.x = rows_.x, .rows = &rows_, .record = false}, context_);
}

bool Recurrence::Pass::Asked(int32_t row, int32_t step) const {
  const int32_t asked = context_.batch.routing[static_cast<size_t>(rows_.origin[row])].max_depth;
  return !recurrence_.spec_.adjustable || asked == 0 || step < asked;
}

// Who goes on; for everything but stick-breaking, whose gate decides. Monotone in `step`.
bool Recurrence::Pass::Stays(int32_t row, int32_t step) const {
  if (depth_.experts != nullptr && depth_.experts[row] < step) return false;
  const bool leaves = exits_ && recurrence_.spec_.kv != RepeatKv::kComputeAll;
  return !(leaves && exited_[row] != 0) && Asked(row, step);
}

// Finds the rows of this repeat and returns their states.
TensorView Recurrence::Pass::SelectLive(int32_t step) {
  if (halts_) {
    Halt(step);
  } else {
    num_live_ = static_cast<int32_t>(
        std::remove_if(live_, live_ + num_live_, [&](int32_t row) { return !Stays(row, step); }) -
        live_);
  }
  for (int32_t i = 0; i < num_live_; ++i) origin_[i] = rows_.origin[live_[i]];
  if (num_live_ == rows_.count()) return stream_;
  const TensorView x = packed_.Rows(0, num_live_);
  if (num_live_ > 0) context_.backend.Gather(stream_, {live_, num_live_, nullptr}, x);
  return x;
}

void Recurrence::Pass::SelectStored(int32_t step) {
  const RepeatKv kv = recurrence_.spec_.kv;
  const RowSet live = live_ != nullptr ? RowSet{live_, num_live_, nullptr} : AllRows(num_live_);
  if (kv == RepeatKv::kFirst) {  // the first repeat stores as ever
    stores_ = step > 0 && num_live_ > 0;
    stored_.origin = rows_.origin;
    stored_.running = live;
    return;
  }
  // Nobody can be missing when nobody exits.
  if (kv != RepeatKv::kLatest || !exits_) return;
  num_present_ =
      static_cast<int32_t>(std::remove_if(present_, present_ + num_present_,
                                          [&](int32_t row) { return !Asked(row, step); }) -
                           present_);
  int32_t found = 0;
  for (int32_t i = 0; i < num_present_; ++i) {
    present_origin_[i] = rows_.origin[present_[i]];
    if (found < num_live_ && live[found] == present_[i]) running_[found++] = i;
  }
  stores_ = num_present_ > 0;
  stored_.origin = {present_origin_, num_present_, nullptr};
  stored_.running = {running_, num_live_, nullptr};
  stored_.kept_origin = {present_, num_present_, nullptr};
  stored_.kept_running = live;
}

Rows Recurrence::Pass::Enter(int32_t step) {
  step_ = step;
  Rows live{stream_, rows_.origin};
  if (live_ != nullptr) {
    live.x = SelectLive(step);
    live.origin = {origin_, num_live_, nullptr};
  }
  SelectStored(step);
  taken_ = live;
  if (num_live_ == 0) return live;
  if (recurrence_.spec_.signal.has_value()) AddSignal(step, live);
  if (exits_ && recurrence_.spec_.halting == HaltingKind::kConvergence) RememberState(step, live);
  if (recurrence_.spec_.injection.has_value()) Inject(step, live);
  if (recurrence_.spec_.halting == HaltingKind::kAct) Ponder(live);
  return live;
}

// state = W concat(state, input), the state of the first repeat being zero
// (raven_modeling_minimal.py, core_block_forward; with init_scale 0).
void Recurrence::Pass::Inject(int32_t step, const Rows& live) {
  Workspace::Scope scope(context_.workspace);
  const int32_t count = live.count();
  const int64_t dim = recurrence_.dim_;
  const TensorView both = context_.workspace.TakeMatrix(count, 2 * dim);
  const TensorView state = both.Columns(0, dim);
  if (step == 0) {
    context_.backend.Fill(state, 0.0f);
  } else {
    context_.backend.Gather(live.x, AllRows(count), state);
  }
  const RowSet taken = live_ != nullptr ? RowSet{live_, count, nullptr} : AllRows(count);
  context_.backend.Gather(input_, taken, both.Columns(dim, dim));
  context_.backend.Linear({.x = both,
                           .x_rows = AllRows(count),
                           .weight = &recurrence_.injection_,
                           .bias = recurrence_.injection_bias_.data(),
                           .out = live.x,
                           .out_rows = AllRows(count)});
  const kernels::PackedMatrix& weight = recurrence_.injection_;
  context_.stats.AddFlops(live.origin, 2.0 * static_cast<double>(weight.n * weight.k));
  context_.stats.AddWeightBytes(weight.bytes());
}

void Recurrence::Pass::Leave() {
  if (halts_ && context_.Watching() != nullptr)
    context_.observer->OnHidden("output", step_, taken_);
  if (num_live_ > 0) {
    if (recurrence_.norm_.has_value()) {
      recurrence_.norm_->Apply(taken_.x, taken_.x, num_live_, 0, context_.backend);
    }
    if (exits_) {
      switch (recurrence_.spec_.halting) {
        case HaltingKind::kAct:
          MixResult(taken_);
          break;
        case HaltingKind::kExitGate:
          PassGate(taken_);
          break;
        default:
          CompareStates(taken_);
      }
    }
  }
  if (live_ != nullptr && num_live_ > 0 && num_live_ < rows_.count()) {
    context_.backend.CombineDepth({.combine = DepthCombine::kOnlyBlock,
                                   .gate = GateFunction::kOne,
                                   .y = packed_.Rows(0, num_live_),
                                   .x = stream_,
                                   .rows = {live_, num_live_, nullptr}});
  }
  if (halts_) MixState();
}

void Recurrence::Pass::Finish() {
  const int32_t count = rows_.count();
  if (exits_) TakeResults();
  if (depth_.weights != nullptr) {
    // token_choice_router.py: a row that ends at depth e is x_0 + p_e Block(x_e).
    context_.backend.CombineDepth({.combine = DepthCombine::kPlusBlock,
                                   .gate = GateFunction::kIdentity,
                                   .y = rows_.x,
                                   .scores = depth_.weights,
                                   .x = input_,
                                   .rows = AllRows(count)});
    context_.backend.Gather(input_, AllRows(count), rows_.x);
  }
  if (recurrence_.output_norm_.has_value()) {
    recurrence_.output_norm_->Apply(rows_.x, rows_.x, count, 0, context_.backend);
  }
}

void Recurrence::Pass::BeginHalting() {
  const int32_t count = rows_.count();
  halts_ = true;
  stream_ = context_.workspace.TakeMatrix(count, recurrence_.dim_);
  context_.backend.Gather(rows_.x, AllRows(count), stream_);
  sum_ = context_.workspace.TakeMatrix(count, recurrence_.dim_);
  context_.backend.Fill(sum_, 0.0f);
  log_never_ = context_.workspace.Take<float>(count);
  remaining_ = context_.workspace.Take<float>(count);
  fresh_ = context_.workspace.Take<int32_t>(count);
  for (int32_t i = 0; i < count; ++i) {
    log_never_[i] = 0.0f;
    remaining_[i] = 1.0f;
    fresh_[i] = i;
  }
  second_.rows = rows_;
  second_.fresh = {fresh_, count, nullptr};
  second_.kept = context_.workspace.TakeMatrix(count, recurrence_.kept_width_);
}

// Stick-breaking in log space (shawntan/SUT, halting.py, ACTWrapper): with the gate's two log
// probabilities of the last output h, p = never * stop of it is mixed in and never *= go. A row
// whose `never` falls below 1 - threshold has halted: its state stays as it is.
void Recurrence::Pass::Halt(int32_t step) {
  if (step == 0) return;
  // Rows that ran the last repeat have a new state, so new keys and values; the others do not.
  std::copy_n(live_, num_live_, fresh_);
  second_.fresh = {fresh_, num_live_, nullptr};
  if (num_live_ == 0) return;
  Workspace::Scope scope(context_.workspace);
  const RowSet asked{fresh_, num_live_, nullptr};
  const RowSet all = AllRows(num_live_);
  const TensorView hidden = context_.workspace.TakeMatrix(num_live_, recurrence_.gate_hidden_.n);
  const TensorView logits = context_.workspace.TakeMatrix(num_live_, 2);
  context_.backend.Linear({.x = stream_,
                           .x_rows = asked,
                           .weight = &recurrence_.gate_hidden_,
                           .bias = recurrence_.gate_hidden_bias_.data(),
                           .activation = Activation::kGelu,
                           .out = hidden,
                           .out_rows = all});
  context_.backend.Linear({.x = hidden,
                           .x_rows = all,
                           .weight = &recurrence_.gate_out_,
                           .bias = recurrence_.gate_out_bias_.data(),
                           .out = logits,
                           .out_rows = all});
  context_.stats.AddFlops({origin_, num_live_, nullptr}, recurrence_.GateFlopsPerRow());
  context_.stats.AddWeightBytes(recurrence_.gate_hidden_.bytes() + recurrence_.gate_out_.bytes());
  int32_t kept = 0;
  context_.backend.Synchronize();
  for (int32_t i = 0; i < num_live_; ++i) {
    const int32_t row = fresh_[i];
    const float go = logits.Row(i)[0];
    const float stop = logits.Row(i)[1];
    const float top = std::max(go, stop);
    const float total = top + std::log(std::exp(go - top) + std::exp(stop - top));
    const float p = std::exp(log_never_[row] + (stop - total));
    logits.Row(i)[0] = p;
    log_never_[row] += go - total;
    const float* h = stream_.Row(row);
    float* sum = sum_.Row(row);
    for (int64_t c = 0; c < recurrence_.dim_; ++c) sum[c] += p * h[c];
    remaining_[row] = std::exp(log_never_[row]);
    // Not "<": a row that is not a number halts, which ends it.
    const float threshold = ThresholdOf(row, recurrence_.spec_.gate->threshold);
    if (remaining_[row] >= 1.0f - threshold) live_[kept++] = row;
  }
  if (context_.Watching() != nullptr) {
    context_.observer->OnValues("p_stop", step, {origin_, num_live_, nullptr},
                                logits.Columns(0, 1));
  }
  num_live_ = kept;
}

// S = sum + remaining * h of the rows that ran; the rest keep theirs.
void Recurrence::Pass::MixState() {
  context_.backend.Synchronize();
  for (int32_t i = 0; i < num_live_; ++i) {
    const int32_t row = live_[i];
    const float* h = stream_.Row(row);
    const float* sum = sum_.Row(row);
    float* state = rows_.x.Row(row);
    for (int64_t c = 0; c < recurrence_.dim_; ++c) state[c] = sum[c] + remaining_[row] * h[c];
  }
}

}  // namespace sluice
