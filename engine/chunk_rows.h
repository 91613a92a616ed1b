// How many rows a step takes at most when the operator does not say.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine_config.h"
#include "engine/model/model_spec.h"
#include "kernels/backend.h"

namespace sluice {

inline constexpr int32_t kMinChunkRows = 512;
inline constexpr int32_t kMaxChunkRows = 2048;

// The same for a model whose own rules read a whole prompt at a time: up to its context.
inline constexpr int32_t kMaxWholePromptRows = 4096;

// Whether a prompt must not be cut unless a request asks for another rule: rows see later ones, a
// layer or an expert chooses among all of them, or one decision is made for all.
bool ReadsWholePrompt(const ModelSpec& spec);

// config.max_batch_tokens, or when that is 0 the prefill chunk above which the sparsest layer of
// the model is bound by arithmetic and no longer by reading its weights, between kMinChunkRows and
// kMaxChunkRows. Depends on the kernel family, never on a measurement: every start takes the same.
int32_t ChunkRows(const EngineConfig& config,
                  const ModelSpec& spec,
                  const std::vector<kernels::KernelChoice>& kernels);

}  // namespace sluice
