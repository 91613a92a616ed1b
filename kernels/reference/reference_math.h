// Scalar formulae shared by the files of the reference backend. Not for fast code.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/backend.h"

namespace sluice::kernels::reference {

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

inline float ReadElement(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kBF16 ? ToFloat(BF16{bits}) : HalfToFloat(bits);
}

inline void WriteElement(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<BF16*>(data)[index] = ToBF16(value);
  }
}

// Element [row, column] of a row-major packed weight.
inline float WeightElement(const PackedMatrix& matrix, int64_t row, int64_t column) {
  const DType dtype = matrix.format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
  return ReadElement(matrix.data, dtype, row * matrix.k_padded + column);
}

// The value of an activation as a GEMM of this format sees it: bf16 weights round their inputs to
// bf16.
inline float InputElement(const PackedMatrix& matrix, float value) {
  return matrix.format == WeightFormat::kF32 ? value : ToFloat(ToBF16(value));
}

inline double Dot(const PackedMatrix& matrix, const float* x, int64_t row) {
  double sum = 0.0;
  for (int64_t i = 0; i < matrix.k; ++i) {
    sum += static_cast<double>(InputElement(matrix, x[i])) *
           static_cast<double>(WeightElement(matrix, row, i));
  }
  return sum;
}

}  // namespace sluice::kernels::reference
