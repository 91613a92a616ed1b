// cos/sin of every row of the step, once per distinct RopeSpec: all layers share them, packed rows
// look theirs up by origin. Sized at load.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/blocks/forward_context.h"
#include "engine/model/model_spec.h"

namespace sluice {

class RopeTables {
 public:
  // Returns the index of the table for `spec`, adding it when it is new. Load time only.
  int32_t Register(const RopeSpec& spec);
  // Takes the memory for steps of `max_rows` rows.
  absl::Status Allocate(kernels::Backend& backend, int32_t max_rows);
  // Fills every table for the rows of a step.
  void Compute(const Batch& batch, kernels::Backend& backend);
  kernels::TensorView Table(int32_t index) const {
    return tables_[static_cast<size_t>(index)].table;
  }
  // The same for positions of the caller's own, into out [rows, rotary_dim].
  void ComputeAt(int32_t index,
                 const int32_t* positions,
                 kernels::TensorView out,
                 kernels::Backend& backend) const;

 private:
  struct Entry {
    RopeSpec spec;
    std::vector<double> inverse_frequencies;
    kernels::Buffer storage;
    kernels::TensorView table;  // [rows, rotary_dim]
  };
  std::vector<Entry> tables_;
};

}  // namespace sluice
