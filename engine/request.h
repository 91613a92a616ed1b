// The vocabulary between the server and the engine: requests in, token events out. Plain data;
// nothing about devices, HTTP or protobuf. Text is already tokenized; ranges are already checked
// (server/request_validation.h), the engine checks again what it would crash on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace sluice {

enum class RequestId : uint64_t {};

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kError };

// Sampling fields, meaning as in vLLM. The neutral value of each switches it off.
struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  float top_p = 1.0f;
  int32_t top_k = 0;  // 0: all
  float min_p = 0.0f;
  float typical_p = 1.0f;
  float repetition_penalty = 1.0f;  // over prompt and output
  float presence_penalty = 0.0f;    // over output
  float frequency_penalty = 0.0f;   // over output
  uint64_t seed = 0;                // the server draws one when the client gave none
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;       // empty: all
  std::vector<std::vector<int32_t>> bad_words;  // token sequences that may not be completed
  std::optional<int32_t> logprobs;              // number of alternatives per generated token
  std::optional<int32_t> prompt_logprobs;       // the same for prompt tokens
};

// What a sampling field means that a request leaves out: the model's own words
// (generation_config.json), or those of the APIs.
struct SamplingDefaults {
  double temperature = 1.0;
  double top_p = 1.0;
  int32_t top_k = 0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  bool gives_temperature = false;  // the model says one: `sluice generate` is greedy otherwise

  // A request that sets no field.
  SamplingParams Params() const {
    return {.temperature = static_cast<float>(temperature),
            .top_p = static_cast<float>(top_p),
            .top_k = top_k,
            .min_p = static_cast<float>(min_p),
            .repetition_penalty = static_cast<float>(repetition_penalty)};
  }
  bool operator==(const SamplingDefaults&) const = default;
};

struct StopParams {
  int32_t max_tokens = 16;
  int32_t min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
};

// The `routing` object. Unset fields mean the model's own rule.
struct RoutingParams {
  // kPromptMean: a depth-routed layer takes all of a prompt or nothing of it.
  // kNoDrop, kCapacity: whether experts refuse rows beyond their capacity.
  // kIsolated, kCohort: which tokens Mixture of Tokens mixes: none, or those of the request's
  // prompts at one position.
  enum class Mode : uint8_t {
    kModelDefault,
    kThreshold,
    kPredictor,
    kTopKPrompt,
    kPromptMean,
    kNoDrop,
    kCapacity,
    kIsolated,
    kCohort
  };
  Mode mode = Mode::kModelDefault;
  std::optional<double> capacity;  // target share of rows per routed layer; 0 and 1 are exact
  std::optional<int32_t> experts_per_token;
  std::optional<double> expert_threshold;  // least router weight with which an expert runs
  std::optional<int32_t> max_depth;        // repeats of a looped model's core
  std::optional<double> exit_threshold;    // when a row stops repeating, in the model's own measure
  bool trace = false;
};

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  StopParams stop;
  RoutingParams routing;
  bool embed = false;    // asks an encoder for its pooled hidden state; generates nothing
  int32_t priority = 0;  // lower runs first
  std::optional<absl::Duration> timeout;  // from Submit
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0f;                        // log-softmax of the raw logits
  std::vector<std::pair<int32_t, float>> top;  // best first; the same floats as `logprob`
};

// What one generated token ran, for `routing.trace`.
struct TokenTrace {
  int32_t depth = 0;                                 // layer instances executed
  std::vector<int32_t> executed_layers;              // routed layer instances taken
  std::vector<std::pair<int32_t, int32_t>> experts;  // (layer instance, expert)
};

// Work done for one request, counted where it happens.
struct ComputeUsage {
  // Rows x routed layers taken: as routers decided, in the last layer too, where rows whose logits
  // nobody wants end with keys and values.
  int64_t executed_token_layers = 0;
  int64_t skipped_token_layers = 0;  // rows x routed layers not taken
  int64_t all_token_layers = 0;      // rows x all layer instances
  int64_t rows = 0;
  int64_t distinct_experts = 0;  // (layer instance, expert) pairs touched
  int64_t dropped_experts = 0;   // choices that their experts' capacity refused
  double flops = 0.0;
  // The same rows with every layer, every routed row and every expert taken; rows whose logits
  // nobody wants up to the last layer's keys and values.
  double dense_flops = 0.0;
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;
  ComputeUsage compute;
};

// Events of a request arrive in order; exactly one has finish != kNone and is the last.
struct TokenEvent {
  std::vector<int32_t> tokens;         // generated since the last event
  std::string text;                    // valid UTF-8; stop strings removed
  std::vector<TokenLogprob> logprobs;  // one per token when asked for
  // With the first event when asked for: one per prompt token, the first has no value.
  std::vector<std::optional<TokenLogprob>> prompt_logprobs;
  std::vector<TokenTrace> traces;
  std::vector<float> embedding;  // of an encoder, with the last event
  FinishReason finish = FinishReason::kNone;
  std::string stop_reason;  // the stop string or the stop token's id; empty for EOS
  absl::Status error;       // set with kError
  Usage usage;              // complete with the last event
};

// Receives a request's events on the engine thread. Must not block and must not call back into the
// engine.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnEvent(TokenEvent event) = 0;
};

// One prompt of a cohort, with the sink of its answer.
struct CohortMember {
  Request request;
  std::shared_ptr<TokenSink> sink;
};

}  // namespace sluice
