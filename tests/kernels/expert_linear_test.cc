// ExpertLinear: against the reference, and its canonical order.
#include <cstring>

#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

class ExpertLinearTest : public BackendTest {
 protected:
  static constexpr int32_t kExperts = 5;
  // Outputs: fewer and more than threads that share them.
  static constexpr int64_t kWidths[] = {82, 530};

  std::vector<PackedMatrix> PackExperts(Backend& backend, WeightFormat format, int64_t width) {
    std::vector<PackedMatrix> out;
    for (uint32_t e = 0; e < kExperts; ++e) {
      Matrix weight = RandomMatrix(width, 60, 100 + e);
      out.push_back(PackOn(backend, weight, format));
    }
    return out;
  }
};

struct Assignments {
  std::vector<int32_t> expert, x_row, out_row;
  std::vector<float> scale;
};

// Every row uses two experts, like SwitchHead.
Assignments TwoPerRow(int32_t rows, uint32_t seed) {
  Assignments out;
  std::mt19937 random(seed);
  for (int32_t a = 0; a < 2 * rows; ++a) {
    out.expert.push_back(static_cast<int32_t>(random() % 5));
    out.x_row.push_back(a / 2);
    out.out_row.push_back(a / 2);
    out.scale.push_back(static_cast<float>(random() % 100) / 50.0f);
  }
  return out;
}

ExpertLinearArgs ArgsFor(const Assignments& list, const std::vector<PackedMatrix>& weights) {
  ExpertLinearArgs args;
  args.weights = weights;
  args.expert = list.expert.data();
  args.x_row = list.x_row.data();
  args.out_row = list.out_row.data();
  args.scale = list.scale.data();
  args.count = static_cast<int32_t>(list.expert.size());
  return args;
}

TEST_P(ExpertLinearTest, MatchesReference) {
  for (WeightFormat format : Formats()) {
    for (int64_t width : kWidths) {
      const std::vector<PackedMatrix> ours = PackExperts(*backend_, format, width);
      const std::vector<PackedMatrix> theirs = PackExperts(*reference_, format, width);
      for (int32_t rows : {0, 1, 3, 530}) {
        const Assignments list = TwoPerRow(rows, 1);
        Matrix x = RandomMatrix(rows, 60, 2);
        Matrix got = RandomMatrix(rows, width, 3);
        Matrix wanted = got;
        ExpertLinearArgs args = ArgsFor(list, ours);
        args.x = x.View();
        args.out = got.View();
        backend_->ExpertLinear(args);
        args.weights = theirs;
        args.out = wanted.View();
        reference_->ExpertLinear(args);
        EXPECT_LE(NormalizedError(wanted.values, got.values), 1e-11)
            << Name(format) << " " << rows << " rows, " << width << " outputs";
      }
    }
  }
}

TEST_P(ExpertLinearTest, BitsOfARowDoNotDependOnTheBatch) {
  constexpr int32_t kRows = 530;  // more assignments than are computed together
  constexpr int32_t kStep =
      23;  // from one row that is computed alone to the next; 530 = 23 x 23 + 1
  for (WeightFormat format : Formats()) {
    for (int64_t width : kWidths) {
      const std::vector<PackedMatrix> weights = PackExperts(*backend_, format, width);
      const Assignments list = TwoPerRow(kRows, 4);
      Matrix x = RandomMatrix(kRows, 60, 5);
      Matrix together(kRows, width);
      ExpertLinearArgs args = ArgsFor(list, weights);
      args.x = x.View();
      args.out = together.View();
      backend_->ExpertLinear(args);
      for (int32_t row = 0; row < kRows; row += kStep) {
        Matrix alone(kRows, width);
        ExpertLinearArgs two = args;
        two.expert += 2 * row;
        two.x_row += 2 * row;
        two.out_row += 2 * row;
        two.scale += 2 * row;
        two.count = 2;
        two.out = alone.View();
        backend_->ExpertLinear(two);
        EXPECT_EQ(0, std::memcmp(&alone.At(row, 0), &together.At(row, 0),
                                 static_cast<size_t>(width) * sizeof(float)))
            << Name(format) << " row " << row << ", " << width << " outputs";
      }
    }
  }
}

// Which outputs and which assignments threads share depends on how many there are.
TEST_P(ExpertLinearTest, BitsDoNotDependOnThreads) {
  DeviceSpec spec = GetParam().spec;
  if (spec.device != "cpu") GTEST_SKIP() << "one thread only";
  for (WeightFormat format : Formats()) {
    for (int64_t width : {int64_t{82}, int64_t{530}, int64_t{1100}}) {
      for (int32_t rows : {1, 150, 530}) {
        const Assignments list = TwoPerRow(rows, 6);
        Matrix x = RandomMatrix(rows, 60, 7);
        std::vector<Matrix> results;
        for (int threads : {1, 2, 3, 5}) {
          spec.threads = threads;
          std::unique_ptr<Backend> backend = std::move(*CreateBackend(spec));
          const std::vector<PackedMatrix> weights = PackExperts(*backend, format, width);
          results.emplace_back(rows, width);
          ExpertLinearArgs args = ArgsFor(list, weights);
          args.x = x.View();
          args.out = results.back().View();
          backend->ExpertLinear(args);
          EXPECT_EQ(results[0].values, results.back().values)
              << Name(format) << " " << rows << " rows, " << width << " outputs, " << threads;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ExpertLinearTest, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
