// Norm, rope, activation, gather, residual and depth merge: by hand and against the reference.
#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

constexpr double kTolerance = 1e-12;

class RowOpsTest : public BackendTest {
 protected:
  // Runs `op` on both backends with a copy of `start` and compares.
  template <typename Op>
  void Compare(const Matrix& start, const Op& op, double tolerance = kTolerance) {
    Matrix got = start;
    Matrix wanted = start;
    op(*backend_, got.View());
    op(*reference_, wanted.View());
    EXPECT_LE(NormalizedError(wanted.values, got.values), tolerance);
  }
};

TEST_P(RowOpsTest, NormsByHand) {
  Matrix x(1, 4);
  x.values = {1, -1, 3, -3};
  const Floats weight = {1, 2, 3, 4};
  const Floats bias = {0, 0, 0, 1};
  Matrix out(1, 4);
  NormArgs args{.epsilon = 0.0f,
                .weight = weight.data(),
                .x = x.View(),
                .x_rows = AllRows(1),
                .out = out.View(),
                .out_rows = AllRows(1)};
  backend_->Norm(args);
  const float rms = std::sqrt(5.0f);
  for (int64_t c = 0; c < 4; ++c) EXPECT_NEAR(out.At(0, c), x.At(0, c) / rms * weight[c], 1e-5f);
  args.kind = NormKind::kLayer;
  args.bias = bias.data();
  backend_->Norm(args);
  for (int64_t c = 0; c < 4; ++c) {
    EXPECT_NEAR(out.At(0, c), x.At(0, c) / rms * weight[c] + bias[c], 1e-5f);
  }
}

TEST_P(RowOpsTest, NormMatchesReference) {
  const int32_t x_rows[] = {4, 0, 2};
  const int32_t out_rows[] = {1, 2, 4};
  for (NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (int64_t columns : {1, 15, 16, 17, 82, 412, 1024}) {
      Matrix x = RandomMatrix(5, columns, 1);
      for (float& value : x.values) value += 3.0f;
      Matrix weight = RandomMatrix(1, columns, 2);
      Matrix bias = RandomMatrix(1, columns, 3);
      Compare(
          RandomMatrix(5, columns, 4),
          [&](Backend& backend, TensorView out) {
            NormArgs args{.kind = kind, .weight = weight.values.data(), .bias = bias.values.data()};
            args.x = x.View();
            args.x_rows = {x_rows, 3};
            args.out = out;
            args.out_rows = {out_rows, 3};
            backend.Norm(args);
          },
          1e-11);
    }
  }
}

TEST_P(RowOpsTest, GroupedNormWorksInPlace) {
  Matrix weight = RandomMatrix(1, 82, 5);
  Compare(RandomMatrix(7, 82 * 3, 6), [&](Backend& backend, TensorView x) {
    NormArgs args{.weight = weight.values.data(), .group = 82};
    args.x = args.out = x;
    args.x_rows = args.out_rows = AllRows(7);
    backend.Norm(args);
  });
}

TEST_P(RowOpsTest, RopeByHand) {
  const int32_t positions[] = {0, 3};
  const double frequencies[] = {1.0, 0.5};
  Matrix table(2, 4);
  backend_->RopeTable({positions, 2, frequencies, 2, 1.0, table.View()});
  EXPECT_EQ(table.At(0, 0), 1.0f);
  EXPECT_NEAR(table.At(1, 1), std::cos(1.5), 1e-7);
  EXPECT_NEAR(table.At(1, 2), std::sin(3.0), 1e-7);
  const int32_t table_row = 1;
  for (RopeStyle style : {RopeStyle::kHalf, RopeStyle::kInterleaved}) {
    Matrix x(1, 5);
    x.values = {1, 2, 3, 4, 5};  // one head of 5, four dims rotated
    backend_->Rope({x.View(), 1, 5, style, table.View(), {&table_row, 1}});
    const bool half = style == RopeStyle::kHalf;
    const double other = half ? 3.0 : 2.0;
    EXPECT_NEAR(x.At(0, 0), std::cos(3.0) - other * std::sin(3.0), 1e-6);
    EXPECT_NEAR(x.At(0, half ? 2 : 1), other * std::cos(3.0) + std::sin(3.0), 1e-6);
    EXPECT_EQ(x.At(0, 4), 5.0f);
  }
}

