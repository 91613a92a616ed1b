// A request's depth against the model card: what is honoured reaches every row of the request.
#include "engine/routing_params.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace sluice
