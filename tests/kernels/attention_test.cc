// AppendKv and PagedAttention: by hand, against the reference, chunking, stale slots, windows,
// sinks.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

// A pool with shuffled pages for `sequences` sequences of up to `slots` slots, filled with NaN.
struct Cache {
  Cache(Backend& backend, const KvGeometry& geometry, int32_t sequences, int32_t slots) {
    const int32_t blocks = (slots + geometry.page_tokens - 1) / geometry.page_tokens;
    view.geometry = geometry;
    view.page_bytes = backend.KvPageBytes(geometry);
    pool = std::move(*backend.Allocate(static_cast<size_t>(view.page_bytes * sequences * blocks)));
    std::memset(pool.data(), 0xFF, pool.bytes());
    table.resize(static_cast<size_t>(sequences * blocks));
    std::iota(table.begin(), table.end(), 0);
    std::mt19937 random(99);
    std::shuffle(table.begin(), table.end(), random);
    view.pool = pool.data();
    view.page_table = table.data();
    view.sequence_stride = blocks;
    view.block_stride = 1;
  }

  Buffer pool;
  std::vector<int32_t> table;
  KvLayerView view;
};

// Rows of sequences, each with its slot and visible range.
struct RowList {
  std::vector<int32_t> sequence, slot, begin, end;
  void Add(int32_t s, int32_t at, int32_t window = 1 << 30) {
    sequence.push_back(s);
    slot.push_back(at);
    begin.push_back(std::max(0, at + 1 - window));
    end.push_back(at + 1);
  }
  KvRows View(int32_t first, int32_t count) const {
    const auto at = static_cast<size_t>(first);
    return {&sequence[at], &slot[at], &begin[at], &end[at], count};
  }
};

struct Shape {
  KvGeometry kv;
  int32_t heads = 0;
};

const Shape kShapes[] = {
    {{1, 8, 8, DType::kF32, 16}, 1},
    {{2, 82, 82, DType::kF32, 16}, 6},
    {{2, 64, 64, DType::kBF16, 32}, 4},
    {{1, 33, 17, DType::kBF16, 16}, 16},
    {{3, 16, 80, DType::kF32, 64}, 3},
    // The value is the end of the key.
    {{1, 44, 40, DType::kF32, 16, true}, 9},
    {{2, 23, 17, DType::kBF16, 32, true}, 4},
};

class AttentionTest : public BackendTest {
 protected:
  // Appends and attends `list` in pieces of `chunk` rows.
  Matrix Run(Backend& backend, const Shape& shape, const RowList& list, int32_t chunk) {
    const auto rows = static_cast<int32_t>(list.slot.size());
    Matrix query = RandomMatrix(rows, shape.heads * shape.kv.key_dim, 1);
    Matrix key = RandomMatrix(rows, shape.kv.num_kv_heads * shape.kv.key_dim, 2);
    Matrix value = RandomMatrix(rows, shape.kv.num_kv_heads * shape.kv.value_dim, 3);
    Matrix relative = RandomMatrix(rows, shape.heads * std::max(1, relative_size_), 4);
    Matrix out(rows, shape.heads * shape.kv.value_dim);
    Cache cache(backend, shape.kv, 3, 200);
    for (int32_t first = 0; first < rows; first += chunk) {
      const int32_t count = std::min(chunk, rows - first);
      const KvRows part = list.View(first, count);
      backend.AppendKv(
          {cache.view, part, key.View().Rows(first, count), value.View().Rows(first, count)});
      AttentionArgs args{.kv = cache.view, .rows = part};
      args.query = query.View().Rows(first, count);
      args.num_heads = shape.heads;
      args.scale = 0.3f;
      args.sinks = sinks_;
      if (relative_size_ > 0) args.relative = relative.View().Row(first);
      args.relative_size = relative_size_;
      if (row_sinks_ != nullptr) args.row_sinks = row_sinks_ + first;
      args.num_spans = kSpans;
      args.span_heads = span_heads_;
      if (span_heads_ > 0) args.spans = spans_.data() + int64_t{first} * span_heads_ * kSpans;
      if (span_heads_ == 0) args.span_heads = 1;
      args.out = out.View().Rows(first, count);
      backend.PagedAttention(args);
    }
    return out;
  }

  const float* sinks_ = nullptr;
  int32_t relative_size_ = 0;
  // A few runs of what each (row, head) of `list` may see: empty, overlapping and in any order.
  void DrawSpans(const RowList& list, int32_t heads) {
    std::mt19937 random(7);
    span_heads_ = heads;
    spans_.clear();
    for (const int32_t end : list.end) {
      for (int32_t i = 0; i < heads * kSpans; ++i) {
        const auto a = static_cast<int32_t>(random() % static_cast<uint32_t>(end + 1));
        const auto b = static_cast<int32_t>(random() % static_cast<uint32_t>(end + 1));
        spans_.push_back(i % kSpans == 1 ? KvSpan{} : KvSpan{std::min(a, b), std::max(a, b)});
      }
    }
  }

  static constexpr int32_t kSpans = 4;
  const float* row_sinks_ = nullptr;
  int32_t span_heads_ = 0;
  std::vector<KvSpan> spans_;
};

