#include "engine/model/rows.h"

namespace sluice {

Rows Pack(const Rows& rows, const Selection& chosen, ForwardContext& context) {
  const int32_t count = chosen.rows.count;
  int32_t* origin = context.workspace.Take<int32_t>(count);
  for (int32_t i = 0; i < count; ++i) origin[i] = rows.origin[chosen.rows[i]];
  const kernels::TensorView x = context.workspace.TakeMatrix(count, rows.x.cols);
  if (count > 0) context.backend.Gather(rows.x, chosen.rows, x);
  return {x, {origin, count, nullptr}};
}

void Replace(kernels::TensorView y,
             kernels::TensorView x,
             const kernels::RowSet& rows,
             ForwardContext& context) {
  context.backend.CombineDepth({.combine = DepthCombine::kOnlyBlock,
                                .gate = GateFunction::kOne,
                                .y = y,
                                .x = x,
                                .rows = rows});
}

void AddGated(kernels::TensorView y,
              const Selection& chosen,
              const Rows& packed,
              ForwardContext& context) {
  context.backend.CombineDepth({.combine = DepthCombine::kPlusBlock,
                                .gate = chosen.gate,
                                .y = y,
                                .scores = chosen.scores,
                                .x = packed.x,
                                .rows = kernels::AllRows(packed.count())});
}

void Unpack(const Rows& packed,
            const Selection& chosen,
            const DepthRouterSpec& spec,
            const Rows& rows,
            ForwardContext& context) {
  const bool gated = spec.gate_place == DepthGatePlace::kMerge;
  context.backend.CombineDepth({.combine = spec.combine,
                                .gate = gated ? chosen.gate : GateFunction::kOne,
                                .y = packed.x,
                                .scores = chosen.scores,
                                .x = rows.x,
                                .rows = chosen.rows});
}

}  // namespace sluice
