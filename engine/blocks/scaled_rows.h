// Rows times a number, for routers that read them so (a temperature).
#pragma once

#include "engine/blocks/workspace.h"
#include "kernels/tensor_view.h"

namespace sluice {

// `x` itself where the scale is 1; else a copy from the arena.
inline kernels::TensorView ScaledRows(const kernels::TensorView& x,
                                      int32_t count,
                                      float scale,
                                      Workspace& workspace) {
  if (scale == 1.0f) return x;
  const kernels::TensorView scaled = workspace.TakeMatrix(count, x.cols);
  for (int32_t i = 0; i < count; ++i) {
    const float* from = x.Row(i);
    float* to = scaled.Row(i);
    for (int64_t c = 0; c < x.cols; ++c) to[c] = scale * from[c];
  }
  return scaled;
}

}  // namespace sluice
