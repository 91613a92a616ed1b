// The config object `sparse_attention` of our own families: causal sparse attention, README.md.
#pragma once

#include <optional>
#include <vector>

#include "engine/architectures/config_reader.h"
#include "engine/model/model_spec.h"

namespace sluice {

// Per layer: its pattern, or none. Records the first error in `config`.
std::vector<std::optional<SparsePatternSpec>> ReadSparseAttention(ConfigReader& config,
                                                                  int32_t num_layers);

}  // namespace sluice
