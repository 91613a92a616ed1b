// What the server sees of an engine: submit, cancel, pause, look. EngineThread implements it over a
// real Engine, tests/support/fake_engine.h without a model. Every method may be called from any
// thread and none blocks on a step.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/metrics.h"
#include "engine/request.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace sluice {

// Immutable facts about the served model.
struct ModelCard {
  std::string id;  // served name
  std::string family;
  int32_t vocab_size = 0;
  int32_t max_context_tokens = 0;
  int32_t max_batch_tokens = 0;
  // Tokens of one request, prompt and generated, that the KV cache holds when it runs alone.
  int32_t kv_capacity_tokens = std::numeric_limits<int32_t>::max();
  int32_t max_queued_requests = std::numeric_limits<int32_t>::max();
  std::vector<int32_t> eos_token_ids;
  SamplingDefaults sampling_defaults;
  int64_t parameters_total = 0;
  int64_t parameters_active = 0;
  int32_t num_layer_instances = 0;
  std::vector<std::string> routed_layers;  // labels of depth-routed layer instances
  // Without a routing mode of the request a prompt runs in one step: some rule reads all of it.
  bool default_needs_whole_prompt = false;
  std::vector<std::string> routing_modes;  // "threshold", "predictor", "topk_prompt",
                                           // "prompt_mean", "no_drop", "capacity", "isolated",
                                           // "cohort"; first: default
  bool has_capacity_table = false;         // the capacity knob is honoured
  bool has_experts = false;
  int32_t experts_per_token = 0;     // the model's own; 0 without experts that a row chooses
  bool scores_only = false;          // no rule for generated rows: a request gets one token at most
  int32_t num_experts = 0;           // of the largest expert layer
  int32_t cohort_size = 0;           // prompts of a cohort at most; 0: no Mixture of Tokens
  int32_t max_depth = 0;             // repeats of a looped core; 0: requests cannot choose
  bool has_exit_threshold = false;   // rows stop by a threshold that requests may move
  int32_t decoder_start_token = -1;  // of an encoder-decoder; -1: the prompt is the decoder's
  int32_t embedding_size = 0;        // of an encoder, which generates nothing; 0: a decoder
  std::string fingerprint;  // changes with sizes of weights, kernels, numeric mode and sampling
                            // defaults, on which a seed's text depends
  nlohmann::json spec;      // SpecToJson

  // The decoder's start token behind an encoder has a row that max_context_tokens does not count.
  int32_t context_rows() const { return max_context_tokens + (decoder_start_token >= 0 ? 1 : 0); }
};

// The word for a mode in ModelCard::routing_modes and in requests; empty for the model's own rule.
inline std::string_view RoutingModeName(RoutingParams::Mode mode) {
  switch (mode) {
    case RoutingParams::Mode::kThreshold:
      return "threshold";
    case RoutingParams::Mode::kPredictor:
      return "predictor";
    case RoutingParams::Mode::kTopKPrompt:
      return "topk_prompt";
    case RoutingParams::Mode::kPromptMean:
      return "prompt_mean";
    case RoutingParams::Mode::kNoDrop:
      return "no_drop";
    case RoutingParams::Mode::kCapacity:
      return "capacity";
    case RoutingParams::Mode::kIsolated:
      return "isolated";
    case RoutingParams::Mode::kCohort:
      return "cohort";
    case RoutingParams::Mode::kModelDefault:
      break;
  }
  return "";
}

class EngineClient {
 public:
  virtual ~EngineClient() = default;

  // Errors carry codes (request_error.h): InvalidArgument (can never run), ResourceExhausted
  // `queue_full`, Unavailable `shutting_down` | `model_loading` | `device_lost`. On an error the
  // sink is never called; otherwise it gets events until one with finish != kNone, even after
  // Cancel.
  virtual absl::StatusOr<RequestId> Submit(Request request, std::shared_ptr<TokenSink> sink) = 0;
  // The prompts of one request as a cohort (routing.mode cohort): accepted or refused, scheduled,
  // preempted and cancelled as one; ids in their order. Errors as Submit.
  virtual absl::StatusOr<std::vector<RequestId>> SubmitCohort(
      std::vector<CohortMember> members) = 0;
  // No effect when the request is unknown or finished. Pages are free within one step.
  virtual void Cancel(RequestId id, std::string reason) = 0;
  // Cancels every request that was accepted so far.
  virtual void CancelAll(std::string reason) = 0;
  // A paused request keeps its pages but is not scheduled: its reader is slow.
  virtual void SetPaused(RequestId id, bool paused) = 0;

  virtual const ModelCard& model() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const ChatTemplate& chat_template() const = 0;
  virtual MetricsSnapshot Snapshot() const = 0;

  // Stops accepting (Submit answers Unavailable); running requests go on. Idempotent.
  virtual void StartDraining() = 0;
  virtual bool draining() const = 0;
  // Requests accepted and not finished.
  virtual int64_t num_active() const = 0;
  // False after a device or invariant failure: readiness goes down.
  virtual bool healthy() const = 0;
};

}  // namespace sluice
