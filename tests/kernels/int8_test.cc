// Products of integers: the definition of kernels/int8.h by hand (int4's: int4_test), and of both
// formats the same bits from every backend, and what happens to rows that have no scale.
#include "kernels/int8.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Int8Test : public BackendTest {
 protected:
  // x W^T without an epilogue.
  Matrix Product(Backend& backend,
                 Matrix& x,
                 Matrix& weight,
                 WeightFormat format = WeightFormat::kInt8) {
    const PackedMatrix packed = PackOn(backend, weight, format);
    Matrix out(x.rows, weight.rows);
    LinearArgs args{.x = x.View(), .x_rows = AllRows(x.rows), .weight = &packed};
    args.out = out.View();
    args.out_rows = AllRows(x.rows);
    backend.Linear(args);
    return out;
  }
};

TEST_P(Int8Test, MatchesTheDefinitionByHand) {
  Matrix weight(2, 3);
  weight.values = {127, -64, 0, 254, 2, -1};  // scales 1 and 2; -0.5 rounds to even, 0
  Matrix x(2, 3);
  x.values = {63.5f, 31.75f, -0.25f, 0, 0, 127};  // scales 0.5 and 1; -0.5 again
  Matrix out = Product(*backend_, x, weight);
  EXPECT_EQ(out.At(0, 0), 0.5f * (127 * 127 - 64 * 64));  // 63.5 is the 64th of 0.5, to even
  EXPECT_EQ(out.At(0, 1), 0.5f * 2 * (127 * 127 + 64));
  EXPECT_EQ(out.At(1, 0), 0.0f);
  EXPECT_EQ(out.At(1, 1), 0.0f);
}

TEST_P(Int8Test, EveryBackendGivesTheBitsOfTheReference) {
  struct Size {
    int64_t rows, n, k;
  };
  const Size sizes[] = {{0, 5, 5},      {1, 1, 1},    {1, 82, 412}, {3, 63, 65},
                        {7, 412, 82},   {8, 65, 63},  {17, 64, 64}, {33, 7, 130},
                        {70, 193, 129}, {5, 640, 31}, {9, 130, 97}, {2, 64, 32}};
  for (const Size& size : sizes) {
    Matrix weight = RandomMatrix(size.n, size.k, 1);
    Matrix bias = RandomMatrix(1, size.n, 3);
    Matrix x = RandomMatrix(size.rows, size.k, 2);
    Matrix got(size.rows, size.n);
    Matrix wanted(size.rows, size.n);
    LinearArgs args{.x = x.View(), .x_rows = AllRows(size.rows)};
    args.bias = bias.values.data();
    args.out_rows = AllRows(size.rows);
    for (const WeightFormat format : IntegerFormats()) {
      const PackedMatrix ours = PackOn(*backend_, weight, format);
      const PackedMatrix theirs = PackOn(*reference_, weight, format);
      for (const Activation activation : {Activation::kNone, Activation::kRelu}) {
        args.activation = activation;
        args.weight = &ours;
        args.out = got.View();
        backend_->Linear(args);
        args.weight = &theirs;
        args.out = wanted.View();
        reference_->Linear(args);
        EXPECT_EQ(got.values, wanted.values)
            << Name(format) << " " << size.rows << "x" << size.n << "x" << size.k;
      }
    }
  }
}

TEST_P(Int8Test, RowsWithoutAScaleAreZeroOrNotANumber) {
  for (const WeightFormat format : IntegerFormats()) {
    Matrix weight = RandomMatrix(70, 33, 4);
    Matrix x = RandomMatrix(6, 33, 5);
    const Matrix clean = Product(*backend_, x, weight, format);
    for (int64_t k = 0; k < 33; ++k) {
      x.At(0, k) = 0.0f;
      x.At(1, k) *= 1e-38f;  // 127 / largest would be infinite
    }
    x.At(2, 32) = NAN;
    x.At(3, 0) = kInfinity;
    x.At(4, 16) = -kInfinity;
    Matrix out = Product(*backend_, x, weight, format);
    for (int64_t n = 0; n < 70; ++n) {
      EXPECT_EQ(out.At(0, n), 0.0f);
      EXPECT_EQ(out.At(1, n), 0.0f);
      for (int64_t row : {2, 3, 4}) EXPECT_TRUE(std::isnan(out.At(row, n))) << row << " " << n;
    }
    EXPECT_EQ(0, std::memcmp(&out.At(5, 0), &clean.values[5 * 70], 70 * sizeof(float)));
  }
}

