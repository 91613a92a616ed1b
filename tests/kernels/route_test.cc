// Route and SelectAbove: hand-computed, ties, NaN, against the reference.
#include <limits>

#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

class RouteTest : public BackendTest {};

TEST_P(RouteTest, SoftmaxTopTwoByHand) {
  Matrix logits(1, 3);
  logits.values = {std::log(2.0f), std::log(5.0f), std::log(3.0f)};
  int32_t experts[2];
  float weights[2];
  RouteArgs args{
      .top_k = 2, .logits = logits.View(), .rows = 1, .experts = experts, .weights = weights};
  backend_->Route(args);
  EXPECT_EQ(experts[0], 1);
  EXPECT_EQ(experts[1], 2);
  EXPECT_NEAR(weights[0], 0.5f, 1e-6f);
  EXPECT_NEAR(weights[1], 0.3f, 1e-6f);
  args.renormalize = true;
  args.scale = 2.0f;
  backend_->Route(args);
  EXPECT_NEAR(weights[0], 1.25f, 1e-6f);
  EXPECT_NEAR(weights[1], 0.75f, 1e-6f);
}

TEST_P(RouteTest, TiesGoToTheLowerIndex) {
  Matrix logits(1, 20);
  for (float& value : logits.values) value = 0.5f;
  logits.At(0, 7) = 1.0f;
  int32_t experts[4];
  float weights[4];
  for (ScoreFunction score :
       {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid, ScoreFunction::kSoftmaxOverTopK}) {
    backend_->Route({.score = score,
                     .top_k = 4,
                     .logits = logits.View(),
                     .rows = 1,
                     .experts = experts,
                     .weights = weights});
    EXPECT_EQ(std::vector<int32_t>(experts, experts + 4), (std::vector<int32_t>{7, 0, 1, 2}));
  }
}

TEST_P(RouteTest, SelectionBiasChangesTheChoiceNotTheWeight) {
  Matrix logits(1, 4);
  logits.values = {0.0f, 1.0f, 2.0f, 3.0f};
  const Floats bias = {5.0f, 0.0f, 0.0f, 0.0f};
  int32_t experts[2];
  float weights[2];
  backend_->Route({.score = ScoreFunction::kSigmoid,
                   .top_k = 2,
                   .selection_bias = bias.data(),
                   .logits = logits.View(),
                   .rows = 1,
                   .experts = experts,
                   .weights = weights});
  EXPECT_EQ(experts[0], 0);
  EXPECT_EQ(experts[1], 3);
  EXPECT_NEAR(weights[0], 0.5f, 1e-6f);
  EXPECT_NEAR(weights[1], 0.9525741f, 1e-6f);
}

TEST_P(RouteTest, OnlyTheBestGroupsAreOffered) {
  Matrix logits(1, 6);
  logits.values = {3.0f, -4.0f, 2.0f, 1.5f, 2.5f, -3.0f};
  int32_t experts[2];
  float weights[2];
  RouteArgs args{.score = ScoreFunction::kSoftmaxOverTopK,
                 .top_k = 2,
                 .logits = logits.View(),
                 .rows = 1,
                 .experts = experts,
                 .weights = weights,
                 .num_groups = 3,
                 .top_groups = 1};
  backend_->Route(args);
  EXPECT_EQ(std::vector<int32_t>(experts, experts + 2), (std::vector<int32_t>{0, 1}));
  args.group_score = GroupScore::kTopTwoSum;
  backend_->Route(args);
  EXPECT_EQ(std::vector<int32_t>(experts, experts + 2), (std::vector<int32_t>{2, 3}));
  logits.values = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};  // a tie goes to the lower groups
  args.top_groups = 2;
  backend_->Route(args);
  EXPECT_EQ(std::vector<int32_t>(experts, experts + 2), (std::vector<int32_t>{0, 1}));
}

