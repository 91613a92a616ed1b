// Foreign config.json + tensor names -> ModelSpec. One file per family; no forward code here. To
// add a family: one mapping file, one row in the table of architectures.cc, one golden folder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_spec.h"
#include "engine/weights/weight_store.h"
#include "nlohmann/json.hpp"

namespace sluice {

// Looks at tensor names and shapes only (tied heads, fused experts).
using MapFunction = absl::StatusOr<ModelSpec> (*)(const nlohmann::json& config,
                                                  const WeightStore& weights);

struct Architecture {
  std::string_view model_type;
  MapFunction map;
};

const std::vector<Architecture>& Architectures();

// Maps a parsed config.json by its model_type, validates the result and checks it against the
// weights. Unimplemented for an unknown model_type (listing the known ones); else InvalidArgument,
// Unimplemented or NotFound naming the key or the tensor.
absl::StatusOr<ModelSpec> SpecFromConfig(const nlohmann::json& config, const WeightStore& weights);

// The same for a directory, with the EOS ids of generation_config.json added. Messages name the
// file.
absl::StatusOr<ModelSpec> LoadModelSpec(const std::string& model_directory,
                                        const WeightStore& weights);

}  // namespace sluice
