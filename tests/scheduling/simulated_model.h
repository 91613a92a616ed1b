// A model without arithmetic for the simulator: what it "generates" is a hash over everything it
// reads back from the KV pages, and what it stores depends on the request's secret key, the tokens,
// their positions and the row stored before. So a page that is lost, shared, stale or out of order
// changes the text. Rows skip routed classes by a hash of the token, which makes the true lengths
// differ by class.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/scheduling/step_plan.h"
#include "kernels/backend.h"

namespace sluice {

struct SimulatedRequest {
  RequestId id{};
  uint64_t key = 0;
  std::vector<int32_t> prompt;
  int32_t max_tokens = 0;
  bool whole_prompt = false;
};

class SimulatedModel {
 public:
  static constexpr int32_t kEndToken = 0;

  // Two geometries; one class that every row takes and two routed ones.
  static std::vector<KvClassSpec> Classes();

  explicit SimulatedModel(KvCache& cache) : cache_(cache) {}

  // Stores the rows and returns the next token (to be used when the rows sample).
  int32_t Run(const SimulatedRequest& request, const PlannedRows& rows);

  // What the request generates alone, computed without cache and scheduler; ends with kEndToken or
  // max_tokens.
  static std::vector<int32_t> SoloText(const SimulatedRequest& request);

  int64_t num_skipped_rows() const { return num_skipped_rows_; }

 private:
  static bool Takes(const SimulatedRequest& request,
                    size_t kv_class,
                    int32_t token,
                    int32_t position);
  uint64_t* SlotAddress(const Sequence& sequence,
                        size_t kv_class,
                        int32_t layer,
                        int32_t slot) const;
  void Store(const SimulatedRequest& request, const PlannedRows& rows, size_t kv_class);

  KvCache& cache_;
  int64_t num_skipped_rows_ = 0;
};

}  // namespace sluice
