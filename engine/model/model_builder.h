// ModelSpec + WeightStore + Backend -> Model: loads and packs the weights, numbers KV layers and
// classes, sizes the arena.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/blocks/weight_loader.h"
#include "engine/model/model.h"

namespace sluice {

struct BuildOptions {
  int32_t max_rows = 512;                              // rows of one step
  std::optional<kernels::WeightFormat> weight_format;  // none: see FormatOfProjections
  std::optional<kernels::DType> kv_dtype;              // none: follows the weight format
  // Cuts the network behind so many layers for self-speculation (Batch::early_exit); 0: no cut.
  int32_t exit_layer = 0;
  LoadProgress progress;
  PackedCacheFiles packed;
};

// The format of projections and experts: the one asked for; else int8 for a quantised GGUF, bf16
// for BF16 and F16 files, f32. NotFound naming the embedding table when it is missing.
absl::StatusOr<kernels::WeightFormat> FormatOfProjections(
    const ModelSpec& spec,
    const WeightStore& weights,
    std::optional<kernels::WeightFormat> asked_for);

// InvalidArgument for missing tensors and shapes that disagree (naming them); ResourceExhausted
// when memory runs out; DataLoss for a damaged packed cache; InvalidArgument or Unimplemented for
// an exit layer that the model cannot have. `spec` has passed ValidateSpec. `backend` must outlive
// the model.
absl::StatusOr<std::unique_ptr<Model>> BuildModel(const ModelSpec& spec,
                                                  WeightStore& weights,
                                                  kernels::Backend& backend,
                                                  const BuildOptions& options);

}  // namespace sluice
