// Parts of random specs whose experts are not those of a plain FFN: Mixture-of-Attention with
// rotary positions, and FFN experts that choose rows or refuse them.
#pragma once

#include <cstdint>
#include <string>

#include "engine/model/model_spec.h"
#include "tests/support/random_halting.h"

namespace sluice::testing {

AttentionSpec RandomMixture(const std::string& name, int64_t dim, uint32_t seed);
void FillMixture(const AttentionSpec& attention, int64_t dim, const AddTensor& add);

// Thresholds or a capacity for a router with softmax or sigmoid scores; `whole_prompts`: also a
// choice among the rows of a prompt.
void RandomPick(uint32_t seed, bool whole_prompts, RouterSpec& router);

}  // namespace sluice::testing
