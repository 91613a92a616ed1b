// The format of a packed weight as the kernels know it. For host code.
#pragma once

#include "kernels/check.h"
#include "kernels/cuda/product_kernels.h"
#include "kernels/packed_matrix.h"

namespace sluice::kernels::cuda {

inline ProductFormat FormatOf(WeightFormat format) {
  SLUICE_CHECK(format != WeightFormat::kInt4);
  return format == WeightFormat::kF32    ? ProductFormat::kF32
         : format == WeightFormat::kBF16 ? ProductFormat::kBF16
                                         : ProductFormat::kInt8;
}

}  // namespace sluice::kernels::cuda
