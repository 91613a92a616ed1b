// Where some of the placed rows of a KV class live.
#pragma once

#include "engine/blocks/workspace.h"
#include "kernels/backend.h"

namespace sluice {

// The places of the rows `chosen` of `all`, from the arena when some are left out.
kernels::KvRows PartOf(const kernels::KvRows& all,
                       const kernels::RowSet& chosen,
                       Workspace& workspace);

}  // namespace sluice
