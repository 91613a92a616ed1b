// Runs the rows of a step on a model: the seam between the engine's logic and tensors. The real one
// owns the backend, the model, the cache and the arena; engine tests use a fake. Engine thread
// only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/blocks/forward_context.h"
#include "engine/cache/kv_cache.h"
#include "engine/engine_config.h"
#include "engine/metrics.h"
#include "engine/model/model.h"

namespace sluice {

// Facts about a loaded model that the engine, metrics and responses need.
struct RunnerFacts {
  std::vector<LayerInstance> instances;
  int32_t num_encoder_instances = 0;  // the first of them, where a decoder follows
  int32_t vocab_size = 0;
  Pooling pooling = Pooling::kNone;  // of an encoder
  int64_t weight_bytes = 0, kv_bytes = 0, arena_bytes = 0;
  int64_t kv_tokens = 0;  // worst-case tokens that fit the cache
  int64_t parameters_total = 0, parameters_active = 0;
  kernels::WeightFormat weights = kernels::WeightFormat::kF32;  // of the projections
  std::vector<kernels::KernelChoice> kernels;
  int threads = 0;
  std::string packed_cache;  // what was done with it (PackedModel::cache_line)
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual const RunnerFacts& facts() const = 0;
  virtual PageBudget& pages() = 0;
  // Runs one step; `logits` is called once per wanted row, in order. The stats are valid until the
  // next Run.
  virtual const ForwardStats& Run(const Batch& batch,
                                  ForwardObserver* observer,
                                  LogitsSink logits) = 0;
  // Forgets the rows of a sequence from `position` on.
  virtual void Truncate(KvSequence sequence, int32_t position) = 0;
  // Returns the pages that the rows of the last step did not need.
  virtual void Commit(KvSequence sequence) = 0;
  // Overwrites the pages of a sequence that failed, before they are freed.
  virtual void Scrub(KvSequence sequence) = 0;
  virtual double DenseFlops(int32_t position, bool with_logits, bool in_encoder) const = 0;
  virtual const KvCache* cache() const { return nullptr; }
  // Not OK when the device has failed for good: the last Run gave nothing.
  virtual absl::Status device_status() const { return absl::OkStatus(); }
  // None on the CPU.
  virtual std::optional<GpuMetrics> gpu() const { return std::nullopt; }
  // Room for the states of draft rows (Batch::early_exit), [slots, dim]; no rows: no drafts.
  virtual kernels::TensorView draft_states() const { return {}; }
};

class RealModelRunner final : public ModelRunner {
 public:
  // Opens, checks, packs. Errors as BuildModel and KvCache::Create.
  static absl::StatusOr<std::unique_ptr<RealModelRunner>> Create(const EngineConfig& config,
                                                                 const ModelSpec& spec,
                                                                 WeightStore& weights,
                                                                 const LoadProgress& progress);

  const RunnerFacts& facts() const override { return facts_; }
  PageBudget& pages() override { return *cache_; }
  const ForwardStats& Run(const Batch& batch,
                          ForwardObserver* observer,
                          LogitsSink logits) override;
  void Truncate(KvSequence sequence, int32_t position) override {
    cache_->Truncate(sequence, position);
  }
  void Commit(KvSequence sequence) override { cache_->Commit(sequence); }
  void Scrub(KvSequence sequence) override { cache_->Scrub(sequence); }
  double DenseFlops(int32_t position, bool with_logits, bool in_encoder) const override {
    return model_->DenseFlops(position, with_logits, in_encoder);
  }
  const KvCache* cache() const override { return cache_.get(); }
  absl::Status device_status() const override { return backend_->status(); }
  std::optional<GpuMetrics> gpu() const override;
  kernels::TensorView draft_states() const override { return draft_states_; }
  KvCache& mutable_cache() { return *cache_; }
  kernels::Backend& backend() { return *backend_; }

 private:
  RealModelRunner() = default;
  absl::Status Load(const EngineConfig& config,
                    const ModelSpec& spec,
                    WeightStore& weights,
                    const LoadProgress& progress);
  absl::Status MakeCache(const EngineConfig& config);

  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Model> model_;
  std::string packed_cache_line_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Workspace> workspace_;
  kernels::Buffer draft_memory_;
  kernels::TensorView draft_states_;
  std::unique_ptr<KvPlacements> placements_;
  ForwardStats stats_;
  RunnerFacts facts_;
  int64_t gpu_weight_bytes_ = 0, gpu_kv_bytes_ = 0;
};

}  // namespace sluice
