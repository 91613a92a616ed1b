// Sequences that run in lockstep (a cohort of Mixture of Tokens) are one unit to the scheduler: the
// carrier stands in the queues and owns the others. Every step takes the same positions of all
// members, as far as each has tokens; a member that has finished or is over takes no part. The rows
// of a finished member are run again when the cohort is computed again, because the others were
// mixed with them. A sequence by itself is a unit of one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "engine/scheduling/sequence.h"

namespace sluice {

// In the order of their slots. `Carrier`: Sequence or const Sequence.
template <typename Carrier, typename Visit>
void ForEachMember(Carrier& carrier, Visit visit) {
  visit(carrier);
  for (const auto& companion : carrier.companions) {
    Carrier& member = *companion;
    visit(member);
  }
}

inline bool IsLive(const Sequence& member) { return member.replayed_rows < 0; }

// Rows that a member has run when it takes no more part.
inline int32_t KnownRows(const Sequence& member) {
  return IsLive(member) ? member.num_tokens() : member.replayed_rows;
}

inline bool TakesPart(const Sequence& member) { return member.num_computed < KnownRows(member); }

// Members that take part in the next step: rows per position.
inline int32_t UnitWidth(const Sequence& carrier) {
  int32_t width = 0;
  ForEachMember(carrier, [&](const Sequence& member) { width += TakesPart(member) ? 1 : 0; });
  return width;
}

// Positions that all of them can go on together.
inline int32_t UnitRows(const Sequence& carrier) {
  int32_t rows = std::numeric_limits<int32_t>::max();
  ForEachMember(carrier, [&](const Sequence& member) {
    if (TakesPart(member)) rows = std::min(rows, KnownRows(member) - member.num_computed);
  });
  return rows;
}

// The position that they have reached.
inline int32_t UnitComputed(const Sequence& carrier) {
  int32_t computed = 0;
  ForEachMember(
      carrier, [&](const Sequence& member) { computed = std::max(computed, member.num_computed); });
  return computed;
}

inline int32_t UnitSize(const Sequence& carrier) {
  return 1 + static_cast<int32_t>(carrier.companions.size());
}

inline int64_t UnitTokens(const Sequence& carrier) {
  int64_t tokens = 0;
  ForEachMember(carrier, [&](const Sequence& member) { tokens += member.num_tokens(); });
  return tokens;
}

// The first member that has not finished; a unit has one as long as it exists.
inline const Sequence& FirstLive(const Sequence& carrier) {
  const Sequence* first = nullptr;
  ForEachMember(carrier, [&](const Sequence& member) {
    if (first == nullptr && IsLive(member)) first = &member;
  });
  return first == nullptr ? carrier : *first;
}

}  // namespace sluice
