// One engine under a fixed load, measured: the unit that `sluice bench` interleaves. In this
// process, without HTTP, so that a ratio compares kernels and skipping only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/engine_thread.h"

namespace sluice::server {

struct BenchLoad {
  int32_t batch = 1;
  int32_t prompt_tokens = 128;
  int32_t output_tokens = 64;
  float temperature = 0.0f;  // above 0 the tokens of random weights are all over the vocabulary
};

// "Decode": of the steps in which every sequence of the batch decodes, from the last one's first
// token to the first one's end.
struct BenchResult {
  double prefill_tokens_per_second = 0.0;
  double decode_tokens_per_second = 0.0;  // of all sequences
  double output_tokens_per_second = 0.0;  // over prefill and decode, as a client would count
  double prefill_flops_per_token = 0.0;   // executed, of a prompt's token
  double flops_per_token = 0.0;           // executed, decode steps
  double weight_bytes_per_step = 0.0;     // made necessary by the routing, decode steps
  double weight_bytes_per_second = 0.0;   // of those, over the whole time of the steps
  double prefill_flops_per_second = 0.0;  // executed
  double decode_flops_per_second = 0.0;
  double skipped_ratio = 0.0;  // of all layers, decode steps
  // Rows of the least and of the most used expert of any layer over their fair share, whole load;
  // 0 without experts.
  double least_expert_load = 0.0, most_expert_load = 0.0;
};

// Sequence `index` of a load: a fixed pseudo-random prompt, different per sequence, the same for
// every subject; a fixed seed, and it does not stop before its length.
Request BenchRequest(const ModelCard& card, const BenchLoad& load, int32_t index);

// "packed: " and what was done with the packed cache, on standard output; nothing without one.
void PrintPackedCache(const EngineReport& report);

// Most memory that this process has had resident, in bytes; 0: the system does not say.
int64_t PeakResidentBytes();

// A loaded model and how to route it.
class BenchSubject {
 public:
  // InvalidArgument and the like for bad models.
  static absl::StatusOr<std::unique_ptr<BenchSubject>> Load(const EngineConfig& config,
                                                            std::string label,
                                                            const Clock& clock);

  // `forced_dense`: the same weights with every depth-routed layer taking every row.
  // The engine's refusal when the load cannot run; FailedPrecondition when no step decodes every
  // sequence.
  absl::StatusOr<BenchResult> Measure(const BenchLoad& load, bool forced_dense);

  const std::string& label() const { return label_; }
  const ModelCard& card() const { return card_; }
  const EngineReport& report() const { return report_; }
  kernels::WeightFormat weights() const { return engine_->runner().facts().weights; }
  double load_seconds() const { return load_seconds_; }  // opening, packing, memory
  bool can_force_dense() const { return !card_.routed_layers.empty(); }

 private:
  const Clock* clock_ = nullptr;
  std::string label_;
  ModelCard card_;
  EngineReport report_;
  double load_seconds_ = 0.0;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  uint64_t next_id_ = 1;
};

}  // namespace sluice::server
