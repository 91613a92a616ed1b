// Scalar formulae shared by the files of the reference backend. Not for fast code.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/int8.h"
#include "kernels/row_major_packing.h"

namespace sluice::kernels::reference {

using kernels::ReadElement;
using kernels::WriteElement;

inline double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// GELU: Hendrycks and Gimpel 2016, exact (erf) and tanh form.
inline double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
    case Activation::kClampedSwiglu:  // needs its other half: ClampedSwiglu
      return x;
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kRelu:
      return x > 0.0 ? x : 0.0;
    case Activation::kGelu:
      return 0.5 * x * (1.0 + std::erf(x * 0.70710678118654752440));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case Activation::kTanh:
      return std::tanh(x);
  }
  return x;
}

inline double ClampedSwiglu(const SwigluClamp& clamp, double gate, double up) {
  const double limit = static_cast<double>(clamp.limit);
  const double g = gate > limit ? limit : gate;
  const double u = up > limit ? limit : (up < -limit ? -limit : up);
  return g * Sigmoid(static_cast<double>(clamp.alpha) * g) * (u + 1.0);
}

inline int32_t IntegerWeight(const PackedMatrix& matrix, int64_t row, int64_t column) {
  if (matrix.format == WeightFormat::kInt4) return Int4Row(matrix, row).At(column);
  return static_cast<const int8_t*>(matrix.data)[row * matrix.k_padded + column];
}

// Element [row, column] of a row-major packed weight.
inline float WeightElement(const PackedMatrix& matrix, int64_t row, int64_t column) {
  if (IsInteger(matrix.format)) {
    return static_cast<float>(IntegerWeight(matrix, row, column)) * matrix.scales()[row];
  }
  const int64_t index = row * matrix.k_padded + column;
  const DType dtype = matrix.format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
  return ReadElement(matrix.data, dtype, index);
}

// One row of inputs as a GEMM of this format sees it: bf16 weights round their inputs to bf16, int8
// and int4 weights to int8 with a scale of the row (kernels/int8.h).
class InputRow {
 public:
  InputRow(const PackedMatrix& matrix, const float* x) : matrix_(matrix) {
    if (IsInteger(matrix.format)) {
      float largest = 0.0f;
      for (int64_t i = 0; i < matrix.k; ++i) largest = LargerMagnitude(largest, x[i]);
      scale_ = ScaleForInt8(largest);
      for (int64_t i = 0; i < matrix.k; ++i) int8_.push_back(ToInt8(x[i], scale_));
      return;
    }
    const bool f32 = matrix.format == WeightFormat::kF32;
    for (int64_t i = 0; i < matrix.k; ++i) x_.push_back(f32 ? x[i] : ToFloat(ToBF16(x[i])));
  }

  // The product with row `row` of the weights.
  double Dot(int64_t row) const {
    if (IsInteger(matrix_.format)) {
      int32_t sum = 0;
      for (int64_t k = 0; k < matrix_.k; ++k) {
        sum += int32_t{int8_[static_cast<size_t>(k)]} * IntegerWeight(matrix_, row, k);
      }
      return static_cast<double>(Int8Product(sum, scale_.scale, matrix_.scales()[row]));
    }
    double sum = 0.0;
    for (size_t i = 0; i < x_.size(); ++i) {
      sum += static_cast<double>(x_[i]) *
             static_cast<double>(WeightElement(matrix_, row, static_cast<int64_t>(i)));
    }
    return sum;
  }

 private:
  const PackedMatrix& matrix_;
  std::vector<float> x_;
  std::vector<int8_t> int8_;
  Int8Scale scale_;
};

}  // namespace sluice::kernels::reference