RowList Interleaved(int32_t slots, int32_t window = 1 << 30) {
  RowList list;
  for (int32_t slot = 0; slot < slots; ++slot) {
    for (int32_t s = 0; s < 3; ++s) {
      if (slot < slots - s) list.Add(s, slot, window);
    }
  }
  return list;
}

TEST_P(AttentionTest, TwoSlotsByHand) {
  Cache cache(*backend_, {1, 1, 1, DType::kF32, 16}, 1, 16);
  RowList list;
  list.Add(0, 0);
  list.Add(0, 1);
  Matrix key(2, 1);
  key.values = {0.0f, std::log(3.0f)};
  Matrix value(2, 1);
  value.values = {4.0f, 8.0f};
  Matrix query(2, 1);
  query.values = {1.0f, 2.0f};
  Matrix out(2, 1);
  backend_->AppendKv({cache.view, list.View(0, 2), key.View(), value.View()});
  backend_->PagedAttention({.kv = cache.view,
                            .rows = list.View(0, 2),
                            .query = query.View(),
                            .num_heads = 1,
                            .scale = 0.5f,
                            .out = out.View()});
  EXPECT_NEAR(out.At(0, 0), 4.0f, 1e-6f);
  EXPECT_NEAR(out.At(1, 0), 0.25f * 4.0f + 0.75f * 8.0f, 1e-5f);
  const Floats sinks = {std::log(4.0f)};
  backend_->PagedAttention({.kv = cache.view,
                            .rows = list.View(0, 2),
                            .query = query.View(),
                            .num_heads = 1,
                            .scale = 0.5f,
                            .sinks = sinks.data(),
                            .out = out.View()});
  EXPECT_NEAR(out.At(0, 0), 4.0f / 5.0f, 1e-6f);
  EXPECT_NEAR(out.At(1, 0), (4.0f + 24.0f) / 8.0f, 1e-5f);
  // By distance 0 and 1: the older slot gains what the younger one had.
  const Floats relative = {0.0f, 9.0f, 0.0f, std::log(3.0f)};
  backend_->PagedAttention({.kv = cache.view,
                            .rows = list.View(0, 2),
                            .query = query.View(),
                            .num_heads = 1,
                            .scale = 0.5f,
                            .relative = relative.data(),
                            .relative_size = 2,
                            .out = out.View()});
  EXPECT_NEAR(out.At(0, 0), 4.0f, 1e-6f);
  EXPECT_NEAR(out.At(1, 0), 6.0f, 1e-5f);
}

TEST_P(AttentionTest, MatchesReferenceAndIgnoresStaleSlots) {
  for (const Shape& shape : kShapes) {
    for (int32_t window : {1, 20, 1 << 30}) {
      const RowList list = Interleaved(150, window);
      const Matrix got = Run(*backend_, shape, list, 1000);
      const Matrix wanted = Run(*reference_, shape, list, 1000);
      EXPECT_LE(NormalizedError(wanted.values, got.values), 1e-11)
          << shape.kv.key_dim << " window " << window;
    }
  }
}

TEST_P(AttentionTest, OneShotEqualsChunkedEqualsDecode) {
  for (const Shape& shape : kShapes) {
    const RowList list = Interleaved(140, 90);
    const Matrix at_once = Run(*backend_, shape, list, 1000);
    for (int32_t chunk : {1, 7, 64}) {
      EXPECT_EQ(at_once.values, Run(*backend_, shape, list, chunk).values) << chunk;
    }
  }
}

// Rows of one sequence follow each other in its pages; the chunks start and end inside of them.
TEST_P(AttentionTest, LongRunsMatchReferenceInAnyChunks) {
  RowList list;
  for (int32_t slot = 0; slot < 150; ++slot) list.Add(0, slot);
  for (const Shape& shape : kShapes) {
    const Matrix got = Run(*backend_, shape, list, 1000);
    EXPECT_LE(NormalizedError(Run(*reference_, shape, list, 1000).values, got.values), 1e-11);
    for (int32_t chunk : {1, 5, 45, 64})
      EXPECT_EQ(got.values, Run(*backend_, shape, list, chunk).values) << chunk;
  }
}

TEST_P(AttentionTest, BitsDoNotDependOnNeighbours) {
  const Shape& shape = kShapes[1];
  RowList alone;
  for (int32_t slot = 0; slot < 100; ++slot) alone.Add(0, slot);
  const Matrix prompt = Run(*backend_, shape, alone, 1000);
  // The same rows first, then the rows of another sequence.
  RowList both = alone;
  for (int32_t slot = 0; slot < 50; ++slot) both.Add(1, slot);
  Matrix query = RandomMatrix(150, 6 * 82, 1);
  const Matrix together = Run(*backend_, shape, both, 1000);
  EXPECT_EQ(0, std::memcmp(prompt.values.data(), together.values.data(), prompt.values.size() * 4));
}

