// Linear and Embed: hand-computed, against the reference, and the law of batch invariance.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/int4.h"
#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

// Both sides round the same inputs to bf16, so only the order and width of the sums differ.
constexpr double kTolerance = 1e-11;

class LinearTest : public BackendTest {};

TEST_P(LinearTest, MatchesHandComputedProduct) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {  // int8_test has int8's
    Matrix weight(2, 3);
    weight.values = {1, 2, 3, -1, 0.5f, 4};
    const PackedMatrix packed = PackOn(*backend_, weight, format);
    Matrix x(1, 3);
    x.values = {2, -1, 0.5f};
    Matrix out(1, 2);
    const Floats bias = {10, -20};
    backend_->Linear({.x = x.View(),
                      .x_rows = AllRows(1),
                      .weight = &packed,
                      .bias = bias.data(),
                      .activation = Activation::kRelu,
                      .out = out.View(),
                      .out_rows = AllRows(1)});
    EXPECT_EQ(out.At(0, 0), 11.5f) << Name(format);
    EXPECT_EQ(out.At(0, 1), 0.0f) << Name(format);
  }
}

TEST_P(LinearTest, MatchesReferenceForAwkwardSizes) {
  struct Size {
    int64_t rows, n, k;
  };
  const Size sizes[] = {{0, 5, 5},   {1, 1, 1},    {1, 82, 412}, {3, 63, 65},    {7, 412, 82},
                        {8, 65, 63}, {17, 64, 64}, {33, 7, 130}, {70, 193, 129}, {5, 640, 31}};
  for (WeightFormat format : Formats()) {
    for (const Size& size : sizes) {
      Matrix weight = RandomMatrix(size.n, size.k, 1);
      Matrix x = RandomMatrix(size.rows, size.k, 2);
      const PackedMatrix ours = PackOn(*backend_, weight, format);
      const PackedMatrix theirs = PackOn(*reference_, weight, format);
      Matrix got(size.rows, size.n);
      Matrix wanted(size.rows, size.n);
      LinearArgs args{.x = x.View(), .x_rows = AllRows(size.rows), .weight = &ours};
      args.out = got.View();
      args.out_rows = AllRows(size.rows);
      backend_->Linear(args);
      args.weight = &theirs;
      args.out = wanted.View();
      reference_->Linear(args);
      EXPECT_LE(NormalizedError(wanted.values, got.values), kTolerance)
          << Name(format) << " " << size.rows << "x" << size.n << "x" << size.k;
    }
  }
}

TEST_P(LinearTest, EpilogueAppliesBiasActivationScaleAndRowLists) {
  const int32_t x_rows[] = {4, 0, 2};
  const int32_t out_rows[] = {1, 5, 3};
  const float scale[] = {0.5f, -2.0f, 1.5f};
  for (WeightFormat format : Formats()) {
    for (Activation activation : {Activation::kNone, Activation::kSilu, Activation::kRelu,
                                  Activation::kGelu, Activation::kGeluTanh, Activation::kTanh}) {
      for (bool accumulate : {false, true}) {
        Matrix weight = RandomMatrix(82, 100, 3, 0.1f);
        Matrix x = RandomMatrix(5, 100, 4);
        Matrix bias = RandomMatrix(1, 82, 5);
        Matrix got = RandomMatrix(6, 82, 6);
        Matrix wanted = got;
        const Matrix before = got;
        const PackedMatrix ours = PackOn(*backend_, weight, format);
        const PackedMatrix theirs = PackOn(*reference_, weight, format);
        LinearArgs args{.x = x.View(), .x_rows = {x_rows, 3}, .weight = &ours};
        args.bias = bias.values.data();
        args.activation = activation;
        args.out = got.View();
        args.out_rows = {out_rows, 3};
        args.accumulate = accumulate;
        args.row_scale = scale;
        backend_->Linear(args);
        args.weight = &theirs;
        args.out = wanted.View();
        reference_->Linear(args);
        EXPECT_LE(NormalizedError(wanted.values, got.values), kTolerance) << Name(format);
        for (int64_t row : {0, 2, 4}) {
          EXPECT_EQ(0, std::memcmp(&before.values[static_cast<size_t>(row * 82)], &got.At(row, 0),
                                   82 * sizeof(float)))
              << "unlisted row " << row << " changed";
        }
      }
    }
  }
}

