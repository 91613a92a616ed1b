#include "engine/model/rows.h"

namespace sluice {

kernels::RowSet Compose(const kernels::RowSet& all,
                        const kernels::RowSet& part,
                        ForwardContext& context) {
  int32_t* rows = context.workspace.Take<int32_t>(part.count);
  for (int32_t i = 0; i < part.count; ++i) rows[i] = all[part[i]];
  return {rows, part.count, nullptr};
}

Selection Narrow(const Selection& all, const kernels::RowSet& part, ForwardContext& context) {
  Selection out{.rows = Compose(all.rows, part, context), .gate = all.gate};
  if (all.scores == nullptr) return out;
  out.scores = context.workspace.Take<float>(part.count);
  for (int32_t i = 0; i < part.count; ++i) out.scores[i] = all.scores[part[i]];
  return out;
}

Rows Pack(const Rows& rows, const Selection& chosen, ForwardContext& context) {
  const int32_t count = chosen.rows.count;
  const kernels::RowSet origin = Compose(rows.origin, chosen.rows, context);
  const kernels::TensorView x = context.workspace.TakeMatrix(count, rows.x.cols);
  if (count > 0) context.backend.Gather(rows.x, chosen.rows, x);
  return {x, origin};
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
