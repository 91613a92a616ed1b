// The CPU layout is oneDNN's, and oneDNN's matmul agrees with the reference.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/packed_layout.h"
#include "kernels/int8.h"
#include "kernels/row_major_packing.h"
#include "tests/kernels/backend_param.h"

#if defined(SLUICE_WITH_ONEDNN)
#include <oneapi/dnnl/dnnl.hpp>
#endif

namespace sluice::kernels {
namespace {

// Values of every matrix lie in one run, padding included.
std::vector<char> BytesOf(const PackedMatrix& matrix) {
  const auto* data = static_cast<const char*>(matrix.data);
  return {data, data + matrix.bytes()};
}

// `weight` rounded to bf16.
std::vector<BF16> RoundedTo(const Matrix& weight) {
  std::vector<BF16> rounded;
  for (const float value : weight.values) rounded.push_back(ToBF16(value));
  return rounded;
}

TEST(PackingTest, RowsPackedApartAreTheMatrixPackedWhole) {
  for (const char* device : {"cpu", "reference"}) {
    std::unique_ptr<Backend> backend = std::move(*CreateBackend({.device = device, .threads = 2}));
    for (WeightFormat format : Formats()) {
      for (auto [n, k] : {std::pair<int64_t, int64_t>{200, 130}, {64, 33}, {65, 1}, {1, 64}}) {
        Matrix weight = RandomMatrix(n, k, 7);
        std::vector<BF16> rounded = RoundedTo(weight);
        for (const WeightSource& whole : {WeightSource{rounded.data(), DType::kBF16, n, k},
                                          WeightSource{weight.values.data(), DType::kF32, n, k}}) {
          const PackedMatrix expected = std::move(*backend->Pack({&whole, 1}, format));
          PackedMatrix actual = std::move(*backend->AllocateMatrix(n, k, format));
          ASSERT_EQ(expected.bytes(), actual.bytes());
          constexpr int64_t kRows = 48;  // across the borders of blocks
          backend->ForEach((n + kRows - 1) / kRows, [&](int64_t task) {
            const int64_t first = task * kRows;
            const auto* data = static_cast<const char*>(whole.data);
            backend->PackRows({data + first * whole.k * SizeOf(whole.dtype), whole.dtype,
                               std::min(kRows, whole.n - first), whole.k},
                              first, actual);
          });
          EXPECT_EQ(BytesOf(expected), BytesOf(actual))
              << device << " " << Name(format) << " " << n << "x" << k << " " << Name(whole.dtype);
        }
      }
    }
  }
}

// Rows with every kind of scale, among them those that have none.
std::vector<float> RowsOfAllKinds(int64_t n, int64_t k) {
  Matrix weight = RandomMatrix(n, k, 5);
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  const float kinds[] = {1.0f, std::numeric_limits<float>::quiet_NaN(), 0.0f, 1e-38f, -kInfinite,
                         1e30f};
  for (int64_t row = 0; row < n; ++row) {
    const float kind = kinds[row % 6];
    for (int64_t i = 0; i < k; ++i) weight.At(row, i) *= std::isfinite(kind) ? kind : 1.0f;
    if (!std::isfinite(kind)) weight.At(row, row % k) = kind;
    if (row % 12 == 0) {  // halves, which are rounded to even
      for (int64_t i = 0; i < k; ++i) weight.At(row, i) = static_cast<float>(i % 254 - 127) + 0.5f;
      weight.At(row, 0) = 127.0f;
    }
  }
  return {weight.values.begin(), weight.values.end()};
}

// `values` [n, k] as a source of the dtype, in `memory`.
WeightSource Stored(const std::vector<float>& values,
                    const WeightSource& shape,
                    std::vector<char>& memory) {
  const auto size = static_cast<size_t>(SizeOf(shape.dtype));
  memory.resize(values.size() * size);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t row = i / static_cast<size_t>(shape.k), column = i % static_cast<size_t>(shape.k);
    const size_t at = shape.transposed ? column * static_cast<size_t>(shape.n) + row : i;
    // The bits of a bf16 number stand for some half too.
    const uint16_t bits = ToBF16(values[i]).bits;
    if (size == 2) std::memcpy(memory.data() + at * size, &bits, size);
    if (size == 4) std::memcpy(memory.data() + at * size, &values[i], size);
  }
  WeightSource source = shape;
  source.data = memory.data();
  return source;
}

TEST(PackingTest, Int8IsItsDefinitionOnEveryInstructionSet) {
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    auto backend = CreateBackend({.device = "cpu", .threads = 2, .isa = isa});
    if (absl::IsFailedPrecondition(backend.status())) continue;  // not on this machine
    for (const auto& shape :
         {std::pair<int64_t, int64_t>{200, 130}, {67, 300}, {1, 1}, {3, 17}, {64, 64}}) {
      const int64_t n = shape.first, k = shape.second;
      const std::vector<float> values = RowsOfAllKinds(n, k);
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        for (const bool transposed : {false, true}) {
          SCOPED_TRACE(std::string(isa) + " " + Name(dtype) + " " + std::to_string(n) + "x" +
                       std::to_string(k) + (transposed ? " transposed" : ""));
          std::vector<char> memory;
          const WeightSource source = Stored(values, {nullptr, dtype, n, k, transposed}, memory);
          const PackedMatrix packed =
              std::move(*(*backend)->Pack({&source, 1}, WeightFormat::kInt8));
          std::vector<int8_t> expected(static_cast<size_t>(packed.value_bytes()));
          for (int64_t row = 0; row < n; ++row) {
            float largest = 0.0f;
            const auto value = [&](int64_t i) {
              return ReadElement(source.data, dtype, transposed ? i * n + row : row * k + i);
            };
            for (int64_t i = 0; i < k; ++i) largest = LargerMagnitude(largest, value(i));
            const Int8Scale scale = ScaleForInt8(largest);
            int32_t sum = 0;
            for (int64_t i = 0; i < k; ++i) {
              const int8_t q = ToInt8(value(i), scale);
              expected[static_cast<size_t>(cpu::PackedOffsetInt8(row, i, packed.k_padded))] = q;
              sum += q;
            }
            EXPECT_EQ(std::bit_cast<uint32_t>(packed.scales()[row]),
                      std::bit_cast<uint32_t>(scale.scale))
                << row;
            EXPECT_EQ(packed.sums()[row], 128 * sum) << row;
          }
          EXPECT_EQ(0, std::memcmp(packed.data, expected.data(), expected.size()));
        }
      }
    }
  }
}