TEST_P(AttentionTest, SinksMatchReference) {
  Matrix sinks = RandomMatrix(1, 16, 5);
  sinks_ = sinks.values.data();
  for (const Shape& shape : kShapes) {
    const RowList list = Interleaved(70);
    const Matrix got = Run(*backend_, shape, list, 1000);
    EXPECT_LE(NormalizedError(Run(*reference_, shape, list, 1000).values, got.values), 1e-11);
  }
}

TEST_P(AttentionTest, RelativeLogitsMatchReferenceInAnyChunks) {
  for (const int32_t size : {1, 17, 200}) {
    relative_size_ = size;
    for (const Shape& shape : kShapes) {
      const RowList list = Interleaved(90, 70);
      const Matrix got = Run(*backend_, shape, list, 1000);
      EXPECT_LE(NormalizedError(Run(*reference_, shape, list, 1000).values, got.values), 1e-11);
      EXPECT_EQ(got.values, Run(*backend_, shape, list, 7).values);
    }
  }
}

TEST_P(AttentionTest, SpansMatchReferenceInAnyChunks) {
  for (const Shape& shape : kShapes) {
    const RowList list = Interleaved(150);
    for (const int32_t heads : {1, shape.heads}) {
      DrawSpans(list, heads);
      const Matrix got = Run(*backend_, shape, list, 1000);
      EXPECT_LE(NormalizedError(Run(*reference_, shape, list, 1000).values, got.values), 1e-11);
      EXPECT_EQ(got.values, Run(*backend_, shape, list, 7).values);
    }
  }
}

TEST_P(AttentionTest, OneSpanIsTheVisibleRangeAndTwoCountTwice) {
  const Shape& shape = kShapes[1];
  const RowList list = Interleaved(100, 70);
  const Matrix plain = Run(*backend_, shape, list, 1000);
  span_heads_ = 1;
  for (size_t i = 0; i < list.end.size(); ++i) {
    spans_.resize(spans_.size() + kSpans);
    spans_[i * kSpans + 2] = {list.begin[i], list.end[i]};
  }
  EXPECT_EQ(plain.values, Run(*backend_, shape, list, 1000).values);
  // Everything twice is everything once.
  for (size_t i = 0; i < list.end.size(); ++i) spans_[i * kSpans + 3] = spans_[i * kSpans + 2];
  EXPECT_LE(NormalizedError(plain.values, Run(*backend_, shape, list, 1000).values), 1e-11);
}

// n keys and values of zeros that were never stored are one sink of log n.
TEST_P(AttentionTest, ARowSinkIsZeroRows) {
  Cache cache(*backend_, {1, 16, 16, DType::kF32, 16}, 1, 16);
  RowList list;
  for (int32_t slot = 0; slot < 5; ++slot) list.Add(0, slot);
  Matrix query = RandomMatrix(5, 16, 1);
  Matrix key = RandomMatrix(5, 16, 2);
  Matrix value = RandomMatrix(5, 16, 3);
  for (Matrix* matrix : {&key, &value}) std::fill_n(matrix->values.begin(), 3 * 16, 0.0f);
  Matrix out(2, 16), expected(2, 16);
  AttentionArgs args{.kv = cache.view, .rows = list.View(3, 2), .query = query.View().Rows(3, 2)};
  args.num_heads = 1;
  args.out = expected.View();
  backend_->AppendKv({cache.view, list.View(0, 5), key.View(), value.View()});
  backend_->PagedAttention(args);
  // The last two rows alone, in the first two slots.
  const float sinks[] = {std::log(3.0f), std::log(3.0f)};
  args.rows = list.View(0, 2);
  args.row_sinks = sinks;
  args.out = out.View();
  backend_->AppendKv({cache.view, args.rows, key.View().Rows(3, 2), value.View().Rows(3, 2)});
  backend_->PagedAttention(args);
  EXPECT_LE(NormalizedError(expected.values, out.values), 1e-11);
}

TEST_P(AttentionTest, RowSinksMatchReferenceInAnyChunks) {
  Matrix sinks = RandomMatrix(1, 1000, 5);
  for (size_t i = 0; i < 1000; i += 3) sinks.values[i] = -std::numeric_limits<float>::infinity();
  const std::vector<float> of_rows(sinks.values.begin(), sinks.values.end());
  row_sinks_ = of_rows.data();
  const RowList list = Interleaved(70);
  const Matrix got = Run(*backend_, kShapes[1], list, 1000);
  EXPECT_LE(NormalizedError(Run(*reference_, kShapes[1], list, 1000).values, got.values), 1e-11);
  EXPECT_EQ(got.values, Run(*backend_, kShapes[1], list, 7).values);
}

TEST_P(AttentionTest, NothingVisibleGivesZero) {
  Cache cache(*backend_, {1, 16, 16, DType::kF32, 16}, 1, 16);
  const int32_t zero = 0;
  Matrix query = RandomMatrix(1, 16, 1);
  Matrix out = RandomMatrix(1, 16, 2);
  backend_->PagedAttention({.kv = cache.view,
                            .rows = {&zero, &zero, &zero, &zero, 1},
                            .query = query.View(),
                            .num_heads = 1,
                            .out = out.View()});
  for (float value : out.values) EXPECT_EQ(value, 0.0f);
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionTest, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
