#include "engine/blocks/rope_tables.h"

#include <algorithm>
#include <cmath>

#include "engine/status_macros.h"

namespace sluice {
namespace {

constexpr double kTwoPi = 6.283185307179586;

// The (real) index of the frequency that turns `rotations` times in the original context: rotations
// = positions * theta^(-2 i / rotary_dim) / 2 pi, solved for i.
double IndexOf(const RopeSpec& spec, double rotations) {
  const double positions = spec.scaling->original_positions;
  return spec.rotary_dim * std::log(positions / (rotations * kTwoPi)) /
         (2.0 * std::log(spec.theta));
}

// How much of frequency `index` is divided by the factor: 0 none, 1 all of it. Sources:
// huggingface/transformers modeling_rope_utils.py, _compute_llama3_parameters and
// _compute_yarn_parameters.
double DividedShare(const RopeSpec& spec, int32_t index, double frequency) {
  const RopeScalingSpec& scaling = *spec.scaling;
  if (scaling.mix == RopeMix::kByRotations) {
    const double rotations = scaling.original_positions * frequency / kTwoPi;
    return std::clamp(
        (scaling.high_rotations - rotations) / (scaling.high_rotations - scaling.low_rotations),
        0.0, 1.0);
  }
  double first = IndexOf(spec, scaling.high_rotations);
  double last = IndexOf(spec, scaling.low_rotations);
  if (scaling.whole_indices) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, spec.rotary_dim - 1.0);
  if (first == last) last += 0.001;  // as the source does
  return std::clamp((index - first) / (last - first), 0.0, 1.0);
}

double InverseFrequency(const RopeSpec& spec, int32_t index) {
  const double frequency = std::pow(spec.theta, -2.0 * index / spec.rotary_dim);
  if (!spec.scaling.has_value()) return frequency / spec.linear_factor;
  const double share = DividedShare(spec, index, frequency);
  return frequency * (share / spec.scaling->factor + (1.0 - share)) / spec.linear_factor;
}

}  // namespace

int32_t RopeTables::Register(const RopeSpec& spec) {
  for (size_t i = 0; i < tables_.size(); ++i) {
    if (tables_[i].spec == spec) return static_cast<int32_t>(i);
  }
  Entry entry;
  entry.spec = spec;
  for (int32_t i = 0; i < spec.rotary_dim / 2; ++i) {
    entry.inverse_frequencies.push_back(InverseFrequency(spec, i));
  }
  tables_.push_back(std::move(entry));
  return static_cast<int32_t>(tables_.size()) - 1;
}

absl::Status RopeTables::Allocate(kernels::Backend& backend, int32_t max_rows) {
  for (Entry& entry : tables_) {
    const int64_t elements = int64_t{max_rows} * entry.spec.rotary_dim;
    ASSIGN_OR_RETURN(entry.storage,
                     backend.Allocate(static_cast<size_t>(elements) * sizeof(float)));
    entry.table = kernels::MatrixView(entry.storage.data(), max_rows, entry.spec.rotary_dim);
  }
  return absl::OkStatus();
}

void RopeTables::Compute(const Batch& batch, kernels::Backend& backend) {
  for (size_t i = 0; i < tables_.size(); ++i) {
    ComputeAt(static_cast<int32_t>(i), batch.positions.data(),
              tables_[i].table.Rows(0, batch.num_rows()), backend);
  }
}

void RopeTables::ComputeAt(int32_t index,
                           const int32_t* positions,
                           kernels::TensorView out,
                           kernels::Backend& backend) const {
  const Entry& entry = tables_[static_cast<size_t>(index)];
  backend.RopeTable({.positions = positions,
                     .count = static_cast<int32_t>(out.rows),
                     .inverse_frequencies = entry.inverse_frequencies.data(),
                     .num_frequencies = static_cast<int32_t>(entry.inverse_frequencies.size()),
                     .factor = entry.spec.amplitude,
                     .out = out});
}

}  // namespace sluice
