// Self-speculation as in LayerSkip (Elhoushi et al. 2024, arXiv 2404.16710): the layers before the
// exit and the head guess the next tokens one by one, then one step of the whole model checks them
// all, starting from the guessing rows' states and keys. A guess is kept when it is the very token
// that the request's sampler chooses from the whole model's logits, so every answer is bit for bit
// that of plain decoding. (The paper's rejection sampling keeps the distribution only.) Engine
// thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/active_request.h"
#include "engine/model_runner.h"
#include "engine/scheduling/step_plan.h"

namespace sluice {

class SelfSpeculation {
 public:
  struct Limits {
    int32_t draft_tokens = 0;  // per sequence and step; 0: off
    int32_t max_sequences = 0;
    int32_t vocab_size = 0;
  };
  SelfSpeculation(ModelRunner& runner, const Limits& limits);

  // What a row spent on its way to the exit.
  struct Cost {
    double flops = 0.0;
    int32_t executed = 0, offered = 0;  // routed layers
    int32_t depth = 0;
  };
  // The guesses of one sequence. Row 0 is its newest token, row i > 0 has guess i - 1.
  struct Draft {
    size_t plan_index = 0;
    int32_t first_slot = 0;
    std::vector<int32_t> guesses;
    std::vector<Cost> costs;    // of the rows that went to the exit
    std::vector<float> logits;  // [guesses + 1, vocab]: of the whole model

    // Of the stored state of `row`; -1: it has none.
    int32_t SlotOf(size_t row) const {
      return row < costs.size() ? first_slot + static_cast<int32_t>(row) : -1;
    }
  };

  // Guesses for the entries of `plan` that may draft. `on_pass` sees the counts of every pass and
  // the plan entry of each of its rows.
  void Guess(const StepPlan& plan,
             absl::FunctionRef<ActiveRequest&(const PlannedRows&)> request_of,
             absl::FunctionRef<void(const ForwardStats&, std::span<const int32_t>)> on_pass);
  // Of an entry of the last plan; null: none.
  Draft* Of(size_t plan_index);
  std::span<float> LogitsOf(Draft& draft, size_t row) const;
  bool empty() const { return drafts_.empty(); }

 private:
  void AddRow(const StepPlan& plan,
              const Draft& draft,
              size_t row,
              absl::FunctionRef<ActiveRequest&(const PlannedRows&)> request_of);

  ModelRunner& runner_;
  Limits limits_;
  std::vector<Draft> drafts_;
  // The rows of one pass.
  std::vector<int32_t> row_plan_, tokens_, positions_, wanted_, slots_;
  std::vector<KvSequence> sequences_;
  std::vector<uint8_t> is_prompt_;
  std::vector<RowRouting> routing_;
};

}  // namespace sluice
