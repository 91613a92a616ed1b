// A request's depth against the model card: what is honoured reaches every row of the request.
#include "engine/routing_params.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/request_error.h"

namespace sluice {
namespace {

TEST(RoutingParamsTest, DepthReachesTheRows) {
  ModelCard card;
  card.max_depth = 8;
  RoutingParams params;
  EXPECT_EQ(ResolveRouting(params, card)->max_depth, 0) << "the model's own";
  for (const int32_t depth : {1, 5, 8}) {
    params.max_depth = depth;
    EXPECT_EQ(ResolveRouting(params, card)->max_depth, depth);
  }
}

TEST(RoutingParamsTest, DepthIsRefusedWhereItCannotBeHonoured) {
  ModelCard card;
  RoutingParams params;
  params.max_depth = 1;
  EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "unsupported_parameter");
  card.max_depth = 8;
  for (const int32_t depth : {-3, 0, 9}) {
    params.max_depth = depth;
    EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "integer_out_of_range") << depth;
  }
}

TEST(RoutingParamsTest, ExitThresholdReachesTheRowsOfModelsThatHaveOne) {
  ModelCard card;
  RoutingParams params;
  EXPECT_LT(ResolveRouting(params, card)->exit_threshold, 0.0f) << "the model's own";
  params.exit_threshold = 0.25;
  EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "unsupported_parameter");
  card.has_exit_threshold = true;
  for (const double threshold : {0.0, 0.25, 1.0}) {
    params.exit_threshold = threshold;
    EXPECT_EQ(ResolveRouting(params, card)->exit_threshold, static_cast<float>(threshold));
  }
  for (const double threshold : {-0.1, 1.5, std::nan("")}) {
    params.exit_threshold = threshold;
    EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "number_out_of_range");
  }
}

TEST(RoutingParamsTest, ExpertsReachTheRows) {
  ModelCard card;
  card.has_experts = true;
  card.experts_per_token = 2;
  RoutingParams params;
  params.experts_per_token = 1;
  params.expert_threshold = 0.25;
  EXPECT_EQ(ResolveRouting(params, card)->experts_per_token, 1);
  EXPECT_EQ(ResolveRouting(params, card)->expert_threshold, 0.25f);
  for (const double threshold : {-0.1, 1.1, std::nan("")}) {
    params.expert_threshold = threshold;
    EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "number_out_of_range");
  }
}

TEST(RoutingParamsTest, ExpertsThatChooseTokensHaveNoNumberPerToken) {
  ModelCard card;
  RoutingParams params;
  params.expert_threshold = 0.5;
  EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "unsupported_parameter");
  card.has_experts = true;
  EXPECT_TRUE(ResolveRouting(params, card).ok());
  params.experts_per_token = 1;
  EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "unsupported_parameter");
}

TEST(RoutingParamsTest, AMeanNeedsTheWholePromptAndItsThresholdDoesNot) {
  ModelCard card;
  card.routed_layers = {"1"};
  card.routing_modes = {"prompt_mean", "threshold"};
  RoutingParams params;
  EXPECT_FALSE(NeedsWholePrompt(params, card));
  card.default_needs_whole_prompt = true;
  EXPECT_TRUE(NeedsWholePrompt(params, card)) << "the model's own";
  params.mode = RoutingParams::Mode::kPromptMean;
  EXPECT_TRUE(NeedsWholePrompt(params, card));
  EXPECT_EQ(ResolveRouting(params, card)->decide, RowRouting::Decide::kModel);
  params.capacity = 0.5;
  EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "unsupported_parameter");
  params.capacity = 1.0;
  EXPECT_EQ(ResolveRouting(params, card)->capacity, 1.0f);
  params.mode = RoutingParams::Mode::kThreshold;
  EXPECT_FALSE(NeedsWholePrompt(params, card));
  EXPECT_EQ(ResolveRouting(params, card)->decide, RowRouting::Decide::kThreshold);
  card.routing_modes = {"threshold"};
  params.mode = RoutingParams::Mode::kPromptMean;
  EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "unsupported_parameter");
}

TEST(RoutingParamsTest, ACapacityNeedsTheWholePrompt) {
  ModelCard card;
  card.has_experts = true;
  card.routing_modes = {"no_drop", "capacity"};
  RoutingParams params;
  EXPECT_FALSE(NeedsWholePrompt(params, card));
  params.mode = RoutingParams::Mode::kNoDrop;
  EXPECT_FALSE(NeedsWholePrompt(params, card));
  EXPECT_EQ(ResolveRouting(params, card)->decide, RowRouting::Decide::kModel);
  params.mode = RoutingParams::Mode::kCapacity;
  EXPECT_TRUE(NeedsWholePrompt(params, card));
  EXPECT_EQ(ResolveRouting(params, card)->decide, RowRouting::Decide::kCapacity);
  card.routing_modes = {};
  EXPECT_EQ(ErrorCodeOf(ResolveRouting(params, card).status()), "unsupported_parameter");
}

}  // namespace
}  // namespace sluice
