// Packed rows and selections of them. This, Recurrence and the last layer (last_layer.h) are the
// only places that know that rows can be missing.
#pragma once

#include "engine/blocks/forward_context.h"
#include "engine/model/model_spec.h"

namespace sluice {

// Which rows take a depth-routed layer. Arrays live in the step's arena.
struct Selection {
  kernels::RowSet rows;  // indices into the offered Rows
  // [rows.count] what the gate reads: router logits, their softmax, or the gates themselves.
  float* scores = nullptr;
  GateFunction gate = GateFunction::kSigmoid;  // of the scores
  bool empty() const { return rows.count == 0; }
};

// all[part[i]], and a selection with only its rows `part`, in the arena.
kernels::RowSet Compose(const kernels::RowSet& all,
                        const kernels::RowSet& part,
                        ForwardContext& context);
Selection Narrow(const Selection& all, const kernels::RowSet& part, ForwardContext& context);

// Copies the selected rows to the arena; the rows that stay are never touched.
Rows Pack(const Rows& rows, const Selection& chosen, ForwardContext& context);

// x[rows[i]] = y[i].
void Replace(kernels::TensorView y,
             kernels::TensorView x,
             const kernels::RowSet& rows,
             ForwardContext& context);

// Multiplies y[i] by the gate of row i and adds it to the packed rows (a gated last sublayer).
void AddGated(kernels::TensorView y,
              const Selection& chosen,
              const Rows& packed,
              ForwardContext& context);

// Merges the packed result back by the layer's combine rule, and by its gate unless the last
// sublayer has taken it.
void Unpack(const Rows& packed,
            const Selection& chosen,
            const DepthRouterSpec& spec,
            const Rows& rows,
            ForwardContext& context);

}  // namespace sluice
