#include "server/http/routing_view.h"

#include "gtest/gtest.h"

namespace sluice::server {
namespace {

MetricsSnapshot Experts(std::vector<uint64_t> tokens) {
  MetricsSnapshot snapshot;
  ExpertLayerMetrics layer;
  layer.layer = "2";
  layer.kind = "ffn";
  layer.tokens = std::move(tokens);
  snapshot.expert_layers.push_back(std::move(layer));
  return snapshot;
}

TEST(RoutingViewTest, WindowsThatAreNotFullStayHidden) {
  RoutingView view;
  EXPECT_TRUE(view.Update(Experts({100, 200, 0}))["expert_layers"].empty());
  const nlohmann::json shown = view.Update(Experts({1000, 500, 0}));
  ASSERT_EQ(shown["expert_layers"].size(), 1u);
  EXPECT_EQ(shown["expert_layers"][0]["expert_tokens"], nlohmann::json::parse("[1000, 500, 0]"));
  EXPECT_EQ(shown["expert_layers"][0]["dead_experts"], 1);
  EXPECT_EQ(shown["expert_layers"][0]["max_over_mean"], 2.0);
}

TEST(RoutingViewTest, OneRequestBetweenTwoLooksIsInvisible) {
  RoutingView view;
  const std::string before = view.Update(Experts({2000, 2000})).dump();
  EXPECT_EQ(view.Update(Experts({2007, 2000})).dump(), before);
  EXPECT_NE(view.Update(Experts({4007, 4000})).dump(), before);
}

TEST(RoutingViewTest, AFairShareIsOne) {
  RoutingView view;
  const nlohmann::json row = view.Update(Experts({1500, 1500}))["expert_layers"][0];
  EXPECT_EQ(row["max_over_mean"], 1.0);
  EXPECT_EQ(row["cv"], 0.0);
  EXPECT_NEAR(row["normalized_entropy"].get<double>(), 1.0, 1e-12);
  EXPECT_EQ(row["jain_index"], 1.0);
}

TEST(RoutingViewTest, AShareThatIsNotKnownIsNull) {
  RoutingView view;
  MetricsSnapshot snapshot;
  snapshot.depth_layers = {{.layer = "1", .capacity = 0.25, .executed = 500, .skipped = 1500},
                           {.layer = "2", .executed = 500, .skipped = 1500}};
  const nlohmann::json rows = view.Update(snapshot)["depth_layers"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["trained_capacity"], 0.25);
  EXPECT_TRUE(rows[1]["trained_capacity"].is_null());
}

}  // namespace
}  // namespace sluice::server