TEST(PackingTest, RowsOfExpertsPackedApartAreTheExpertPackedWhole) {
  constexpr int64_t kDim = 200, kHidden = 300;  // more than a slice
  Matrix gate = RandomMatrix(kHidden, kDim, 1), up = RandomMatrix(kHidden, kDim, 2);
  Matrix down = RandomMatrix(kDim, kHidden, 3);
  for (const char* device : {"cpu", "reference"}) {
    std::unique_ptr<Backend> backend = std::move(*CreateBackend({.device = device, .threads = 2}));
    for (const WeightFormat format : Formats()) {
      const auto allocate = [&] {
        return std::move(*backend->AllocateExperts(2, kDim, kHidden, /*gated=*/true, format));
      };
      PackedExperts expected = allocate(), actual = allocate();
      backend->PackExpert({SourceOf(gate), SourceOf(up), SourceOf(down)}, 1, expected);
      for (const auto& whole :
           {std::pair{ExpertPart::kW1, &gate}, {ExpertPart::kW3, &up}, {ExpertPart::kW2, &down}}) {
        const ExpertPart part = whole.first;
        Matrix* const matrix = whole.second;
        constexpr int64_t kRows = 48;  // across the borders of blocks and slices
        backend->ForEach((matrix->rows + kRows - 1) / kRows, [&](int64_t task) {
          const int64_t first = task * kRows;
          backend->PackExpertRows({&matrix->At(first, 0), DType::kF32,
                                   std::min(kRows, matrix->rows - first), matrix->cols},
                                  {1, part, first}, actual);
        });
      }
      for (size_t i = 0; i < expected.slices.size(); ++i) {
        EXPECT_EQ(BytesOf(expected.slices[i].w1), BytesOf(actual.slices[i].w1)) << device << i;
        EXPECT_EQ(BytesOf(expected.slices[i].w3), BytesOf(actual.slices[i].w3)) << device << i;
        EXPECT_EQ(BytesOf(expected.slices[i].w2), BytesOf(actual.slices[i].w2)) << device << i;
      }
    }
  }
}