TEST_P(Int8Test, AWeightThatIsNotFiniteSpoilsItsOutputOnly) {
  for (const WeightFormat format : IntegerFormats()) {
    Matrix weight = RandomMatrix(70, 33, 6);
    Matrix x = RandomMatrix(3, 33, 7);
    const Matrix clean = Product(*backend_, x, weight, format);
    weight.At(5, 3) = NAN;
    weight.At(66, 0) = kInfinity;
    const Matrix out = Product(*backend_, x, weight, format);
    for (size_t i = 0; i < out.values.size(); ++i) {
      if (i % 70 == 5 || i % 70 == 66) {
        EXPECT_TRUE(std::isnan(out.values[i])) << i;
      } else {
        EXPECT_EQ(out.values[i], clean.values[i]) << i;
      }
    }
  }
}

TEST_P(Int8Test, TheDeepestProductDoesNotOverflow) {
  Matrix weight(3, kMaxInt8Depth);
  Matrix x(1, kMaxInt8Depth);
  for (int64_t k = 0; k < kMaxInt8Depth; ++k) {
    weight.At(0, k) = x.At(0, k) = 127.0f;
    weight.At(1, k) = -127.0f;
    weight.At(2, k) = k % 2 == 0 ? 127.0f : -127.0f;
  }
  Matrix out = Product(*backend_, x, weight);
  EXPECT_EQ(out.At(0, 0), 127.0f * 127.0f * 65536.0f);
  EXPECT_EQ(out.At(0, 1), -127.0f * 127.0f * 65536.0f);
  EXPECT_EQ(out.At(0, 2), 0.0f);
}

TEST_P(Int8Test, DeeperProductsAreRefused) {
  for (const WeightFormat format : IntegerFormats()) {
    Matrix weight(1, kMaxInt8Depth + 1);
    const WeightSource source = SourceOf(weight);
    const auto packed = backend_->Pack({&source, 1}, format);
    EXPECT_EQ(packed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(packed.status().message().find("65536"), std::string::npos) << packed.status();
    EXPECT_EQ(backend_->AllocateExperts(1, kMaxInt8Depth + 1, 1, true, format).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

// Each slice of an expert is rounded by itself, so a value a thousand times larger in one slice
// takes no bit from another.
TEST_P(Int8Test, SlicesOfAnExpertHaveScalesOfTheirOwn) {
  constexpr int64_t kDim = 64;
  constexpr int64_t kHidden = 2 * kInt8SliceHidden;
  PackedExperts experts =
      std::move(*backend_->AllocateExperts(1, kDim, kHidden, false, WeightFormat::kInt8));
  ASSERT_EQ(experts.slices_per_expert, 2);
  Matrix up = RandomMatrix(kHidden, kDim, 8);
  Matrix down = RandomMatrix(kDim, kHidden, 9);
  Matrix x = RandomMatrix(1, kDim, 10);
  const int32_t id = 0;
  const float one = 1.0f;
  Floats workspace(static_cast<size_t>(backend_->MoeWorkspaceBytes(experts, 1, 1)) / 4 + 1);
  std::vector<Matrix> outs;
  for (const float factor : {1.0f, 0.0f, 1024.0f}) {  // of the second slice's units
    for (int64_t unit = kInt8SliceHidden; unit < kHidden; ++unit) {
      for (int64_t k = 0; k < kDim; ++k) {
        up.At(unit, k) = factor * RandomMatrix(1, 1, static_cast<uint32_t>(unit)).At(0, 0);
      }
    }
    backend_->PackExpert({SourceOf(up), {}, SourceOf(down)}, 0, experts);
    outs.emplace_back(1, kDim);
    MoeFfnArgs args{.x = x.View(), .x_rows = AllRows(1), .experts = &experts};
    args.activation = Activation::kRelu;
    args.expert_ids = &id;
    args.weights = &one;
    args.top_k = 1;
    args.out = outs.back().View();
    args.out_rows = AllRows(1);
    args.workspace = workspace.data();
    backend_->MoeFfn(args);
  }
  for (int64_t k = 0; k < kDim; ++k) {
    const float first = outs[1].At(0, k);
    const float second = outs[0].At(0, k) - first;
    const float scaled = outs[2].At(0, k) - first;
    // Powers of two change no rounding; only the sums of the two slices round.
    EXPECT_NEAR(scaled, 1024.0f * second, 1e-6f * 1024.0f * (std::abs(second) + std::abs(first)));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, Int8Test, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
