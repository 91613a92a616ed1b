#include "engine/model_runner.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/chunk_rows.h"
#include "engine/model/model_builder.h"
#include "engine/packed_model.h"
#include "engine/status_macros.h"
#include "kernels/backend_factory.h"
#include "kernels/op_profile.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

// What Backend::Tune may take: a share of the time of loading, in seconds.
constexpr double kTuningShare = 0.01;
constexpr double kMostTuning = 0.1;

int64_t FreeMemoryBytes() {
  const int64_t pages = sysconf(_SC_AVPHYS_PAGES);
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  return pages > 0 && page_bytes > 0 ? pages * page_bytes : int64_t{1} << 30;
}

// 0 where memory is the host's.
int64_t AllocatedOn(const kernels::Backend& backend) {
  const std::optional<kernels::DeviceMemory> memory = backend.device_memory();
  return memory.has_value() ? memory->allocated : 0;
}

// FailedPrecondition for a distance that no kernel of these weights would heed.
absl::Status CheckPrefetch(const EngineConfig& config,
                           const ModelSpec& spec,
                           const WeightStore& weights,
                           const kernels::Backend& backend) {
  if (!config.prefetch_bytes.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const kernels::WeightFormat format,
                   FormatOfProjections(spec, weights, config.weights));
  if (backend.Prefetches(format)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--prefetch-bytes: the kernels that --device=", config.device, " has for ",
                   kernels::Name(format), " weights do not prefetch; leave it out"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RealModelRunner>> RealModelRunner::Create(
    const EngineConfig& config,
    const ModelSpec& spec,
    WeightStore& weights,
    const LoadProgress& progress) {
  std::unique_ptr<RealModelRunner> runner(new RealModelRunner());
  RETURN_IF_ERROR(runner->Load(config, spec, weights, progress));
  RETURN_IF_ERROR(runner->MakeCache(config));
  RETURN_IF_ERROR(runner->backend_->status());
  return runner;
}

absl::Status RealModelRunner::Load(const EngineConfig& config,
                                   const ModelSpec& spec,
                                   WeightStore& weights,
                                   const LoadProgress& progress) {
  ASSIGN_OR_RETURN(backend_,
                   kernels::CreateBackend({.device = config.device,
                                           .threads = config.threads,
                                           .isa = config.isa,
                                           .gemm = config.gemm,
                                           .gpu_memory_fraction = config.gpu_memory_fraction,
                                           // Else a launch would be timed, not the op.
                                           .synchronous = config.op_profile != nullptr,
                                           .prefetch_bytes = config.prefetch_bytes}));
  RETURN_IF_ERROR(CheckPrefetch(config, spec, weights, *backend_));
  if (config.op_profile != nullptr)
    backend_ = kernels::WithProfile(std::move(backend_), config.op_profile);
  const int32_t max_rows = ChunkRows(config, spec, backend_->Kernels());
  BuildOptions options{.max_rows = max_rows, .weight_format = config.weights};
  options.exit_layer = config.draft_exit_layer;
  options.progress = progress;
  const int64_t before = AllocatedOn(*backend_);
  const Clock::time_point start = Clock::now();
  ASSIGN_OR_RETURN(PackedModel packed,
                   BuildPackedModel(config, spec, weights, *backend_, std::move(options)));
  model_ = std::move(packed.model);
  packed_cache_line_ = std::move(packed.cache_line);
  gpu_weight_bytes_ = AllocatedOn(*backend_) - before;
  backend_->ReserveScratch(max_rows);
  const double loading = std::chrono::duration<double>(Clock::now() - start).count();
  backend_->Tune(model_->Matrices(), std::min(kTuningShare * loading, kMostTuning));
  ASSIGN_OR_RETURN(Workspace workspace, Workspace::Create(*backend_, model_->WorkspaceBytes()));
  workspace_ = std::make_unique<Workspace>(std::move(workspace));
  if (config.draft_exit_layer > 0) {
    const int64_t slots = int64_t{config.draft_tokens} * kMaxDraftingSequences;
    const int64_t dim = spec.decoder().embedding.dim;
    ASSIGN_OR_RETURN(draft_memory_,
                     backend_->Allocate(static_cast<size_t>(slots * dim) * sizeof(float)));
    draft_states_ = {.data = draft_memory_.data(), .rows = slots, .cols = dim, .row_stride = dim};
  }
  placements_ = std::make_unique<KvPlacements>(model_->kv_rules(), max_rows);
  stats_.Reserve(max_rows, static_cast<int32_t>(model_->instances().size()),
                 model_->max_expert_ids_per_row() * max_rows);
  return absl::OkStatus();
}

absl::Status RealModelRunner::MakeCache(const EngineConfig& config) {
  const int32_t context = config.max_context_tokens > 0
                              ? std::min(config.max_context_tokens, model_->spec().max_positions)
                              : model_->spec().max_positions;
  const int64_t per_token = KvBytesPerToken(*backend_, model_->kv_classes());
  // What every sequence at full length needs, page rounding included.
  const int64_t all = per_token * (int64_t{context} + 16) * config.max_sequences;
  const std::optional<kernels::DeviceMemory> memory = backend_->device_memory();
  const int64_t free_bytes = memory.has_value() ? memory->free : FreeMemoryBytes();
  const int64_t bytes =
      config.kv_memory_bytes > 0 ? config.kv_memory_bytes : std::min(all, free_bytes / 4);
  ASSIGN_OR_RETURN(cache_, KvCache::Create(*backend_, model_->kv_classes(),
                                           {.memory_bytes = bytes,
                                            .max_sequences = config.max_sequences,
                                            .max_tokens = context}));
  if (memory.has_value()) gpu_kv_bytes_ = AllocatedOn(*backend_) - memory->allocated;
  facts_ = {.instances = model_->instances(),
            .num_encoder_instances = model_->num_encoder_instances(),
            .vocab_size = model_->spec().decoder().embedding.vocab_size,
            .pooling = model_->spec().head.pooling,
            .weight_bytes = model_->weight_bytes(),
            .kv_bytes = cache_->bytes(),
            .arena_bytes = workspace_->bytes(),
            .kv_tokens = per_token > 0 ? cache_->bytes() / per_token : 0,
            .parameters_total = model_->num_parameters(),
            .parameters_active = model_->num_active_parameters(),
            .weights = model_->weight_format(),
            .kernels = backend_->Kernels(),
            .threads = backend_->num_threads(),
            .packed_cache = packed_cache_line_};
  return absl::OkStatus();
}

std::optional<GpuMetrics> RealModelRunner::gpu() const {
  const std::optional<kernels::DeviceMemory> memory = backend_->device_memory();
  if (!memory.has_value()) return std::nullopt;
  const int64_t taken = memory->allocated + memory->lists;
  return GpuMetrics{.up = backend_->status().ok(),
                    .total_bytes = memory->total,
                    .weight_bytes = gpu_weight_bytes_,
                    .kv_cache_bytes = gpu_kv_bytes_,
                    .scratch_bytes = taken - gpu_weight_bytes_ - gpu_kv_bytes_,
                    .others_bytes = memory->others,
                    .free_bytes = memory->free};
}

const ForwardStats& RealModelRunner::Run(const Batch& batch,
                                         ForwardObserver* observer,
                                         LogitsSink logits) {
  stats_.Reset(batch.num_rows());
  placements_->Reset();
  ForwardContext context{.backend = *backend_,
                         .cache = *cache_,
                         .workspace = *workspace_,
                         .stats = stats_,
                         .placements = *placements_,
                         .batch = batch,
                         .observer = observer};
  model_->Forward(context, logits);
  backend_->Synchronize();  // a step without logits too: its time, its errors and its memory are
                            // asked for
  return stats_;
}

}  // namespace sluice
