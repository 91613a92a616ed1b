// Limits of one engine. Parsed from flags by server/server_config; defaults fit a small CPU
// machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/packed_matrix.h"

namespace sluice::kernels {
class OpProfile;
}

namespace sluice {

// Beyond so many decoding sequences nothing is drafted: the machine has no idle arithmetic left to
// guess with.
inline constexpr int32_t kMaxDraftingSequences = 4;

struct EngineConfig {
  std::string model_directory;
  std::string served_model_name;  // empty: the directory's name
  std::string device = "cpu";     // "cpu", "reference", "cuda", "cuda:N"
  int threads = 0;                // 0: one per core
  std::string isa = "auto";
  std::string gemm = "auto";
  std::optional<int64_t> prefetch_bytes;         // as kernels::DeviceSpec has it
  double gpu_memory_fraction = 0.9;              // of the device's memory that may be in use
  std::optional<kernels::WeightFormat> weights;  // none: as the file stores them
  int64_t kv_memory_bytes = 0;     // 0: a quarter of free memory, at most what max sequences need
  int32_t max_batch_tokens = 512;  // rows of one step
  int32_t max_sequences = 64;      // running at once
  int32_t max_context_tokens = 0;  // 0: the model's own
  double max_step_ms = 100.0;  // prefill chunks shrink to keep steps under it while others decode
  int32_t max_queued_requests = 512;
  int64_t max_queued_tokens = 262'144;
  // Self-speculation: the first layers and the head guess tokens, which one step of the whole model
  // then checks. Changes no answer. 0: off.
  int32_t draft_exit_layer = 0;
  int32_t draft_tokens = 4;  // guessed at a time
  bool require_manifest = false;
  // "none": the sampling defaults of generation_config.json do not count; its end tokens do.
  std::string generation_config = "auto";
  std::string packed_cache;  // directory for packed weights (engine/packed_model.h); empty: none
  // Every op is timed and counted there (`sluice bench profile`); null: none is. Outlives the
  // engine.
  kernels::OpProfile* op_profile = nullptr;
};

}  // namespace sluice
