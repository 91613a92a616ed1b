// What one step runs and what came of it: plain data between scheduler, model and engine.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/request.h"
#include "engine/scheduling/sequence.h"

namespace sluice {

// Rows tokens[first, first + count) of one sequence. Rows of a step stand in plan order.
struct PlannedRows {
  Sequence* sequence = nullptr;
  int32_t first = 0;
  int32_t count = 0;
  // The last row is the sequence's newest token: its logits pick the next one.
  bool samples = false;
  int32_t drafts = 0;  // rows with guessed tokens that may follow the newest one
  // Whom the rows are counted for: the sequence itself, or for rows of a finished member of a
  // cohort, which are run again, a member that goes on.
  RequestId account{};
};

struct StepPlan {
  std::vector<PlannedRows> rows;
  // Ended before this step (deadline passed while waiting or running); pages are already free.
  std::vector<RequestId> expired;
  int32_t num_rows = 0;
  bool empty() const { return rows.empty(); }
};

// One entry per planned sequence with `samples`, in plan order; with drafts up to 1 + drafts
// entries, one behind the other.
struct SampledToken {
  RequestId id{};
  int32_t token = 0;
  bool finished = false;  // EOS, stop string, error: the scheduler frees the sequence
};

struct StepResult {
  std::vector<SampledToken> tokens;
};

}  // namespace sluice
