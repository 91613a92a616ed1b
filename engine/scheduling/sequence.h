// One request's tokens and progress, as the scheduler sees them. Nothing about devices, text or
// sampling.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "engine/cache/page_budget.h"
#include "engine/request.h"

namespace sluice {

enum class SequenceStatus : uint8_t { kWaiting, kRunning, kFinished };

struct Sequence {
  RequestId id{};
  std::vector<int32_t> tokens;  // prompt, then generated
  int32_t prompt_tokens = 0;
  int32_t max_tokens = 0;     // generated tokens at most
  int32_t priority = 0;       // lower first
  bool whole_prompt = false;  // the prompt must run in one step (top-k of the prompt)
  bool may_draft = true;      // tokens may be guessed ahead
  // Expected of its next rows; 0: not known, as none ran. Of a unit the carrier's counts.
  double flops_per_row = 0.0;
  std::optional<absl::Duration> deadline;  // on the engine's clock
  // Sequences that run in lockstep with this one, in the order of their slots (cohort.h).
  std::vector<std::unique_ptr<Sequence>> companions;
  int32_t slot = 0;

  // Owned by the scheduler.
  SequenceStatus status = SequenceStatus::kWaiting;
  int32_t num_computed = 0;  // rows whose K/V is stored
  std::optional<KvSequence> kv;
  bool paused = false;          // of a unit: a member's reader is slow
  bool reader_is_slow = false;  // of a member
  Sequence* carrier = nullptr;  // itself, unless it is a companion
  int32_t replayed_rows = -1;   // of a finished member: the rows it ran; -1: not finished
  uint64_t arrival = 0;
  int32_t num_preemptions = 0;

  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_generated() const { return num_tokens() - prompt_tokens; }
};

}  // namespace sluice
