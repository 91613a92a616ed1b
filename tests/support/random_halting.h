// The parts of random specs that repeat. A halting group is one layer of Mixture-of-Attention and
// biased experts behind MLP routers, repeated until its gate stops each row (Sparse Universal
// Transformer).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/model/model_spec.h"

namespace sluice::testing {

LayerGroupSpec RandomHaltingGroup(const std::string& name, int64_t dim, uint32_t seed);

// Makes rows stop by a gate or by convergence, keys and values of several repeats, signals, norms.
void AddRandomExits(const std::string& name, int64_t dim, uint32_t seed, RepeatSpec& repeat);
// Whether a layer of the group may be routed by depth.
bool MayRouteDepth(const RepeatSpec& repeat);
// Takes away what the group's attentions do not run beside its repeat.
void MakeRunnable(LayerGroupSpec& group);

// Adds a tensor of normal values.
using AddTensor = std::function<void(
    const std::string& name, std::vector<int64_t> shape, float scale, float mean)>;
// The tensors of the group's repeat; of a halting group all.
void FillRepeat(const LayerGroupSpec& group, int64_t dim, const AddTensor& add);

}  // namespace sluice::testing
