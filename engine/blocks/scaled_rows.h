// Rows times a number, for routers that read them so (a temperature).
#pragma once

#include "engine/blocks/forward_context.h"
#include "kernels/tensor_view.h"

namespace sluice {

// `x` itself where the scale is 1; else a copy from the arena.
inline kernels::TensorView ScaledRows(const kernels::TensorView& x,
                                      int32_t count,
                                      float scale,
                                      ForwardContext& context) {
  if (scale == 1.0f) return x;
  const kernels::TensorView scaled = context.workspace.TakeMatrix(count, x.cols);
  context.backend.Fill(scaled, 0.0f);
  context.backend.AddRows(x, scale, scaled, kernels::AllRows(count));
  return scaled;
}

}  // namespace sluice
