// JSON pieces that both OpenAI response shapes are made of: usage, logprobs, finish reasons,
// routing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine_client.h"
#include "nlohmann/json.hpp"
#include "server/http/generation_plan.h"

namespace sluice::server {

// Sums usage over choices; each prompt counts once although each of its choices ran it.
class UsageTotal {
 public:
  void Add(const Usage& usage, bool first_choice_of_prompt);
  nlohmann::json ToJson() const;
  int64_t completion_tokens() const { return completion_tokens_; }

 private:
  int64_t prompt_tokens_ = 0;
  int64_t completion_tokens_ = 0;
  int64_t cached_tokens_ = 0;
  ComputeUsage compute_;
};

// The text one token adds; bytes that are no UTF-8 become U+FFFD.
std::string TokenText(const Tokenizer& tokenizer, int32_t token);

// JSON has no infinity, and clients compare the chosen value with the maximum.
double LogprobNumber(float logprob);

// Completions: parallel lists. `offset` is the text length before, in code points, and moves on.
struct CompletionLogprobs {
  nlohmann::json tokens = nlohmann::json::array();
  nlohmann::json token_logprobs = nlohmann::json::array();
  nlohmann::json top_logprobs = nlohmann::json::array();
  nlohmann::json text_offset = nlohmann::json::array();

  void AddFirst(const Tokenizer& tokenizer, int32_t token, int64_t& offset);
  void Add(const Tokenizer& tokenizer, const TokenLogprob& entry, int64_t& offset);
  nlohmann::json ToJson() &&;
};

nlohmann::json ChatLogprobs(const Tokenizer& tokenizer, const std::vector<TokenLogprob>& entries);

// As in vLLM: per prompt token null or {"id": {"logprob", "rank", "decoded_token"}}.
nlohmann::json PromptLogprobs(const Tokenizer& tokenizer,
                              const std::vector<std::optional<TokenLogprob>>& entries);

// "stop", "length", "abort", or null while running.
nlohmann::json FinishReasonJson(FinishReason reason);
// The stop string, or the stop token's id as a number, or null.
nlohmann::json StopReasonJson(const TokenEvent& event, const StopParams& stop);

// {"index", "tokens": [{"depth", "executed_layers", "experts"}]}; at most `budget` numbers, which
// shrinks.
nlohmann::json TraceJson(size_t index,
                         const std::vector<TokenTrace>& traces,
                         const std::vector<int32_t>& layers,
                         int64_t& budget);

// Appends what `event` brings to `whole`.
void Accumulate(TokenEvent& whole, TokenEvent event);

}  // namespace sluice::server