TEST_P(LinearTest, BitsOfARowDoNotDependOnTheBatch) {
  constexpr int32_t kRows = 70;
  constexpr int64_t kWidth = 131;
  for (WeightFormat format : Formats()) {
    Matrix weight = RandomMatrix(kWidth, 200, 7);
    Matrix x = RandomMatrix(kRows, 200, 8);
    const PackedMatrix packed = PackOn(*backend_, weight, format);
    Matrix alone(kRows, kWidth);
    for (int32_t row = 0; row < kRows; ++row) {
      backend_->Linear({.x = x.View(),
                        .x_rows = {&row, 1},
                        .weight = &packed,
                        .out = alone.View(),
                        .out_rows = {&row, 1}});
    }
    for (int32_t count = 1; count <= kRows; ++count) {
      for (int32_t first : {0, (kRows - count) / 2}) {
        std::vector<int32_t> rows(static_cast<size_t>(count));
        std::iota(rows.begin(), rows.end(), first);
        std::reverse(rows.begin(), rows.end());
        Matrix out(kRows, kWidth);
        backend_->Linear({.x = x.View(),
                          .x_rows = {rows.data(), count},
                          .weight = &packed,
                          .out = out.View(),
                          .out_rows = {rows.data(), count}});
        ASSERT_EQ(0, std::memcmp(&out.At(first, 0), &alone.At(first, 0),
                                 static_cast<size_t>(count * kWidth) * sizeof(float)))
            << Name(format) << " " << count << " rows from " << first;
      }
    }
  }
}

// Depths that kernels cut differently: fewer blocks than runs of a sum, uneven runs, many stages.
TEST_P(LinearTest, BitsOfARowDoNotDependOnTheBatchAtAnyDepth) {
  constexpr int32_t kRows = 70;
  constexpr int64_t kWidth = 20;
  for (WeightFormat format : Formats()) {
    for (const int64_t depth : {64, 130, 1000, 4096}) {
      Matrix weight = RandomMatrix(kWidth, depth, 7);
      Matrix x = RandomMatrix(kRows, depth, 8);
      const PackedMatrix packed = PackOn(*backend_, weight, format);
      Matrix whole(kRows, kWidth);
      LinearArgs args{.x = x.View(), .x_rows = AllRows(kRows), .weight = &packed};
      args.out = whole.View();
      args.out_rows = AllRows(kRows);
      backend_->Linear(args);
      for (const int32_t count : {1, 9, 17, 33}) {
        Matrix part(count, kWidth);
        args.x = x.View().Rows(kRows - count, count);
        args.x_rows = AllRows(count);
        args.out = part.View();
        args.out_rows = AllRows(count);
        backend_->Linear(args);
        ASSERT_EQ(0, std::memcmp(&part.At(0, 0), &whole.At(kRows - count, 0),
                                 static_cast<size_t>(count * kWidth) * sizeof(float)))
            << Name(format) << " " << count << " rows, depth " << depth;
      }
    }
  }
}

TEST_P(LinearTest, BitsDoNotDependOnThreads) {
  DeviceSpec spec = GetParam().spec;
  if (spec.device != "cpu") GTEST_SKIP() << "one thread only";
  Matrix weight = RandomMatrix(700, 333, 9);
  Matrix x = RandomMatrix(41, 333, 10);
  for (WeightFormat format : Formats()) {
    std::vector<Matrix> results;
    for (int threads : {1, 2, 3}) {
      spec.threads = threads;
      std::unique_ptr<Backend> backend = std::move(*CreateBackend(spec));
      const PackedMatrix packed = PackOn(*backend, weight, format);
      results.emplace_back(41, 700);
      backend->Linear({.x = x.View(),
                       .x_rows = AllRows(41),
                       .weight = &packed,
                       .out = results.back().View(),
                       .out_rows = AllRows(41)});
    }
    EXPECT_EQ(results[0].values, results[1].values);
    EXPECT_EQ(results[0].values, results[2].values);
  }
}

