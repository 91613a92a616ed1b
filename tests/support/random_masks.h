// Draws the masks of a random spec: sparse patterns of a decoder, everything of an encoder.
#pragma once

#include <cstdint>

#include "engine/model/model_spec.h"

namespace sluice::testing {

// Some attentions of a decoder become sparse.
void DrawMasks(uint32_t seed, ModelSpec& spec);
// Turns such a decoder into an encoder-decoder: its own layers read the prompt, too, and every
// layer attends to what they give.
void AddEncoder(uint32_t seed, ModelSpec& spec);
// Turns a drawn decoder without depth routers, repeats and latent attention into an encoder.
void MakeEncoder(uint32_t seed, ModelSpec& spec);

}  // namespace sluice::testing
