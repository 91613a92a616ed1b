// Rows that do not reach a repeat: one series per repeat, whatever the number of its layers.
#include "engine/metrics_collector.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(MetricsCollectorTest, ARepeatThatRowsMayNotReachIsOneSeries) {
  std::vector<LayerInstance> instances = {{.label = "0"}};
  for (const char* label : {"pass.0.0", "pass.0.1", "pass.1.0", "pass.1.1"})
    instances.push_back({.label = label, .may_stop = true});
  instances.push_back({.label = "tail.0.0", .routed = true, .capacity = 0.5});
  instances.push_back({.label = "tail.0.1", .routed = true, .capacity = 0.5});
  const SteadyClock clock;
  MetricsCollector collector(clock, instances, {});
  ForwardStats stats;
  stats.Reserve(8, 7, 8);
  stats.Reset(4);
  const int32_t first_two[] = {0, 1};
  const kernels::RowSet all = kernels::AllRows(4);
  const kernels::RowSet two{first_two, 2, nullptr};
  for (const int32_t instance : {1, 2}) stats.CountRouted(instance, all, all);
  for (const int32_t instance : {3, 4}) stats.CountRouted(instance, all, two);
  stats.CountRouted(5, all, two);
  collector.AddStep({.stats = &stats, .depths = stats.depth(), .dense_flops = 1.0});
  const MetricsSnapshot snapshot = collector.Snapshot();
  ASSERT_EQ(snapshot.depth_layers.size(), 4u);
  struct Series {
    const char* layer;
    uint64_t executed, skipped;
  };
  const Series expected[] = {
      {"pass.0", 8, 0}, {"pass.1", 4, 4}, {"tail.0.0", 2, 2}, {"tail.0.1", 0, 0}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(snapshot.depth_layers[i].layer, expected[i].layer);
    EXPECT_EQ(snapshot.depth_layers[i].executed, expected[i].executed) << i;
    EXPECT_EQ(snapshot.depth_layers[i].skipped, expected[i].skipped) << i;
  }
  EXPECT_DOUBLE_EQ(snapshot.depth_layers[1].skipped_ratio_window, 0.5);
}

// Four experts, of which the last gets nothing: chance at first, dead after eight choices for each.
TEST(MetricsCollectorTest, AnExpertIsDeadOnceChanceIsRuledOut) {
  const SteadyClock clock;
  MetricsCollector collector(clock, {{.label = "0"}}, {});
  ForwardStats stats;
  stats.Reserve(8, 1, 8);
  const int32_t experts[] = {0, 1, 2, 0, 1, 2, 0, 1};
  for (int step = 1; step <= 4; ++step) {
    stats.Reset(8);
    stats.RecordExperts({.num_experts = 4, .top_k = 1, .count = 8}, kernels::AllRows(8), experts);
    collector.AddStep({.stats = &stats, .depths = stats.depth(), .dense_flops = 1.0});
    const MetricsSnapshot snapshot = collector.Snapshot();
    ASSERT_EQ(snapshot.expert_layers.size(), 1u);
    EXPECT_EQ(snapshot.expert_layers[0].dead_experts, step < 4 ? 0 : 1) << step;
    EXPECT_EQ(snapshot.expert_layers[0].window_tokens[3], 0u);
  }
}

}  // namespace
}  // namespace sluice