// Blocks that are longer than the distance and such that are not, one row and many.
TEST_P(LinearTest, BitsDoNotDependOnThePrefetchDistance) {
  DeviceSpec spec = GetParam().spec;
  if (spec.device != "cpu") GTEST_SKIP() << "does not prefetch";
  for (const int64_t depth : {int64_t{31}, int64_t{412}, int64_t{5000}}) {
    Matrix weight = RandomMatrix(193, depth, 15);
    Matrix x = RandomMatrix(29, depth, 16);
    for (const WeightFormat format : Formats()) {
      std::vector<Matrix> results;
      for (const int64_t bytes : {0, 64, 1024, 2048, 4096, 8192, 16384, 65536}) {
        spec.prefetch_bytes = bytes;
        std::unique_ptr<Backend> backend = std::move(*CreateBackend(spec));
        const PackedMatrix packed = PackOn(*backend, weight, format);
        Matrix out(30, 193);  // the first row alone, then all
        LinearArgs args{.x = x.View(), .x_rows = AllRows(1), .weight = &packed};
        args.out = out.View();
        args.out_rows = AllRows(1);
        backend->Linear(args);
        args.x_rows = args.out_rows = AllRows(29);
        args.out = out.View().Rows(1, 29);
        backend->Linear(args);
        results.push_back(std::move(out));
        EXPECT_EQ(results.back().values, results.front().values)
            << Name(format) << " " << depth << " deep, " << bytes << " bytes ahead";
      }
    }
  }
}

TEST_P(LinearTest, ANotANumberStaysInItsRow) {
  Matrix weight = RandomMatrix(64, 64, 11);
  Matrix x = RandomMatrix(9, 64, 12);
  const PackedMatrix packed = PackOn(*backend_, weight, WeightFormat::kBF16);
  Matrix clean(9, 64);
  LinearArgs args{.x = x.View(), .x_rows = AllRows(9), .weight = &packed, .out = clean.View()};
  args.out_rows = AllRows(9);
  backend_->Linear(args);
  x.At(4, 7) = NAN;
  Matrix poisoned(9, 64);
  args.out = poisoned.View();
  backend_->Linear(args);
  for (int64_t row = 0; row < 9; ++row) {
    const bool same = std::memcmp(&clean.At(row, 0), &poisoned.At(row, 0), 256) == 0;
    EXPECT_EQ(same, row != 4) << row;
  }
}

TEST_P(LinearTest, PackStacksPartsAndReadsTransposedAndHalfSources) {
  Matrix top = RandomMatrix(70, 33, 13);
  Matrix bottom = RandomMatrix(9, 33, 14);
  Matrix turned(33, 9);
  for (int64_t n = 0; n < 9; ++n) {
    for (int64_t k = 0; k < 33; ++k) turned.At(k, n) = bottom.At(n, k);
  }
  std::vector<BF16> half;
  for (float value : top.values) half.push_back(ToBF16(value));
  const WeightSource parts[] = {{half.data(), DType::kBF16, 70, 33, false},
                                {turned.values.data(), DType::kF32, 9, 33, true}};
  Matrix int4(79, 33);  // what its values stand for
  for (int64_t n = 0; n < 79; ++n) {
    std::vector<float> row;
    for (int64_t k = 0; k < 33; ++k)
      row.push_back(n < 70 ? ToFloat(half[static_cast<size_t>(n * 33 + k)]) : bottom.At(n - 70, k));
    int8_t q[33], groups[2];
    const float scale = RoundToInt4(row, q, groups);
    for (int64_t k = 0; k < 33; ++k)
      int4.At(n, k) = static_cast<float>(groups[k / 32] * q[k]) * scale;
  }
  for (WeightFormat format : Formats()) {
    const PackedMatrix packed = std::move(*backend_->Pack(parts, format));
    EXPECT_EQ(packed.n, 79);
    std::vector<int32_t> ids(79);
    std::iota(ids.begin(), ids.end(), 0);
    Matrix rows(79, 33);
    backend_->Embed(packed, ids, 2.0f, rows.View());
    for (int64_t n = 0; n < 79; ++n) {
      for (int64_t k = 0; k < 33; ++k) {
        const float exact = n < 70 ? ToFloat(ToBF16(top.At(n, k))) : bottom.At(n - 70, k);
        float wanted = format == WeightFormat::kF32 ? exact : ToFloat(ToBF16(exact));
        if (format == WeightFormat::kInt8) {
          float largest = 0.0f;
          for (int64_t i = 0; i < 33; ++i) {
            const float value =
                n < 70 ? ToFloat(half[static_cast<size_t>(n * 33 + i)]) : bottom.At(n - 70, i);
            largest = std::max(largest, std::abs(value));
          }
          wanted = std::nearbyint(exact * (127.0f / largest)) * (largest / 127.0f);
        }
        if (format == WeightFormat::kInt4) wanted = int4.At(n, k);
        ASSERT_EQ(rows.At(n, k), 2.0f * wanted) << Name(format) << " " << n << " " << k;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LinearTest, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
