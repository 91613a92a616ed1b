// int4 weights: the definition of kernels/int4.h by hand and its rounding. What int4 shares with
// int8 is int8_test's.
#include "kernels/int4.h"

#include <algorithm>
#include <limits>

#include "kernels/int8.h"
#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

class Int4Test : public BackendTest {
 protected:
  Matrix Product(Matrix& x, Matrix& weight) {
    const PackedMatrix packed = PackOn(*backend_, weight, WeightFormat::kInt4);
    Matrix out(x.rows, weight.rows);
    LinearArgs args{.x = x.View(), .x_rows = AllRows(x.rows), .weight = &packed};
    args.out = out.View();
    args.out_rows = AllRows(x.rows);
    backend_->Linear(args);
    return out;
  }
};

TEST_P(Int4Test, MatchesTheDefinitionByHand) {
  Matrix weight(1, 35);   // scale 1
  weight.At(0, 0) = 120;  // the group's scale is -15, of which this is -8
  weight.At(0, 1) = -64;  // 4 of them, -60
  weight.At(0, 32) = 4;   // the next group's is 1
  weight.At(0, 33) = -8;
  weight.At(0, 34) = 1;
  Matrix x(1, 35);  // scale 1
  x.At(0, 0) = 127;
  x.At(0, 1) = 1;
  x.At(0, 32) = 2;
  x.At(0, 33) = 3;
  x.At(0, 34) = -1;
  EXPECT_EQ(Product(x, weight).At(0, 0), 127 * 120 - 60 + 2 * 4 - 3 * 8 - 1);
  const PackedMatrix packed = PackOn(*backend_, weight, WeightFormat::kInt4);
  const int32_t id = 0;
  Matrix row(1, 35);
  backend_->Embed(packed, {&id, 1}, 2.0f, row.View());
  weight.At(0, 1) = -60;
  for (int64_t k = 0; k < 35; ++k) EXPECT_EQ(row.At(0, k), 2.0f * weight.At(0, k)) << k;
}

TEST_P(Int4Test, TheDeepestProductDoesNotOverflow) {
  for (const int64_t rows : {1, 9}) {  // of the family of few rows and of the other
    Matrix weight(2, kMaxInt8Depth);
    Matrix x(rows, kMaxInt8Depth);
    std::fill(x.values.begin(), x.values.end(), 127.0f);
    for (int64_t k = 0; k < kMaxInt8Depth; ++k) {
      weight.At(0, k) = 127.0f;
      weight.At(1, k) = -127.0f;
    }
    Matrix out = Product(x, weight);
    const float wanted = Int8Product(127 * 120 * static_cast<int32_t>(kMaxInt8Depth), 1.0f,
                                     127.0f / (8 * kInt4LargestScale));
    EXPECT_EQ(out.At(rows - 1, 0), wanted);
    EXPECT_EQ(out.At(rows - 1, 1), -wanted);
  }
}

// A group with small values has fine steps beside one with large values, down to those of int8.
TEST_P(Int4Test, AGroupTakesNoBitFromAnother) {
  Matrix weight = RandomMatrix(1, 64, 3);
  for (int64_t k = 0; k < 32; ++k) weight.At(0, k) *= 8.0f;
  Matrix x(1, 64);
  x.At(0, 40) = 1.0f;
  const float wanted = weight.At(0, 40);
  float largest = 0.0f;
  for (const float value : weight.values) largest = std::max(largest, std::abs(value));
  EXPECT_NEAR(Product(x, weight).At(0, 0), wanted, 1.5f * largest / 120.0f);
}

// Whether a scale is taken with the other sign or of another size, the error is hardly less.
TEST(Int4RoundingTest, IsCloseToTheBestOfAllScales) {
  Matrix row = RandomMatrix(1, 2000, 5);
  std::vector<int8_t> q(2000);
  std::vector<int8_t> groups(63);
  const float scale = RoundToInt4(row.values, q.data(), groups.data());
  double error = 0.0, best = 0.0, power = 0.0;
  for (size_t first = 0; first < 2000; first += 32) {
    const size_t end = std::min<size_t>(2000, first + 32);
    const auto error_of = [&](float step, const auto& value) {
      double sum = 0.0;
      for (size_t k = first; k < end; ++k) {
        const float difference = row.values[k] - step * static_cast<float>(value(k));
        sum += static_cast<double>(difference) * static_cast<double>(difference);
      }
      return sum;
    };
    const auto group = static_cast<float>(groups[first / 32]);
    error += error_of(scale * group, [&](size_t k) { return q[k]; });
    double least = std::numeric_limits<double>::infinity();
    for (int32_t g = -kInt4LargestScale; g <= kInt4LargestScale; ++g) {
      if (g == 0) continue;
      const float step = scale * static_cast<float>(g);
      least = std::min(least, error_of(step, [&](size_t k) {
                         return std::clamp(std::nearbyint(row.values[k] / step), -8.0f, 7.0f);
                       }));
    }
    best += least;
    power += error_of(0.0f, [](size_t) { return 0; });
  }
  for (const int8_t value : q) EXPECT_TRUE(value >= -8 && value <= 7);
  for (const int8_t group : groups) EXPECT_TRUE(group >= -15 && group <= 15 && group != 0);
  EXPECT_LE(error, 1.01 * best);
  EXPECT_LE(error, 0.008 * power);  // rounding a normal distribution
}

INSTANTIATE_TEST_SUITE_P(Backends, Int4Test, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
