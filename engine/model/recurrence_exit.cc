// The rows that stop by what their state says (ExitSpec), and the signals that tell repeats apart.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/model/recurrence.h"
#include "engine/status_macros.h"

namespace sluice {

using kernels::AllRows;
using kernels::RowSet;
using kernels::TensorView;

absl::Status Recurrence::LoadExits(WeightLoader& loader) {
  if (!spec_.exit.has_value() || spec_.exit->weight.empty()) return absl::OkStatus();
  const ProjectionSpec projection{
      .in = dim_, .out = 1, .weight = spec_.exit->weight, .bias = spec_.exit->bias};
  // f32 whatever the other weights are: a near tie decides who stops.
  ASSIGN_OR_RETURN(exit_, loader.Matrix({projection}, kernels::WeightFormat::kF32));
  ASSIGN_OR_RETURN(exit_bias_, loader.Biases({projection}));
  return absl::OkStatus();
}

// The signals of tensor2tensor, common_attention.py: get_timing_signal_1d of positions and, for
// the number of the repeat, add_layer_timing_signal_{sinusoid,learned}_1d.
absl::Status Recurrence::LoadSignal(WeightLoader& loader) {
  if (!spec_.signal.has_value()) return absl::OkStatus();
  const StepSignalSpec& signal = *spec_.signal;
  const int64_t half = dim_ / 2;
  const double last = static_cast<double>(std::max<int64_t>(half - 1, 1));
  for (int64_t i = 0; i < half; ++i)
    inverse_frequencies_.push_back(std::pow(10'000.0, -static_cast<double>(i) / last));
  if (!signal.steps) return absl::OkStatus();
  step_signal_.assign(static_cast<size_t>(spec_.times * dim_), 0.0f);
  if (!signal.step_weight.empty()) {
    ASSIGN_OR_RETURN(const FloatVector learned,
                     loader.Vector(signal.step_weight, spec_.times * dim_));
    loader.backend().CopyToHost(learned.data(), step_signal_.data(),
                                step_signal_.size() * sizeof(float));
    return absl::OkStatus();
  }
  for (int32_t step = 0; step < spec_.times; ++step) {
    float* row = step_signal_.data() + step * dim_;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = step * inverse_frequencies_[static_cast<size_t>(i)];
      row[i] = static_cast<float>(std::sin(angle));
      row[half + i] = static_cast<float>(std::cos(angle));
    }
  }
  return absl::OkStatus();
}

// Whether a row's result is not simply the state that it stopped with.
bool Recurrence::keeps_result() const {
  return spec_.halting == HaltingKind::kAct || (spec_.exits() && spec_.kv == RepeatKv::kComputeAll);
}

int64_t Recurrence::ExitBytes(int32_t max_rows) const {
  const int64_t matrix = Workspace::BytesFor(max_rows * dim_);
  int64_t bytes = 0;
  if (spec_.signal.has_value()) bytes += matrix + Workspace::BytesFor(max_rows);
  if (!spec_.exits()) return bytes;
  bytes += Workspace::BytesFor(max_rows) + Workspace::BytesFor(max_rows, 1) +
           3 * Workspace::BytesFor(max_rows);
  if (spec_.halting == HaltingKind::kConvergence) bytes += matrix;
  return bytes + (keeps_result() ? matrix : 0);
}

void Recurrence::Pass::BeginSignal() {
  if (!recurrence_.spec_.signal->positions) return;
  const int32_t count = rows_.count();
  const std::vector<double>& frequencies = recurrence_.inverse_frequencies_;
  const auto half = static_cast<int32_t>(frequencies.size());
  signal_ = context_.workspace.TakeMatrix(count, 2 * half);
  int32_t* positions = context_.workspace.Take<int32_t>(count);
  for (int32_t i = 0; i < count; ++i)
    positions[i] = context_.batch.positions[static_cast<size_t>(rows_.origin[i])];
  context_.backend.RopeTable({.positions = positions,
                              .count = count,
                              .inverse_frequencies = frequencies.data(),
                              .num_frequencies = half,
                              .out = signal_});
}

void Recurrence::Pass::AddSignal(int32_t step, const Rows& live) {
  const int64_t dim = recurrence_.dim_;
  const int64_t half = dim / 2;
  const std::vector<float>& steps = recurrence_.step_signal_;
  context_.backend.Synchronize();
  for (int32_t i = 0; i < live.count(); ++i) {
    float* x = live.x.Row(i);
    if (signal_.cols > 0) {
      const float* table = signal_.Row(live_ != nullptr ? live_[i] : i);
      for (int64_t c = 0; c < half; ++c) x[c] += table[half + c];
      for (int64_t c = 0; c < half; ++c) x[half + c] += table[c];
    }
    if (steps.empty()) continue;
    const float* of_step = steps.data() + step * dim;
    for (int64_t c = 0; c < dim; ++c) x[c] += of_step[c];
  }
}

float Recurrence::Pass::ThresholdOf(int32_t row, float own) const {
  const float asked = context_.batch.routing[static_cast<size_t>(rows_.origin[row])].exit_threshold;
  return asked >= 0.0f ? asked : own;
}

void Recurrence::Pass::BeginExits() {
  const ExitSpec& exit = *recurrence_.spec_.exit;
  const HaltingKind kind = recurrence_.spec_.halting;
  const int32_t count = rows_.count();
  for (int32_t i = 0; i < count; ++i) {
    const float threshold = ThresholdOf(i, exit.threshold);
    exits_ |= kind == HaltingKind::kAct ||
              (kind == HaltingKind::kExitGate ? threshold < 1.0f : threshold > 0.0f);
  }
  if (!exits_) return;  // of the other kinds: every row runs every repeat
  exited_ = context_.workspace.Take<uint8_t>(count);
  mass_ = context_.workspace.Take<float>(count);
  share_ = context_.workspace.Take<float>(count);
  std::fill_n(exited_, count, uint8_t{0});
  std::fill_n(mass_, count, kind == HaltingKind::kAct ? 0.0f : 1.0f);
  if (kind == HaltingKind::kConvergence)
    before_ = context_.workspace.TakeMatrix(count, recurrence_.dim_);
  if (!recurrence_.keeps_result()) return;
  result_ = context_.workspace.TakeMatrix(count, recurrence_.dim_);
  context_.backend.Fill(result_, 0.0f);
}

// sigmoid(weight . state + bias) of the live rows, from the arena.
const float* Recurrence::Pass::Probabilities(const Rows& live) {
  const int32_t count = live.count();
  const TensorView logits = context_.workspace.TakeMatrix(count, 1);
  context_.backend.Linear({.x = live.x,
                           .x_rows = AllRows(count),
                           .weight = &recurrence_.exit_,
                           .bias = recurrence_.exit_bias_.data(),
                           .out = logits,
                           .out_rows = AllRows(count)});
  float* chances = ToList(logits, ListRoom(logits, context_), context_);
  for (int32_t i = 0; i < count; ++i) chances[i] = 1.0f / (1.0f + std::exp(-chances[i]));
  context_.stats.AddFlops(live.origin, 2.0 * static_cast<double>(recurrence_.exit_.k));
  context_.stats.AddWeightBytes(recurrence_.exit_.bytes());
  return chances;
}

void Recurrence::Pass::Exit(int32_t row, const float* state) {
  exited_[row] = 1;
  if (result_.cols > 0) std::copy_n(state, recurrence_.dim_, result_.Row(row));
}

// universal_transformer_util.py, universal_transformer_act: the share of this repeat is p, or what
// is left to 1 where p would exceed the threshold; p is of the state before the layers.
void Recurrence::Pass::Ponder(const Rows& live) {
  Workspace::Scope scope(context_.workspace);
  const float* chances = Probabilities(live);
  for (int32_t i = 0; i < live.count(); ++i) {
    const int32_t row = live_[i];
    const float threshold = ThresholdOf(row, recurrence_.spec_.exit->threshold);
    const bool last = !(mass_[row] + chances[i] <= threshold);  // also what is not a number
    share_[row] = exited_[row] != 0 ? 0.0f : last ? 1.0f - mass_[row] : chances[i];
    mass_[row] += share_[row];
  }
}

void Recurrence::Pass::MixResult(const Rows& live) {
  const ActOutput output = recurrence_.spec_.exit->output;
  context_.backend.Synchronize();
  for (int32_t i = 0; i < live.count(); ++i) {
    const int32_t row = live_[i];
    if (exited_[row] != 0) continue;
    const float u = share_[row];
    const float kept = output == ActOutput::kInterpolated ? 1.0f - u : 1.0f;
    const float less = output == ActOutput::kBasic ? u : 0.0f;
    const float* state = live.x.Row(i);
    float* result = result_.Row(row);
    for (int64_t c = 0; c < recurrence_.dim_; ++c)
      result[c] = state[c] * u + (result[c] * kept - less);
    const float threshold = ThresholdOf(row, recurrence_.spec_.exit->threshold);
    exited_[row] = mass_[row] < threshold ? 0 : 1;
  }
}

// The gate reads the state that the repeat left, behind its norm (modeling_ouro.py).
void Recurrence::Pass::PassGate(const Rows& live) {
  if (step_ + 1 == recurrence_.spec_.times) return;
  Workspace::Scope scope(context_.workspace);
  const float* chances = Probabilities(live);
  context_.backend.Synchronize();  // Exit copies states
  for (int32_t i = 0; i < live.count(); ++i) {
    const int32_t row = live_[i];
    if (exited_[row] != 0) continue;
    mass_[row] *= 1.0f - chances[i];
    const float threshold = ThresholdOf(row, recurrence_.spec_.exit->threshold);
    if (threshold < 1.0f && 1.0f - mass_[row] >= threshold) Exit(row, live.x.Row(i));
  }
}

// The state before the first injection is zero, as Inject takes it.
void Recurrence::Pass::RememberState(int32_t step, const Rows& live) {
  const TensorView before = before_.Rows(0, live.count());
  if (step > 0 || !recurrence_.spec_.injection.has_value())
    return context_.backend.Gather(live.x, AllRows(live.count()), before);
  context_.backend.Fill(before, 0.0f);
}

// raven_modeling_minimal.py, generate_with_adaptive_compute, "latent-diff", of each token alone.
void Recurrence::Pass::CompareStates(const Rows& live) {
  if (step_ + 1 == recurrence_.spec_.times) return;
  context_.backend.Synchronize();
  for (int32_t i = 0; i < live.count(); ++i) {
    const int32_t row = live_[i];
    if (exited_[row] != 0) continue;
    const float* state = live.x.Row(i);
    const float* before = before_.Row(i);
    double moved = 0.0;
    double size = 0.0;
    for (int64_t c = 0; c < recurrence_.dim_; ++c) {
      const double now = static_cast<double>(state[c]);
      const double difference = now - static_cast<double>(before[c]);
      moved += difference * difference;
      size += now * now;
    }
    const double threshold =
        static_cast<double>(ThresholdOf(row, recurrence_.spec_.exit->threshold));
    if (std::sqrt(moved) < threshold * std::sqrt(size)) Exit(row, state);
  }
}

void Recurrence::Pass::TakeResults() {
  if (result_.cols == 0) return;
  context_.backend.Synchronize();
  const bool all = recurrence_.spec_.halting == HaltingKind::kAct;
  for (int32_t row = 0; row < rows_.count(); ++row) {
    if (all || exited_[row] != 0) std::copy_n(result_.Row(row), recurrence_.dim_, rows_.x.Row(row));
  }
}

std::vector<int32_t> Recurrence::Pass::Running() const {
  std::vector<int32_t> origins;
  for (int32_t i = 0; i < num_live_; ++i) {
    const int32_t row = live_ != nullptr ? live_[i] : i;
    if (!exits_ || exited_[row] == 0) origins.push_back(rows_.origin[row]);
  }
  return origins;
}

}  // namespace sluice
