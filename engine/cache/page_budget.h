// What the scheduler needs of the cache: open, reserve, free. The simulator and scheduler tests use
// a fake.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice {

// A sequence's place in the KV cache, in [0, max_sequences).
enum class KvSequence : int32_t {};

class PageBudget {
 public:
  virtual ~PageBudget() = default;
  // ResourceExhausted when every place is taken.
  virtual absl::StatusOr<KvSequence> Open() = 0;
  // Takes pages so that every KV class can store `rows` more rows (the worst case: no row is
  // skipped). ResourceExhausted, with nothing taken, when there are not enough.
  virtual absl::Status Reserve(KvSequence sequence, int32_t rows) = 0;
  // Gives back every page and the place.
  virtual void Free(KvSequence sequence) = 0;
  // True when sequences of so many rows fit an otherwise empty cache together.
  virtual bool CanEverFit(std::span<const int32_t> tokens) const = 0;
  bool CanEverFit(int32_t tokens) const { return CanEverFit(std::span(&tokens, 1)); }
};

}  // namespace sluice
