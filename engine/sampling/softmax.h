// Passes over a whole row of logits: finite check, maximum, sums of exponentials. Results depend on
// the row only, never on the instruction set: plain float arithmetic, sums in double in index
// order.
#pragma once

#include <cstdint>
#include <span>

namespace sluice {

// False when a logit is NaN or +Inf. -Inf is a valid logit: that token cannot be chosen.
bool AllFinite(std::span<const float> logits);

// The first of the largest; -1 when all are -Inf or there are none.
int32_t ArgMax(std::span<const float> logits);

// sum of exp((logits[i] - max) * inverse_temperature), where max is the largest logit. Terms below
// e^-87 are 0.
double SumExp(std::span<const float> logits, float max, float inverse_temperature);

// The same, and leaves each term in `logits`.
double ExpInPlace(std::span<float> logits, float max, float inverse_temperature);

}  // namespace sluice
