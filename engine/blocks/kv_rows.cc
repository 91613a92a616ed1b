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

}  // namespace sluice
