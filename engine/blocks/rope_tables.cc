#include "engine/blocks/rope_tables.h"

#include <cmath>

#include "engine/status_macros.h"

namespace sluice {

int32_t RopeTables::Register(const RopeSpec& spec) {
  for (size_t i = 0; i < tables_.size(); ++i) {
    if (tables_[i].spec == spec) return static_cast<int32_t>(i);
  }
  Entry entry;
  entry.spec = spec;
  for (int32_t i = 0; i < spec.rotary_dim / 2; ++i) {
    const double exponent = -2.0 * i / spec.rotary_dim;
    entry.inverse_frequencies.push_back(std::pow(spec.theta, exponent) / spec.linear_factor);
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
                     .out = out});
}

}  // namespace sluice
