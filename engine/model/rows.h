// Pack and Unpack: the only places, with Recurrence, that know that rows can be missing.
#pragma once

#include "engine/blocks/forward_context.h"
#include "engine/model/model_spec.h"

namespace sluice {

// Which rows take a depth-routed layer. Arrays live in the step's arena.
struct Selection {
  kernels::RowSet rows;           // indices into the offered Rows
  const float* scores = nullptr;  // [rows.count] router logits of the selected rows, or their gates
  GateFunction gate = GateFunction::kSigmoid;  // of the scores
  bool empty() const { return rows.count == 0; }
};

// Copies the selected rows to the arena; the rows that stay are never touched.
Rows Pack(const Rows& rows, const Selection& chosen, ForwardContext& context);

// Merges the packed result back by the layer's combine rule and gate.
void Unpack(const Rows& packed,
            const Selection& chosen,
            const DepthRouterSpec& spec,
            const Rows& rows,
            ForwardContext& context);

}  // namespace sluice
