// Rotary positions of a foreign config.json: rope_theta, partial_rotary_factor, and the scaling
// object ("rope_scaling" of older files, "rope_parameters" of newer ones) with its types default,
// linear, llama3 and yarn. Keys of the object that would change the function are refused.
#pragma once

#include "engine/architectures/config_reader.h"
#include "engine/model/model_spec.h"

namespace sluice {

struct RopeConfig {
  RopeSpec rope;
  // YaRN's mscale_all_dim as DeepSeek applies it: the attention logits are multiplied by it.
  double logit_gain = 1.0;
};

// `head_dim`: the dimensions of a head that partial_rotary_factor is a share of.
RopeConfig ReadRopeConfig(ConfigReader& config, int32_t head_dim, int32_t max_positions);

}  // namespace sluice