#if defined(SLUICE_WITH_ONEDNN)
TEST(PackingTest, EqualsTheOneDnnReorder) {
  using dnnl::memory;
  std::unique_ptr<Backend> backend = std::move(*CreateBackend({.device = "cpu", .threads = 1}));
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
    for (auto [n, k] : {std::pair<int64_t, int64_t>{64, 64}, {82, 412}, {200, 130}, {1, 1}}) {
      Matrix weight = RandomMatrix(n, k, 1);
      const WeightSource source = SourceOf(weight);
      const PackedMatrix packed = std::move(*backend->Pack({&source, 1}, format));
      const bool f32 = format == WeightFormat::kF32;
      const auto type = f32 ? memory::data_type::f32 : memory::data_type::bf16;
      const auto tag = f32 ? memory::format_tag::BA16a64b : memory::format_tag::BA16a64b2a;
      // Row-major [n, k] is column-major [k, n]: tag "ba". Padded first, for oneDNN pads k to 16 or
      // 32 only.
      Matrix padded(packed.n_padded, packed.k_padded);
      for (int64_t row = 0; row < n; ++row) {
        std::memcpy(&padded.At(row, 0), &weight.At(row, 0), static_cast<size_t>(k) * sizeof(float));
      }
      const memory::dims dims = {packed.k_padded, packed.n_padded};
      memory from({dims, memory::data_type::f32, memory::format_tag::ba}, engine,
                  padded.values.data());
      memory to({dims, type, tag}, engine);
      dnnl::reorder(from, to).execute(stream, from, to);
      stream.wait();
      ASSERT_EQ(to.get_desc().get_size(), static_cast<size_t>(packed.bytes()));
      EXPECT_EQ(0,
                std::memcmp(to.get_data_handle(), packed.data, static_cast<size_t>(packed.bytes())))
          << Name(format) << " " << n << "x" << k;
    }
  }
}
#endif

#if defined(SLUICE_WITH_ONEDNN)
TEST(PackingTest, Int8EqualsTheOneDnnReorder) {
  using dnnl::memory;
  std::unique_ptr<Backend> backend = std::move(*CreateBackend({.device = "cpu", .threads = 1}));
  std::unique_ptr<Backend> reference = std::move(*CreateBackend({.device = "reference"}));
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  for (auto [n, k] : {std::pair<int64_t, int64_t>{64, 64}, {82, 412}, {200, 130}, {1, 1}}) {
    Matrix weight = RandomMatrix(n, k, 1);
    const WeightSource source = SourceOf(weight);
    const PackedMatrix packed = std::move(*backend->Pack({&source, 1}, WeightFormat::kInt8));
    const PackedMatrix rows = std::move(*reference->Pack({&source, 1}, WeightFormat::kInt8));
    const memory::dims dims = {packed.k_padded, packed.n_padded};  // row-major [n, k] is "ba"
    memory from({dims, memory::data_type::s8, memory::format_tag::ba}, engine,
                const_cast<void*>(rows.data));
    memory to({dims, memory::data_type::s8, memory::format_tag::BA16a64b4a}, engine);
    dnnl::reorder(from, to).execute(stream, from, to);
    stream.wait();
    ASSERT_EQ(to.get_desc().get_size(), static_cast<size_t>(packed.value_bytes()));
    EXPECT_EQ(0, std::memcmp(to.get_data_handle(), packed.data, to.get_desc().get_size()))
        << n << "x" << k;
    for (int64_t row = 0; row < packed.n_padded; ++row) {
      EXPECT_EQ(packed.scales()[row], rows.scales()[row]) << row;
      int32_t sum = 0;
      const auto* values = static_cast<const int8_t*>(rows.data) + row * rows.k_padded;
      for (int64_t i = 0; i < rows.k_padded; ++i) sum += 128 * values[i];
      EXPECT_EQ(packed.sums()[row], sum) << row;
    }
  }
}
#endif

TEST(PackingTest, AllocationsAreAlignedAndZeroed) {
  std::unique_ptr<Backend> backend = std::move(*CreateBackend({.device = "cpu", .threads = 1}));
  for (size_t bytes : {size_t{1}, size_t{100}, size_t{3} << 20}) {
    const Buffer buffer = std::move(*backend->Allocate(bytes));
    ASSERT_GE(buffer.bytes(), bytes);
    const size_t unit = bytes >= (size_t{2} << 20) ? size_t{2} << 20 : 64;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % unit, 0u);
    const char* data = static_cast<const char*>(buffer.data());
    EXPECT_EQ(std::count(data, data + bytes, '\0'), static_cast<std::ptrdiff_t>(bytes));
  }
  EXPECT_EQ(backend->Allocate(SIZE_MAX / 4).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(BackendFactoryTest, RefusesUnknownNames) {
  EXPECT_EQ(CreateBackend({.device = "abacus"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateBackend({.isa = "mmx"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateBackend({.gemm = "magic"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateBackend({.threads = -1}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(BackendFactoryTest, ReportsItsKernels) {
  std::unique_ptr<Backend> backend =
      std::move(*CreateBackend({.device = "cpu", .threads = 1, .isa = "scalar"}));
  const std::vector<KernelChoice> kernels = backend->Kernels();
  ASSERT_EQ(kernels.size(), 5u);
  for (const KernelChoice& kernel : kernels) {
    EXPECT_EQ(kernel.kernel, "scalar");
    EXPECT_EQ(kernel.reason, "asked for scalar");
  }
}

}  // namespace
}  // namespace sluice::kernels
