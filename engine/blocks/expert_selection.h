// What happens to a router's choices before the experts run: experts that choose rows instead
// (Expert Choice), a request's limits, and experts that are full. Everything looks at one request's
// rows only, so that neighbours never matter. A choice that falls away becomes a null expert.
#pragma once

#include "engine/blocks/forward_context.h"
#include "engine/model/model_spec.h"

namespace sluice {

// [count * groups, top_k] in the step's arena.
struct Routing {
  int32_t* experts = nullptr;
  float* weights = nullptr;
  int32_t top_k = 0;
};

// Changes `routing` of `rows` in place; returns how many choices the experts' capacity refused.
int32_t SelectExperts(const RouterSpec& spec,
                      const Routing& routing,
                      const Rows& rows,
                      ForwardContext& context);

// What SelectExperts takes from the arena.
int64_t SelectionWorkspaceBytes(const RouterSpec& spec, int32_t max_rows);

// How many of the `rows` rows of a prompt an expert of `num_experts` may have.
int32_t ExpertCapacity(const ExpertCapacitySpec& spec, int32_t num_experts, int32_t rows);

}  // namespace sluice
