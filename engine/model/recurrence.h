// Repeats of one layer group: which rows enter each repeat, and when to stop. Fixed repeats now;
// halting kinds (ACT, stick-breaking, convergence) are refused by ValidateSpec until they are built
// here.
#pragma once

#include "engine/blocks/forward_context.h"
#include "engine/model/model_spec.h"

namespace sluice {

class Recurrence {
 public:
  Recurrence(const RepeatSpec& spec, const Rows& rows) : spec_(spec), rows_(rows) {}

  bool Continues(int32_t step) const { return step < spec_.times; }
  // The rows that take repeat `step`; they are updated in place.
  Rows Enter(int32_t /*step*/) const { return rows_; }
  Rows Finish() const { return rows_; }

 private:
  const RepeatSpec& spec_;
  Rows rows_;
};

}  // namespace sluice