TEST_P(RowOpsTest, RopeMatchesReference) {
  Matrix table = RandomMatrix(9, 40, 7);
  for (RopeStyle style : {RopeStyle::kHalf, RopeStyle::kInterleaved}) {
    Compare(RandomMatrix(9, 3 * 82, 8), [&](Backend& backend, TensorView x) {
      backend.Rope({x, 3, 82, style, table.View(), AllRows(9)});
    });
  }
}

TEST_P(RowOpsTest, ActivationsMatchReferenceInPlaceAndOverTheirRange) {
  for (Activation activation : {Activation::kNone, Activation::kSilu, Activation::kRelu,
                                Activation::kGelu, Activation::kGeluTanh, Activation::kTanh}) {
    for (bool gated : {false, true}) {
      for (int64_t width : {1, 16, 82, 129}) {
        const int64_t columns = gated ? 2 * width : width;
        Compare(RandomMatrix(6, columns, 9, 4.0f), [&](Backend& backend, TensorView x) {
          backend.Activate({activation, gated, x, 6, x.Columns(0, width)});
        });
      }
    }
  }
}

TEST_P(RowOpsTest, ActivationsSaturateWithoutNotANumber) {
  for (Activation activation :
       {Activation::kSilu, Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    Matrix x(1, 4);
    x.values = {1e4f, -1e4f, 100.0f, -100.0f};
    backend_->Activate({activation, false, x.View(), 1, x.View()});
    EXPECT_EQ(x.At(0, 0), 1e4f);
    EXPECT_NEAR(x.At(0, 1), 0.0f, 1e-30f);
    EXPECT_EQ(x.At(0, 2), 100.0f);
    EXPECT_NEAR(x.At(0, 3), 0.0f, 1e-30f);
  }
}

TEST_P(RowOpsTest, GatherAndAddRowsUseTheirLists) {
  const int32_t rows[] = {5, 1, 3};
  Matrix x = RandomMatrix(6, 19, 10);
  Matrix gathered(3, 19);
  backend_->Gather(x.View(), {rows, 3}, gathered.View());
  for (int64_t c = 0; c < 19; ++c) EXPECT_EQ(gathered.At(0, c), x.At(5, c));
  Compare(RandomMatrix(6, 19, 11), [&](Backend& backend, TensorView target) {
    backend.AddRows(gathered.View(), -0.5f, target, {rows, 3});
  });
}

TEST_P(RowOpsTest, CombineDepthMatchesReference) {
  const int32_t rows[] = {5, 1, 3};
  const float scores[] = {0.3f, -2.0f, 7.0f};
  Matrix y = RandomMatrix(3, 21, 12);
  for (DepthCombine combine :
       {DepthCombine::kScaledUpdate, DepthCombine::kPlusBlock, DepthCombine::kOnlyBlock}) {
    for (GateFunction gate : {GateFunction::kIdentity, GateFunction::kSigmoid, GateFunction::kOne,
                              GateFunction::kTanh}) {
      Compare(RandomMatrix(6, 21, 13), [&](Backend& backend, TensorView x) {
        backend.CombineDepth({combine, gate, y.View(), scores, x, {rows, 3}});
      });
    }
  }
}

TEST_P(RowOpsTest, FillChangesItsColumnsOnly) {
  Matrix x = RandomMatrix(5, 70, 3);
  const Matrix before = x;
  backend_->Fill(x.View().Columns(3, 60).Rows(1, 3), -0.5f);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t column = 0; column < 70; ++column) {
      const bool inside = row >= 1 && row < 4 && column >= 3 && column < 63;
      const float wanted = inside ? -0.5f : before.values[static_cast<size_t>(row * 70 + column)];
      EXPECT_EQ(x.At(row, column), wanted) << row << " " << column;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RowOpsTest, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
