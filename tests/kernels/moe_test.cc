// MoeFfn: against the composition of plain ops on the reference, its laws, and the slice layout.
#include <cstring>

#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

struct MoeShape {
  int32_t experts = 6;
  int64_t dim = 82;
  int64_t hidden = 100;
  bool gated = true;
  int32_t top_k = 2;
};

class MoeTest : public BackendTest {
 protected:
  PackedExperts PackAll(Backend& backend, const MoeShape& shape, WeightFormat format) {
    PackedExperts experts = std::move(
        *backend.AllocateExperts(shape.experts, shape.dim, shape.hidden, shape.gated, format));
    for (int32_t e = 0; e < shape.experts; ++e) {
      const auto seed = static_cast<uint32_t>(e);
      Matrix w1 = RandomMatrix(shape.hidden, shape.dim, 10 + seed, 0.1f);
      Matrix w3 = RandomMatrix(shape.hidden, shape.dim, 30 + seed, 0.1f);
      Matrix w2 = RandomMatrix(shape.dim, shape.hidden, 50 + seed, 0.1f);
      ExpertSource source{SourceOf(w1), shape.gated ? SourceOf(w3) : WeightSource{}, SourceOf(w2)};
      backend.PackExpert(source, e, experts);
    }
    return experts;
  }
  void ExpectSameBitsInAnyBatch(const MoeShape& shape,
                                WeightFormat format,
                                const std::vector<int32_t>& counts);
};

// Ids in [0, experts], where `experts` is the null expert.
struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice Choose(const MoeShape& shape, int32_t rows, uint32_t seed) {
  Choice out;
  std::mt19937 random(seed);
  for (int32_t a = 0; a < rows * shape.top_k; ++a) {
    out.ids.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(shape.experts + 1)));
    out.weights.push_back(static_cast<float>(random() % 64) / 32.0f);
  }
  return out;
}

MoeFfnArgs ArgsFor(Matrix& x, Matrix& out, const PackedExperts& experts, const MoeShape& shape) {
  MoeFfnArgs args;
  args.x = x.View();
  args.x_rows = AllRows(x.rows);
  args.experts = &experts;
  args.top_k = shape.top_k;
  args.out = out.View();
  args.out_rows = AllRows(x.rows);
  return args;
}

void RunMoe(Backend& backend, MoeFfnArgs args) {
  const int64_t bytes = backend.MoeWorkspaceBytes(*args.experts, args.x_rows.count, args.top_k);
  Floats workspace(static_cast<size_t>(bytes / 4 + 1), NAN);
  args.workspace = workspace.data();
  backend.MoeFfn(args);
}

TEST_P(MoeTest, MatchesReference) {
  const MoeShape shapes[] = {{},
                             {.experts = 3, .dim = 64, .hidden = 600, .top_k = 1},
                             {.experts = 9, .gated = false, .top_k = 4}};
  for (WeightFormat format : Formats()) {
    for (const MoeShape& shape : shapes) {
      const PackedExperts ours = PackAll(*backend_, shape, format);
      const PackedExperts theirs = PackAll(*reference_, shape, format);
      for (int32_t rows : {0, 1, 5, 300}) {
        const Choice choice = Choose(shape, rows, 7);
        Matrix x = RandomMatrix(rows, shape.dim, 8);
        Matrix got = RandomMatrix(rows, shape.dim, 9);
        Matrix wanted = got;
        MoeFfnArgs args = ArgsFor(x, got, ours, shape);
        args.expert_ids = choice.ids.data();
        args.weights = choice.weights.data();
        RunMoe(*backend_, args);
        args.experts = &theirs;
        args.out = wanted.View();
        RunMoe(*reference_, args);
        // The hidden values are rounded to bf16 once more, after sums in another order.
        const double tolerance = format == WeightFormat::kF32 ? 1e-11 : 1e-6;
        EXPECT_LE(NormalizedError(wanted.values, got.values), tolerance)
            << Name(format) << " rows " << rows << " hidden " << shape.hidden;
      }
    }
  }
}

TEST_P(MoeTest, BiasesAndTheClampMatchReference) {
  const MoeShape shape{.experts = 5, .dim = 70, .hidden = 600};
  constexpr int32_t kRows = 40;
  Matrix gate = RandomMatrix(shape.experts, shape.hidden, 21);
  Matrix up = RandomMatrix(shape.experts, shape.hidden, 22);
  Matrix down = RandomMatrix(shape.experts, shape.dim, 23);
  const Choice choice = Choose(shape, kRows, 7);
  Matrix x = RandomMatrix(kRows, shape.dim, 8);
  for (WeightFormat format : Formats()) {
    const PackedExperts ours = PackAll(*backend_, shape, format);
    const PackedExperts theirs = PackAll(*reference_, shape, format);
    for (Activation activation : {Activation::kSilu, Activation::kClampedSwiglu}) {
      Matrix got = RandomMatrix(kRows, shape.dim, 9);
      Matrix wanted = got;
      MoeFfnArgs args = ArgsFor(x, got, ours, shape);
      args.activation = activation;
      args.clamp = {.alpha = 1.702f, .limit = 0.7f};
      args.biases = {gate.values.data(), up.values.data(), down.values.data()};
      args.expert_ids = choice.ids.data();
      args.weights = choice.weights.data();
      RunMoe(*backend_, args);
      args.experts = &theirs;
      args.out = wanted.View();
      RunMoe(*reference_, args);
      const double tolerance = format == WeightFormat::kF32 ? 1e-11 : 1e-6;
      EXPECT_LE(NormalizedError(wanted.values, got.values), tolerance) << Name(format);
    }
  }
}

