// The order in which sequences are served: priority, then arrival. Total, because arrivals are
// unique.
#pragma once

#include <tuple>

#include "engine/scheduling/sequence.h"

namespace sluice {

inline bool Before(const Sequence& a, const Sequence& b) {
  return std::tie(a.priority, a.arrival) < std::tie(b.priority, b.arrival);
}

}  // namespace sluice
