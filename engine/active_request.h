// One accepted request inside the engine: how its tokens become events. Sampling state, text state,
// stop rules, usage and timing; the scheduler's Sequence is separate. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/blocks/forward_context.h"
#include "engine/request.h"
#include "engine/sampling/sampler.h"
#include "engine/text/incremental_detokenizer.h"
#include "engine/text/stop_matcher.h"

namespace sluice {

class ActiveRequest {
 public:
  struct Facts {
    const Tokenizer* tokenizer = nullptr;
    std::vector<int32_t> eos_token_ids;
    int32_t vocab_size = 0;
    // False behind an encoder: the answer is a text of its own, and penalties do not see the prompt
    // (transformers, generation/utils.py).
    bool prompt_precedes = true;
    absl::Duration now;
  };
  ActiveRequest(Request request,
                std::shared_ptr<TokenSink> sink,
                RowRouting routing,
                const Facts& facts);

  // Handles the logits of prompt position `position` (prompt_logprobs: scores the next prompt
  // token).
  void ScorePrompt(int32_t position, std::span<const float> logits);
  // Of an encoder: adds one hidden row to the mean that the last event carries.
  void AddHidden(std::span<const float> row);
  // Picks the next token. False when the request failed (`failure()` says why).
  bool SampleNext(std::span<float> logits);
  // A guess at the token behind `guesses`, which stand behind the newest one (SelfSpeculation).
  absl::StatusOr<int32_t> Guess(std::span<float> logits, std::span<const int32_t> guesses);
  // Applies the token picked by SampleNext: text, stop rules. `context_full`: no room for another
  // token. Sends what is due; true when the request has finished (the last event is sent by
  // Finish).
  bool AcceptToken(bool context_full, absl::Duration now);

  // Sends the last event.
  void Finish(FinishReason reason, absl::Status error);

  bool wants_prompt_logprobs() const { return request_.sampling.prompt_logprobs.has_value(); }
  // Prompt positions [0, n) already scored: recomputation after preemption does not score twice.
  int32_t prompt_scored() const { return prompt_scored_; }
  int32_t sampled_token() const { return sampled_; }
  const absl::Status& failure() const { return failure_; }
  FinishReason finish_reason() const { return finish_; }
  const Request& request() const { return request_; }
  const RowRouting& routing() const { return routing_; }
  int32_t num_generated() const { return num_generated_; }
  Usage& usage() { return usage_; }
  // Marks an expert as used; counts distinct ones.
  void TouchExpert(int64_t slot);
  void SetTrace(TokenTrace trace) { trace_ = std::move(trace); }
  bool wants_trace() const { return request_.routing.trace; }

  absl::Duration submitted_at, last_token_at;
  bool started = false;

 private:
  bool IsEos(int32_t token) const;
  std::span<const int32_t> ForbiddenAt(int32_t num_generated) const;
  void Deliver(bool last);

  Request request_;
  std::shared_ptr<TokenSink> sink_;
  RowRouting routing_;
  std::vector<int32_t> eos_token_ids_;
  std::vector<int32_t> forbidden_;  // before min_tokens
  Sampler sampler_;
  IncrementalDetokenizer detokenizer_;
  StopMatcher stop_matcher_;
  TokenEvent pending_;
  Usage usage_;
  std::vector<double> hidden_sum_;
  int32_t num_hidden_ = 0;
  std::optional<TokenTrace> trace_;
  std::vector<bool> experts_touched_;
  absl::Status failure_;
  FinishReason finish_ = FinishReason::kNone;
  bool matched_stop_string_ = false;
  int32_t prompt_scored_ = 0;
  int32_t num_generated_ = 0;
  int32_t sampled_ = 0;
  TokenLogprob sampled_logprob_;
};

}  // namespace sluice