// The first `counts.back()` rows alone, then together with the others.
void MoeTest::ExpectSameBitsInAnyBatch(const MoeShape& shape,
                                       WeightFormat format,
                                       const std::vector<int32_t>& counts) {
  const int32_t all = counts.back();
  const PackedExperts experts = PackAll(*backend_, shape, format);
  const Choice choice = Choose(shape, all, 11);
  Matrix x = RandomMatrix(all, shape.dim, 12);
  Matrix alone(all, shape.dim);
  MoeFfnArgs args = ArgsFor(x, alone, experts, shape);
  for (int32_t row = 0; row < all; ++row) {
    args.x_rows = args.out_rows = {&row, 1, nullptr};
    args.expert_ids = &choice.ids[static_cast<size_t>(row * shape.top_k)];
    args.weights = &choice.weights[static_cast<size_t>(row * shape.top_k)];
    RunMoe(*backend_, args);
  }
  args.expert_ids = choice.ids.data();
  args.weights = choice.weights.data();
  for (const int32_t rows : counts) {
    Matrix together(all, shape.dim);
    args.out = together.View();
    args.x_rows = args.out_rows = AllRows(rows);
    RunMoe(*backend_, args);
    ASSERT_EQ(0, std::memcmp(alone.values.data(), together.values.data(),
                             static_cast<size_t>(rows * shape.dim) * sizeof(float)))
        << Name(format) << " " << rows << " rows, hidden " << shape.hidden;
  }
}

TEST_P(MoeTest, BitsOfARowDoNotDependOnTheBatch) {
  // Enough rows for the regime with one partial result per assignment.
  const MoeShape shape{.experts = 4, .dim = 70, .hidden = 520, .top_k = 2};
  // More slices than are added up at a time, experts of few rows and of many.
  const MoeShape sliced{.experts = 4, .dim = 70, .hidden = 1300, .top_k = 1};
  const MoeShape one_left{.experts = 4, .dim = 70, .hidden = 1100, .top_k = 1};
  for (WeightFormat format : Formats()) {
    ExpectSameBitsInAnyBatch(shape, format, {2, 17, 85, 86, 129, 300});
    ExpectSameBitsInAnyBatch(sliced, format, {88, 130});
    ExpectSameBitsInAnyBatch(one_left, format, {130});
  }
}

TEST_P(MoeTest, NullExpertsOnlyLeaveTheRowsAlone) {
  const MoeShape shape;
  const PackedExperts experts = PackAll(*backend_, shape, WeightFormat::kBF16);
  const std::vector<int32_t> ids(10, shape.experts);
  const std::vector<float> weights(10, 1.0f);
  Matrix x = RandomMatrix(5, shape.dim, 13);
  Matrix out = RandomMatrix(5, shape.dim, 14);
  const Matrix before = out;
  MoeFfnArgs args = ArgsFor(x, out, experts, shape);
  args.expert_ids = ids.data();
  args.weights = weights.data();
  RunMoe(*backend_, args);
  EXPECT_EQ(out.values, before.values);
}

TEST_P(MoeTest, FusedFormEqualsTheDefaultComposition) {
  const MoeShape shape{.experts = 4, .dim = 96, .hidden = 300, .top_k = 2};
  for (WeightFormat format : Formats()) {
    const PackedExperts experts = PackAll(*backend_, shape, format);
    const Choice choice = Choose(shape, 40, 15);
    Matrix x = RandomMatrix(40, shape.dim, 16);
    Matrix fused(40, shape.dim);
    Matrix composed(40, shape.dim);
    MoeFfnArgs args = ArgsFor(x, fused, experts, shape);
    args.expert_ids = choice.ids.data();
    args.weights = choice.weights.data();
    RunMoe(*backend_, args);
    args.out = composed.View();
    Floats workspace(
        static_cast<size_t>(backend_->Backend::MoeWorkspaceBytes(experts, 40, 2) / 4 + 1));
    args.workspace = workspace.data();
    backend_->Backend::MoeFfn(args);
    EXPECT_LE(NormalizedError(composed.values, fused.values), 1e-12) << Name(format);
  }
}

TEST_P(MoeTest, AnExpertIsOneRunOfSlices) {
  const MoeShape shape{.experts = 2, .dim = 70, .hidden = 600};
  const PackedExperts experts = PackAll(*backend_, shape, WeightFormat::kBF16);
  const char* next = static_cast<const char*>(experts.storage.data());
  int64_t hidden = 0;
  for (int32_t e = 0; e < 2; ++e) {
    for (int32_t s = 0; s < experts.slices_per_expert; ++s) {
      const PackedExperts::Slice& slice = experts.At(e, s);
      for (const PackedMatrix* part : {&slice.w1, &slice.w3, &slice.w2}) {
        EXPECT_EQ(part->data, next);
        next += part->bytes();
      }
      hidden += slice.w1.n;
    }
  }
  EXPECT_EQ(hidden, 2 * shape.hidden);
}

INSTANTIATE_TEST_SUITE_P(Backends, MoeTest, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
