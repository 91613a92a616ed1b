// How many processors this process may run on.
#pragma once

namespace sluice::kernels::cpu {

// Those that the scheduler lets it have (a container may allow fewer than there are), at least 1.
int AvailableProcessors();

}  // namespace sluice::kernels::cpu
