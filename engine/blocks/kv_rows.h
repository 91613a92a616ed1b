// Storing more rows than run, and finding those that run among them (StoredRows).
#pragma once

#include "engine/blocks/block.h"

namespace sluice {

// The places of the rows `chosen` of `all`, from the arena when some are left out.
kernels::KvRows PartOf(const kernels::KvRows& all,
                       const kernels::RowSet& chosen,
                       Workspace& workspace);

// Appends `fresh`, the keys and values of the rows that run. With `stored` the places are those of
// its rows: one that does not run is stored as its last execution left it.
void StoreKv(const kernels::AppendKvArgs& fresh, const StoredRows* stored, ForwardContext& context);

}  // namespace sluice