TEST_P(RouteTest, GroupsMatchReference) {
  constexpr int32_t kRows = 37;
  constexpr int32_t kTopK = 5;
  Matrix logits = RandomMatrix(kRows, 24, 4, 2.0f);
  Matrix bias = RandomMatrix(1, 24, 5, 0.3f);
  for (const int32_t groups : {2, 4, 8}) {
    for (GroupScore score : {GroupScore::kMax, GroupScore::kTopTwoSum}) {
      Matrix got(kRows, kTopK);
      Matrix wanted(kRows, kTopK);
      std::vector<int32_t> got_ids(kRows * kTopK);
      std::vector<int32_t> wanted_ids(got_ids);
      RouteArgs args{.score = ScoreFunction::kSigmoid,
                     .top_k = kTopK,
                     .renormalize = true,
                     .selection_bias = bias.values.data(),
                     .logits = logits.View(),
                     .rows = kRows,
                     .experts = got_ids.data(),
                     .weights = got.values.data(),
                     .num_groups = groups,
                     .top_groups = groups / 2,
                     .group_score = score};
      backend_->Route(args);
      args.experts = wanted_ids.data();
      args.weights = wanted.values.data();
      reference_->Route(args);
      EXPECT_EQ(got_ids, wanted_ids) << groups;
      EXPECT_LE(NormalizedError(wanted.values, got.values), 1e-12) << groups;
    }
  }
}

TEST_P(RouteTest, NotANumberRanksLast) {
  Matrix logits(1, 5);
  logits.values = {NAN, 1.0f, NAN, 3.0f, 2.0f};
  int32_t experts[5];
  float weights[5];
  backend_->Route({.score = ScoreFunction::kSigmoid,
                   .top_k = 5,
                   .logits = logits.View(),
                   .rows = 1,
                   .experts = experts,
                   .weights = weights});
  EXPECT_EQ(std::vector<int32_t>(experts, experts + 5), (std::vector<int32_t>{3, 4, 1, 0, 2}));
}

TEST_P(RouteTest, MatchesReference) {
  for (int64_t experts : {1, 2, 15, 16, 17, 64, 129}) {
    for (ScoreFunction score :
         {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid, ScoreFunction::kSoftmaxOverTopK}) {
      constexpr int32_t kRows = 37;
      const auto top_k = static_cast<int32_t>(std::min<int64_t>(experts, 6));
      Matrix logits = RandomMatrix(kRows, experts, 3, 2.0f);
      Matrix got(kRows, top_k);
      Matrix wanted(kRows, top_k);
      std::vector<int32_t> got_ids(static_cast<size_t>(kRows * top_k));
      std::vector<int32_t> wanted_ids(got_ids);
      RouteArgs args{.score = score,
                     .top_k = top_k,
                     .renormalize = true,
                     .renormalize_epsilon = 1e-9f,
                     .scale = 1.5f,
                     .logits = logits.View(),
                     .rows = kRows};
      args.experts = got_ids.data();
      args.weights = got.values.data();
      backend_->Route(args);
      args.experts = wanted_ids.data();
      args.weights = wanted.values.data();
      reference_->Route(args);
      EXPECT_EQ(got_ids, wanted_ids);
      EXPECT_LE(NormalizedError(wanted.values, got.values), 1e-12) << experts;
    }
  }
}

TEST_P(RouteTest, SelectAboveTakesInfiniteThresholdsLiterally) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float scores[] = {1.0f, NAN, NAN, infinity, 0.5f, -1.0f, 0.5f};
  const float thresholds[] = {0.5f, 0.0f, -infinity, infinity, 0.5f, -infinity, 0.4f};
  int32_t selected[7];
  int32_t count = -1;
  backend_->SelectAbove({scores, thresholds, 7, selected, &count});
  ASSERT_EQ(count, 4);
  EXPECT_EQ(std::vector<int32_t>(selected, selected + 4), (std::vector<int32_t>{0, 2, 5, 6}));
}

INSTANTIATE_TEST_SUITE_P(Backends, RouteTest, testing::ValuesIn(AllBackends()), ParamName);

}  // namespace
}  // namespace sluice::kernels
