// Builds a model from a packed cache where a fitting one is there; otherwise from the model's own
// files, and then writes the cache for the next start. Not for the file (engine/weights/
// packed_cache.h).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine_config.h"
#include "engine/model/model_builder.h"

namespace sluice {

struct PackedModel {
  std::unique_ptr<Model> model;
  std::string cache_line;  // what was done with the cache, for the start-up report; empty without
};

// Errors of BuildModel; PermissionDenied, naming --packed-cache, when the directory is missing, is
// none, or has no file of this model and cannot be written. Everything else that is wrong with the
// cache (a full disk, a damaged file) is a warning: the model is loaded anyway.
absl::StatusOr<PackedModel> BuildPackedModel(const EngineConfig& config,
                                             const ModelSpec& spec,
                                             WeightStore& weights,
                                             kernels::Backend& backend,
                                             BuildOptions options);

}  // namespace sluice
