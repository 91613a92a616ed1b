// What travels through one forward step: the rows' facts, the cache, the arena, the counters. Built
// by the engine for each step from buffers it owns; blocks and the forward loop read it. Nothing
// here allocates.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/blocks/forward_stats.h"
#include "engine/blocks/kv_placement.h"
#include "engine/blocks/workspace.h"
#include "engine/cache/kv_cache.h"
#include "kernels/backend.h"

namespace sluice {

// How one sequence of the step is routed: its request's `routing` object, resolved against the
// model.
struct RowRouting {
  enum class Decide : uint8_t { kModel, kThreshold, kPredictor, kTopKPrompt, kCapacity };
  Decide decide = Decide::kModel;
  float capacity = -1.0f;         // < 0: the trained rule
  int32_t experts_per_token = 0;  // 0: the model's own
  float expert_threshold = 0.0f;  // choices with less weight do not run
  int32_t max_depth = 0;          // repeats of an adjustable group; 0: all
  float exit_threshold = -1.0f;   // of ExitSpec and the halting gate; < 0: the model's own
  // Rows of equal cohort and position that a step runs together are mixed by Mixture of Tokens, in
  // the order of their slots; no two have the same slot. -1: the row is alone.
  int32_t cohort = -1;
  int32_t slot = 0;
};

// Self-speculation (Elhoushi et al. 2024, arXiv 2404.16710): the network is cut in front of layer
// instance Model::exit_instance(). Off when `slots` is empty.
struct EarlyExit {
  // The rows end at the cut: their states are stored there, and the head reads them. Otherwise rows
  // with a slot start at the cut from their stored state, the others at the embedding.
  bool draft = false;
  std::span<const int32_t> slots;  // per row: its row of `states`; -1: none (not when `draft`)
  kernels::TensorView states;      // [slots, dim]
};

// The rows of a step, sequence by sequence, positions ascending inside each.
struct Batch {
  std::span<const int32_t> tokens;
  std::span<const int32_t> positions;
  std::span<const KvSequence> sequences;  // per row
  std::span<const uint8_t> is_prompt;     // per row: prompt rows follow prefill_decide
  std::span<const RowRouting> routing;    // per row
  std::span<const int32_t> wanted;        // rows whose logits are needed, ascending
  EarlyExit early_exit;
  // Of an encoder-decoder, per row: 1 for the encoder's, which come before the decoder's of their
  // sequence and count their positions from 0, as those do. Else empty.
  std::span<const uint8_t> in_encoder;

  int32_t num_rows() const { return static_cast<int32_t>(tokens.size()); }
};

// Hidden rows and where each came from: origin[i] is the row of the step's Batch.
struct Rows {
  kernels::TensorView x;  // [count, dim]
  kernels::RowSet origin;

  int32_t count() const { return origin.count; }
};

struct RoutingView {
  int32_t layer_instance = 0;
  ExpertKind kind = ExpertKind::kFfn;
  bool of_depth = false;  // a number of repeats is chosen; the instance means nothing
  kernels::RowSet origin;
  kernels::TensorView logits;   // [rows, groups * experts]
  kernels::TensorView weights;  // [rows, groups * top_k]
};

// Sees intermediate values: golden tests and traces. Not called when null.
class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;
  // "embed", "layer"; "sublayer" behind each of a layer's; "output" of a repeat with stick-breaking
  // (before it is mixed) by number of the repeat; "group" behind a group whose rows may stop, by
  // its last instance.
  virtual void OnHidden(std::string_view name, int32_t layer_instance, const Rows& rows) = 0;
  // Rows of the batch that take a depth-routed layer instance; `scores` of all offered rows.
  virtual void OnSelection(int32_t layer_instance, std::span<const int32_t> origins) = 0;
  // What one routing of experts, or of a depth, was decided by; after the experts' capacity.
  virtual void OnRouting(const RoutingView& /*routing*/) {}
  // Values that decide or weigh, some per row: "score" and "predicted" of the rows that a
  // depth-routed layer is offered, "gate" of those that it takes, "merge" and "emit" of Mixture of
  // Tokens, "p_stop" of stick-breaking.
  virtual void OnValues(std::string_view /*name*/,
                        int32_t /*layer_instance*/,
                        const kernels::RowSet& /*origin*/,
                        kernels::TensorView /*values*/) {}
};

struct ForwardContext {
  kernels::Backend& backend;
  KvCache& cache;
  Workspace& workspace;
  ForwardStats& stats;
  KvPlacements& placements;
  const Batch& batch;
  ForwardObserver* observer = nullptr;

  // The observer, when the host may read what it is shown; null without one.
  ForwardObserver* Watching() const {
    if (observer != nullptr) backend.Synchronize();
    return observer;
  }
};

// Room for the values of `column`, [rows, 1], as a list, and the list: the column itself where the
// host can read it.
inline float* ListRoom(const kernels::TensorView& column, ForwardContext& context) {
  return context.backend.memory_is_host() ? column.Row(0)
                                          : context.workspace.Take<float>(column.rows);
}
inline float* ToList(const kernels::TensorView& column, float* room, ForwardContext& context) {
  if (room != column.Row(0)) {
    context.backend.CopyToHost(column.data, room, static_cast<size_t>(column.rows) * sizeof(float));
  }
  return room;
}

}  // namespace sluice
