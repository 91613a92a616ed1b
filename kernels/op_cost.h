// What an op needs: the bytes and operations of a row of OpProfile, from the arguments of the op.
#pragma once

#include <cstddef>

#include "kernels/op_profile.h"

namespace sluice::kernels {

OpCost EmbedCost(const PackedMatrix& table, int64_t rows);
OpCost LinearCost(const LinearArgs& args);
OpCost ExpertLinearCost(const ExpertLinearArgs& args);
OpCost MoeCost(const MoeFfnArgs& args);
OpCost NormCost(const NormArgs& args);
OpCost RopeTableCost(const RopeTableArgs& args);
OpCost RopeCost(const RopeArgs& args);
OpCost AppendKvCost(const AppendKvArgs& args);
OpCost AttentionCost(const AttentionArgs& args);
OpCost ActivateCost(const ActivateArgs& args);
OpCost RouteCost(const RouteArgs& args);
OpCost GatherCost(const RowSet& rows, int64_t columns);
OpCost AddRowsCost(const RowSet& rows, int64_t columns);
OpCost CombineDepthCost(const DepthCombineArgs& args);
OpCost SelectAboveCost(const SelectAboveArgs& args);
OpCost FillCost(TensorView x);
OpCost CopyCost(size_t bytes);

}  // namespace sluice::kernels
