// Runs a model directory on a backend in the ways a server may run it, and keeps every intermediate
// value.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine_config.h"
#include "engine/model_runner.h"

namespace sluice {

// Values of every position of one sequence.
struct SequenceTrace {
  std::vector<float> embed;                       // [tokens, dim]
  std::map<int32_t, std::vector<float>> hidden;   // layer instance -> [tokens, dim]
  std::map<int32_t, std::vector<int32_t>> taken;  // routed layer instance -> [tokens], 1: taken
  std::map<std::string, std::vector<int32_t>> experts;  // "3.ffn" -> [tokens, choices]
  // Whatever else the engine shows, by the name that a folder has for it: "score.3",
  // "route.3.ffn.gate", "merge.1", "sublayer.2" (behind a layer's first one), ...
  std::map<std::string, std::vector<float>> values;
  std::vector<float> logits;  // [tokens, vocab]
  bool operator==(const SequenceTrace&) const = default;
};

// Rows [begin, end) of sequence `sequence` in one step.
struct Chunk {
  size_t sequence = 0;
  int32_t begin = 0;
  int32_t end = 0;
};
using Step = std::vector<Chunk>;  // in ascending order of sequence

// Plans over sequences of `lengths` tokens.
std::vector<Step> OneShot(const std::vector<int32_t>& lengths);  // one sequence per step
std::vector<Step> InChunks(const std::vector<int32_t>& lengths, int32_t chunk);
std::vector<Step> Together(const std::vector<int32_t>& lengths,
                           int32_t chunk);  // all sequences in each step

class GoldenRun {
 public:
  static absl::StatusOr<GoldenRun> Load(const std::string& directory, const EngineConfig& config);

  // Runs `steps` on fresh sequences with these tokens, routed as asked. The first `cohort`
  // sequences are one cohort.
  absl::StatusOr<std::vector<SequenceTrace>> Run(const std::vector<std::vector<int32_t>>& tokens,
                                                 const std::vector<Step>& steps,
                                                 const RowRouting& routing = {},
                                                 size_t cohort = 0);
  // Greedy continuation, one token a step.
  absl::StatusOr<std::vector<int32_t>> Generate(std::vector<int32_t> tokens, int32_t count);

  // Rows of the runs that follow are prompt rows up to this position, then generated ones.
  void set_prompt_tokens(int32_t count) { prompt_tokens_ = count; }
  // Of an encoder-decoder: what every sequence's encoder reads; `tokens` are then the decoder's.
  void set_encoder_tokens(std::vector<int32_t> tokens) { encoder_tokens_ = std::move(tokens); }

  const ModelSpec& spec() const { return spec_; }
  const RunnerFacts& facts() const { return runner_->facts(); }
  const std::vector<std::string>& unused_weights() const { return unused_; }

 private:
  GoldenRun() = default;
  absl::Status RunStep(const Step& step,
                       const std::vector<std::vector<int32_t>>& tokens,
                       std::vector<SequenceTrace>& traces);

  ModelSpec spec_;
  std::vector<std::string> unused_;
  std::unique_ptr<RealModelRunner> runner_;
  std::vector<KvSequence> sequences_;
  std::vector<int32_t> encoder_tokens_;
  size_t cohort_ = 0;
  int32_t prompt_tokens_ = std::numeric_limits<int32_t>::max();
  RowRouting routing_;
};

}  // namespace sluice
