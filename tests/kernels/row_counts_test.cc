// Ops on rows for numbers of rows around the size of a task (8 or 16): none, one, odd ones, against
// the reference. What lies behind the last row stays as it is, and with no row everything.
#include <algorithm>
#include <numeric>

#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

constexpr int32_t kCounts[] = {0, 1, 7, 8, 9, 15, 16, 17, 65};
constexpr int32_t kMost = 65;
constexpr int64_t kDim = 82;
constexpr double kTolerance = 1e-11;

using Integers = std::vector<int32_t>;  // lists are the host's

Integers UpTo(int32_t count) {
  Integers out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

class RowCountsTest : public BackendTest {
 protected:
  // Runs `op` for every count on both backends, on copies of one matrix of kMost + 1 rows.
  template <typename Op>
  void Compare(int64_t columns, const Op& op) {
    const Matrix start = RandomMatrix(kMost + 1, columns, 1);
    for (const int32_t count : kCounts) {
      SCOPED_TRACE(testing::Message() << count << " rows");
      Matrix got = start, wanted = start;
      op(*backend_, got.View(), count);
      op(*reference_, wanted.View(), count);
      EXPECT_LE(NormalizedError(wanted.values, got.values), kTolerance);
      const auto untouched = static_cast<std::ptrdiff_t>(count * columns);
      EXPECT_TRUE(std::equal(got.values.begin() + untouched, got.values.end(),
                             start.values.begin() + untouched));
      EXPECT_EQ(got.values == start.values, count == 0) << "every op changes the rows it has";
    }
  }

  Matrix other_ = RandomMatrix(kMost, 2 * kDim, 2);
  Integers rows_ = UpTo(kMost);
  std::vector<float> scores_{other_.values.begin(), other_.values.begin() + kMost};
};

TEST_P(RowCountsTest, Norm) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    Compare(kDim, [&](Backend& backend, TensorView x, int32_t count) {
      backend.Norm({.kind = kind,
                    .x = x,
                    .x_rows = {rows_.data(), count},
                    .out = x,
                    .out_rows = {rows_.data(), count}});
    });
  }
}

TEST_P(RowCountsTest, Activate) {
  Compare(kDim, [&](Backend& backend, TensorView out, int32_t count) {
    backend.Activate({Activation::kSilu, true, other_.View(), count, out});
  });
}

TEST_P(RowCountsTest, GatherAndAddRows) {
  Compare(kDim, [&](Backend& backend, TensorView out, int32_t count) {
    backend.Gather(other_.View().Columns(0, kDim), {rows_.data(), count}, out);
  });
  Compare(kDim, [&](Backend& backend, TensorView x, int32_t count) {
    backend.AddRows(other_.View().Columns(0, kDim), 0.5f, x, {rows_.data(), count});
  });
}

TEST_P(RowCountsTest, CombineDepthAndFill) {
  Compare(kDim, [&](Backend& backend, TensorView x, int32_t count) {
    backend.CombineDepth({.y = other_.View().Columns(0, kDim),
                          .scores = scores_.data(),
                          .x = x,
                          .rows = {rows_.data(), count}});
  });
  Compare(kDim, [](Backend& backend, TensorView x, int32_t count) {
    backend.Fill(x.Rows(0, count), 3.0f);
  });
}

TEST_P(RowCountsTest, Rope) {
  const std::vector<double> frequencies = {1.0, 0.5, 0.25};
  Compare(6, [&](Backend& backend, TensorView table, int32_t count) {
    backend.RopeTable({rows_.data(), count, frequencies.data(), 3, 1.5, table});
  });
  Compare(16, [&](Backend& backend, TensorView x, int32_t count) {
    backend.Rope({x.Rows(0, count),
                  2,
                  8,
                  RopeStyle::kHalf,
                  other_.View().Columns(0, 6),
                  {rows_.data(), count}});
  });
}

TEST_P(RowCountsTest, Embed) {
  Matrix table = RandomMatrix(kMost, kDim, 3);
  const PackedMatrix packed = PackOn(*backend_, table, WeightFormat::kBF16);
  const PackedMatrix reference = PackOn(*reference_, table, WeightFormat::kBF16);
  Compare(kDim, [&](Backend& backend, TensorView out, int32_t count) {
    backend.Embed(&backend == reference_.get() ? reference : packed,
                  {rows_.data(), static_cast<size_t>(count)}, 2.0f, out);
  });
}

TEST_P(RowCountsTest, Route) {
  Compare(2, [&](Backend& backend, TensorView weights, int32_t count) {
    Integers experts(2 * (kMost + 1), -1);
    RouteArgs args{.top_k = 2, .logits = other_.View().Columns(0, 9), .rows = count};
    args.experts = experts.data();
    args.weights = weights.Row(0);
    backend.Route(args);
    for (size_t i = 0; i < experts.size(); ++i) {
      EXPECT_EQ(experts[i] >= 0, i < static_cast<size_t>(2 * count)) << i;
    }
  });
}

TEST_P(RowCountsTest, SelectAbove) {
  for (const int32_t rows : kCounts) {
    Integers got(kMost + 1, -1), wanted(kMost + 1, -1), counts(2, -1);
    const std::vector<float> thresholds(kMost, 0.0f);
    backend_->SelectAbove({scores_.data(), thresholds.data(), rows, got.data(), &counts[0]});
    reference_->SelectAbove({scores_.data(), thresholds.data(), rows, wanted.data(), &counts[1]});
    EXPECT_EQ(counts[0], counts[1]);
    EXPECT_EQ(got, wanted);
    EXPECT_EQ(counts[0] > 0, rows > 1) << "of this seed the first score is below";
  }
}

// The rows of a prompt that was not there before: each sees the slots up to its own.
TEST_P(RowCountsTest, AppendKvAndAttention) {
  const KvGeometry shape{2, 24, 16, DType::kBF16, 16};
  const Integers begin(kMost, 0), sequence(kMost, 0);
  Integers end = rows_;
  for (int32_t& slot : end) ++slot;
  const Integers pages = UpTo((kMost + 15) / 16);
  Matrix query = RandomMatrix(kMost, 4 * 24, 4), key = RandomMatrix(kMost, 2 * 24, 5);
  Matrix value = RandomMatrix(kMost, 2 * 16, 6);
  Compare(4 * 16, [&](Backend& backend, TensorView out, int32_t count) {
    KvLayerView kv{.geometry = shape};
    kv.page_bytes = backend.KvPageBytes(shape);
    const Buffer pool =
        std::move(*backend.Allocate(pages.size() * static_cast<size_t>(kv.page_bytes)));
    kv.pool = pool.data();
    kv.page_table = pages.data();
    kv.sequence_stride = static_cast<int64_t>(pages.size());
    kv.block_stride = 1;
    const KvRows rows{sequence.data(), rows_.data(), begin.data(), end.data(), count};
    backend.AppendKv({kv, rows, key.View().Rows(0, count), value.View().Rows(0, count)});
    AttentionArgs args{.kv = kv, .rows = rows};
    args.query = query.View().Rows(0, count);
    args.num_heads = 4;
    args.out = out;
    backend.PagedAttention(args);
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, RowCountsTest, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
