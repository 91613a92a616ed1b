// The backends every op test runs on, seeded tensors and the comparison with its tolerance. Only
// for tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/backend_factory.h"
#include "tests/support/amx_instructions.h"
#include "tests/support/device_allocation.h"
#include "tests/support/sanitized.h"

namespace sluice::kernels {

struct BackendParam {
  std::string name;
  DeviceSpec spec;
};

inline std::ostream& operator<<(std::ostream& out, const BackendParam& param) {
  return out << param.name;
}

// In a program with CUDA it is that alone: the others have programs of their own.
inline std::vector<BackendParam> AllBackends() {
  if (HasCuda()) return {{"cuda", {.device = "cuda", .synchronous = true}}};
  std::vector<BackendParam> out = {{"reference", {.device = "reference"}}};
  for (const char* isa : {"scalar", "avx2", "avx512", "amx"}) {
    for (int threads : {1, 2}) {
      out.push_back({std::string("cpu_") + isa + "_" + std::to_string(threads),
                     {.device = "cpu", .threads = threads, .isa = isa}});
    }
  }
  for (int threads : {1, 2}) {
    out.push_back({"cpu_amx_emulation_" + std::to_string(threads),
                   {.device = "cpu", .threads = threads, .gemm = "amx-emulation"}});
  }
  out.push_back({"cpu_onednn_2", {.device = "cpu", .threads = 2, .gemm = "onednn"}});
  return out;
}

inline std::string ParamName(const testing::TestParamInfo<BackendParam>& info) {
  return info.param.name;
}

// Memory that every backend under test can read.
template <typename T>
struct DeviceAllocator {
  using value_type = T;
  DeviceAllocator() = default;
  template <typename U>
  explicit DeviceAllocator(const DeviceAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(AllocateForDevice(count * sizeof(T))); }
  void deallocate(T* data, size_t) { FreeForDevice(data); }
  bool operator==(const DeviceAllocator&) const = default;
};
using Floats = std::vector<float, DeviceAllocator<float>>;

// A matrix that owns its floats.
struct Matrix {
  Matrix() = default;
  Matrix(int64_t rows_in, int64_t cols_in)
      : rows(rows_in), cols(cols_in), values(static_cast<size_t>(rows_in * cols_in), 0.0f) {}

  TensorView View() { return MatrixView(values.data(), rows, cols); }
  float& At(int64_t row, int64_t col) { return values[static_cast<size_t>(row * cols + col)]; }

  int64_t rows = 0;
  int64_t cols = 0;
  Floats values;
};

inline Matrix RandomMatrix(int64_t rows, int64_t cols, uint32_t seed, float spread = 1.0f) {
  Matrix out(rows, cols);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  for (float& value : out.values) value = normal(random);
  return out;
}

inline WeightSource SourceOf(Matrix& matrix) {
  return {matrix.values.data(), DType::kF32, matrix.rows, matrix.cols, false};
}

// Sum of squared differences over the sum of squares of `wanted`.
inline double NormalizedError(const Floats& wanted, const Floats& got) {
  double difference = 0.0;
  double power = 1e-30;
  EXPECT_EQ(wanted.size(), got.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double d = static_cast<double>(wanted[i]) - static_cast<double>(got[i]);
    if (!std::isfinite(d)) return INFINITY;
    difference += d * d;
    power += static_cast<double>(wanted[i]) * static_cast<double>(wanted[i]);
  }
  return difference / power;
}

class BackendTest : public testing::TestWithParam<BackendParam> {
 protected:
  void SetUp() override {
#if !SLUICE_SANITIZED  // slow; sanitizers see the instructions in gemm_family_test
    if (GetParam().spec.isa == "amx") RunAmxInstructions();
#endif
    absl::StatusOr<std::unique_ptr<Backend>> created = CreateBackend(GetParam().spec);
    if (created.status().code() == absl::StatusCode::kFailedPrecondition) {
      GTEST_SKIP() << created.status().message();
    }
    ASSERT_TRUE(created.ok()) << created.status();
    backend_ = std::move(*created);
    reference_ = *CreateBackend({.device = "reference"});
  }

  PackedMatrix PackOn(Backend& backend, Matrix& weight, WeightFormat format) {
    const WeightSource source = SourceOf(weight);
    return std::move(*backend.Pack({&source, 1}, format));
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Backend> reference_;
};

// Those that the backends under test have.
inline std::vector<WeightFormat> Formats() {
  std::vector<WeightFormat> out = {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8};
  if (!HasCuda()) out.push_back(WeightFormat::kInt4);
  return out;
}

inline std::vector<WeightFormat> IntegerFormats() {
  std::vector<WeightFormat> out = Formats();
  std::erase_if(out, [](WeightFormat format) { return !IsInteger(format); });
  return out;
}

}  // namespace sluice::kernels
