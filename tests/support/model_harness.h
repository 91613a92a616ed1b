// A model on a backend with a cache of its own, driven step by step: the laws' and golden tests'
// way to run rows in any split and any company.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/blocks/forward_context.h"
#include "engine/model/model_builder.h"
#include "kernels/backend_factory.h"

namespace sluice::testing {

struct HarnessOptions {
  kernels::DeviceSpec device = {.device = "reference"};
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  int32_t max_rows = 64;
  int32_t max_sequences = 8;
};

// Rows tokens[0, n) of one sequence at positions first, first + 1, ...
struct Piece {
  KvSequence sequence{};
  std::vector<int32_t> tokens;
  int32_t first = 0;
  RowRouting routing = {};
  bool is_prompt = true;
  std::vector<int32_t> encoder = {};   // of an encoder-decoder, with the first piece of a sequence
  std::vector<uint8_t> unwanted = {};  // per token: 1 where nobody wants the logits; empty: all 0
};

class ModelHarness {
 public:
  static absl::StatusOr<std::unique_ptr<ModelHarness>> Create(const ModelSpec& spec,
                                                              WeightStore& weights,
                                                              const HarnessOptions& options);

  KvSequence Open() { return cache_->Open().value(); }
  void Free(KvSequence sequence) { cache_->Free(sequence); }
  // Runs all pieces in one step; returns the logits of every row that is wanted, in order.
  std::vector<std::vector<float>> Step(const std::vector<Piece>& pieces,
                                       ForwardObserver* observer = nullptr);
  // One sequence in steps of at most `chunk` rows, opened and freed here.
  std::vector<std::vector<float>> Run(const std::vector<int32_t>& tokens,
                                      int32_t chunk,
                                      const RowRouting& routing = {});

  KvCache& cache() { return *cache_; }
  Model& model() { return *model_; }
  const ForwardStats& stats() const { return stats_; }

 private:
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<KvPlacements> placements_;
  ForwardStats stats_;
};

}  // namespace sluice::testing
