#include "engine/blocks/kv_rows.h"

namespace sluice {

kernels::KvRows PartOf(const kernels::KvRows& all,
                       const kernels::RowSet& chosen,
                       Workspace& workspace) {
  if (chosen.count == all.count) return all;
  int32_t* part[4];
  for (int32_t*& list : part) list = workspace.Take<int32_t>(chosen.count);
  for (int32_t i = 0; i < chosen.count; ++i) {
    part[0][i] = all.sequence[chosen[i]];
    part[1][i] = all.slot[chosen[i]];
    part[2][i] = all.begin[chosen[i]];
    part[3][i] = all.end[chosen[i]];
  }
  return {part[0], part[1], part[2], part[3], chosen.count};
}

void StoreKv(const kernels::AppendKvArgs& fresh,
             const StoredRows* stored,
             ForwardContext& context) {
  if (stored == nullptr) return context.backend.AppendKv(fresh);
  const kernels::TensorView& kept = stored->kept;
  if (kept.cols == 0) return;  // the KV layer has everything
  const int64_t width = kept.cols / 2;
  const auto keep = [&](const kernels::TensorView& from, int64_t column) {
    context.backend.CombineDepth({.combine = kernels::DepthCombine::kOnlyBlock,
                                  .gate = kernels::GateFunction::kOne,
                                  .y = from,
                                  .x = kept.Columns(column, width),
                                  .rows = stored->kept_running});
  };
  if (stored->running.count > 0) {
    keep(fresh.key, 0);
    keep(fresh.value, width);
  }
  Workspace::Scope scope(context.workspace);
  kernels::TensorView all = kept;
  if (stored->origin.count < kept.rows) {
    all = context.workspace.TakeMatrix(stored->origin.count, kept.cols);
    context.backend.Gather(kept, stored->kept_origin, all);
  }
  context.backend.AppendKv({.kv = fresh.kv,
                            .rows = fresh.rows,
                            .key = all.Columns(0, width),
                            .value = all.Columns(width, width)});
}

}  // namespace sluice
