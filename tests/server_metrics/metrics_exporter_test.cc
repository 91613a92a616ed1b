#include "server/metrics/metrics_exporter.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/metrics/metric_table.h"
#include "tests/support/fake_engine.h"

namespace sluice::server {
namespace {

using testing::HasSubstr;
using testing::Not;

Histogram Filled(std::vector<double> bounds) {
  Histogram histogram(std::move(bounds));
  histogram.Observe(0.5);
  histogram.Observe(1e9);
  return histogram;
}

ExpertLayerMetrics ExpertLayer(int layer, size_t experts) {
  ExpertLayerMetrics metrics;
  metrics.layer = std::to_string(layer);
  metrics.kind = "ffn";
  metrics.tokens.assign(experts, 7);
  metrics.max_over_mean = 1.5;
  metrics.dropped = 5;
  metrics.load_share = Filled({0.5, 1.0, 2.0});
  metrics.distinct_per_step = Filled({1, 2, 4});
  return metrics;
}

// A snapshot in which every field says something.
MetricsSnapshot FullSnapshot(int layers = 2, size_t experts = 4) {
  MetricsSnapshot snapshot;
  for (int layer = 0; layer < layers; ++layer) {
    snapshot.depth_layers.push_back({.layer = std::to_string(layer),
                                     .capacity = 0.125,
                                     .executed = 10,
                                     .skipped = 70,
                                     .skipped_ratio_window = 0.875});
    snapshot.expert_layers.push_back(ExpertLayer(layer, experts));
  }
  snapshot.skipped_ratio_window_all = 0.875;
  snapshot.token_depth = Filled({1, 2, 4});
  snapshot.flops_executed = 1e9;
  snapshot.flops_dense_equivalent = 4e9;
  snapshot.weight_bytes_read = 123;
  snapshot.kv_classes.push_back({"routed", 4096.0});
  snapshot.kv_pages_total = 10;
  snapshot.kv_pages_used = 4;
  snapshot.kv_pages_free = 6;
  snapshot.gpu = GpuMetrics{.total_bytes = 4096,
                            .weight_bytes = 2048,
                            .kv_cache_bytes = 1024,
                            .scratch_bytes = 256,
                            .others_bytes = 64,
                            .free_bytes = 512};
  snapshot.requests_running = 3;
  for (Histogram* histogram :
       {&snapshot.time_to_first_token_seconds, &snapshot.inter_token_latency_seconds,
        &snapshot.request_latency_seconds, &snapshot.queue_seconds, &snapshot.step_seconds}) {
    *histogram = Filled({0.1, 1.0, 10.0});
  }
  snapshot.prompt_tokens = 5;
  snapshot.preemptions["kv_full"] = 2;
  snapshot.cancellations["disconnect"] = 1;
  snapshot.invariant_violations["pages"] = 1;
  snapshot.steps = 9;
  snapshot.model = {.family = "mod", .layers = 2, .experts = 4};
  return snapshot;
}

size_t NumSeries(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  size_t count = 0;
  while (std::getline(lines, line)) count += !line.empty() && line[0] != '#';
  return count;
}

class MetricsExporterTest : public testing::Test {
 protected:
  std::string Render(const MetricsSnapshot& snapshot, MetricsOptions options = {}) {
    engine_.set_snapshot(snapshot);
    MetricsExporter exporter(std::move(options), counters_, [] { return uint64_t{3}; });
    exporter.SetEngine(&engine_, {{"linear", "AMX bf16"}, {"norm", "AVX-512"}});
    return exporter.Render();
  }

  RequestCounters counters_;
  FakeEngine engine_{{.manual = true}};
};

TEST_F(MetricsExporterTest, WorksWithoutAnEngine) {
  const MetricsExporter exporter({}, counters_);
  const std::string text = exporter.Render();
  EXPECT_THAT(text, HasSubstr("sluice_ready 0"));
  EXPECT_THAT(text, HasSubstr("sluice_build_info{version=\"0.1.0\""));
  EXPECT_THAT(text, Not(HasSubstr("sluice_flops_total")));
}

TEST_F(MetricsExporterTest, EveryMetricOfTheTableAppears) {
  const std::string text = Render(FullSnapshot(), {.vllm_names = true});
  for (const MetricRow& row : MetricTable()) {
    EXPECT_THAT(text, HasSubstr("# TYPE " + std::string(row.name) + " ")) << row.name;
  }
}

TEST_F(MetricsExporterTest, ValuesAndLabels) {
  counters_.Count(Api::kChat, absl::StatusCode::kOk);
  counters_.Count(Api::kChat, absl::StatusCode::kOk);
  counters_.Count(Api::kCompletions, absl::StatusCode::kInvalidArgument);
  counters_.CountUnknownField();
  const std::string text = Render(FullSnapshot());
  for (const char* line : {"sluice_token_layers_total{layer=\"1\",outcome=\"skipped\"} 70",
                           "sluice_skipped_token_ratio{layer=\"all\"} 0.875",
                           "sluice_router_capacity{layer=\"0\"} 0.125",
                           "sluice_expert_load_max_over_mean{layer=\"0\",kind=\"ffn\"} 1.5",
                           "sluice_expert_tokens_total{layer=\"1\",kind=\"ffn\",expert=\"3\"} 7",
                           "sluice_experts_dropped_total{layer=\"1\"} 5",
                           "sluice_flops_total{kind=\"dense_equivalent\"} 4",
                           "sluice_kv_pages{state=\"used\"} 4",
                           "sluice_kv_bytes_saved{class=\"routed\"} 4096",
                           "sluice_gpu_up 1",
                           "sluice_gpu_memory_bytes{kind=\"weights\"} 2048",
                           "sluice_gpu_memory_bytes{kind=\"kv_cache\"} 1024",
                           "sluice_gpu_memory_bytes{kind=\"scratch\"} 256",
                           "sluice_gpu_memory_bytes{kind=\"others\"} 64",
                           "sluice_gpu_memory_bytes{kind=\"free\"} 512",
                           "sluice_gpu_memory_total_bytes 4096",
                           "sluice_requests_total{api=\"chat\",code=\"OK\"} 2",
                           "sluice_requests_total{api=\"completions\",code=\"INVALID_ARGUMENT\"} 1",
                           "sluice_requests_total{api=\"grpc_generate\",code=\"OK\"} 0",
                           "sluice_time_to_first_token_seconds_bucket{le=\"+Inf\"} 2",
                           "sluice_token_depth_count 2",
                           "sluice_cancellations_total{reason=\"disconnect\"} 1",
                           "sluice_unknown_request_fields_total 1",
                           "sluice_log_lines_dropped_total 3",
                           "sluice_metrics_series_dropped 0",
                           "kernels=\"linear=AMX bf16 norm=AVX-512\"",
                           "sluice_model_info{model=\"fake-model\",family=\"mod\"",
                           "sluice_ready 1"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("vllm:")));
  EXPECT_THAT(text, Not(HasSubstr("code=\"CANCELLED\"")));
}

// A capacity of 0 would be a router that skips everything: the alert would never clear.
TEST_F(MetricsExporterTest, AShareThatIsNotKnownIsNoSeries) {
  MetricsSnapshot snapshot = FullSnapshot();
  snapshot.depth_layers[1].capacity.reset();
  const std::string text = Render(snapshot);
  EXPECT_THAT(text, HasSubstr("sluice_router_capacity{layer=\"0\"} 0.125"));
  EXPECT_THAT(text, Not(HasSubstr("sluice_router_capacity{layer=\"1\"}")));
  EXPECT_THAT(text, HasSubstr("sluice_skipped_token_ratio{layer=\"1\"} 0.875"));
}

TEST_F(MetricsExporterTest, GpuSeriesAreThereWithAGpuOnly) {
  MetricsSnapshot snapshot = FullSnapshot();
  snapshot.gpu->up = false;
  EXPECT_THAT(Render(snapshot), HasSubstr("sluice_gpu_up 0"));
  snapshot.gpu.reset();
  EXPECT_THAT(Render(snapshot), Not(HasSubstr("sluice_gpu_")));
}

TEST_F(MetricsExporterTest, UsualReasonsAreThereFromTheFirstScrape) {
  const std::string text = Render(MetricsSnapshot());
  EXPECT_THAT(text, HasSubstr("sluice_preemptions_total{reason=\"pages\"} 0"));
  EXPECT_THAT(text, HasSubstr("sluice_cancellations_total{reason=\"slow_consumer\"} 0"));
  EXPECT_THAT(text, HasSubstr("sluice_invariant_violations_total{reason=\"integrity\"} 0"));
}

TEST_F(MetricsExporterTest, VllmNamesAreThereWhenAsked) {
  const std::string text = Render(FullSnapshot(), {.vllm_names = true});
  EXPECT_THAT(text, HasSubstr("vllm:num_requests_running{model_name=\"fake-model\"} 3"));
  EXPECT_THAT(text, HasSubstr("vllm:kv_cache_usage_perc{model_name=\"fake-model\"} 0.4"));
}

TEST_F(MetricsExporterTest, ExpertsHaveTheirOwnSeriesUpTo1024) {
  EXPECT_THAT(Render(FullSnapshot(8, 128)), HasSubstr("sluice_expert_tokens_total{"));
  EXPECT_THAT(Render(FullSnapshot(8, 129)), Not(HasSubstr("sluice_expert_tokens_total{")));
  EXPECT_THAT(Render(FullSnapshot(8, 129), {.expert_series = ExpertSeries::kFull}),
              HasSubstr("expert=\"128\""));
  EXPECT_THAT(Render(FullSnapshot(), {.expert_series = ExpertSeries::kOff}),
              Not(HasSubstr("sluice_expert_tokens_total")));
}

class SeriesBudgetTest : public MetricsExporterTest, public testing::WithParamInterface<int> {};

TEST_P(SeriesBudgetTest, IsKeptForAnyDepthAndAnyTraffic) {
  for (size_t api = 0; api < kNumApis; ++api) {
    for (size_t code = 0; code < kNumStatusCodes; ++code) {
      counters_.Count(static_cast<Api>(api), static_cast<absl::StatusCode>(code));
    }
  }
  MetricsSnapshot snapshot = FullSnapshot(GetParam(), 8);
  for (int i = 0; i < 500; ++i) snapshot.cancellations["reason" + std::to_string(i)] = 1;
  const std::string text = Render(snapshot, {.vllm_names = true});
  EXPECT_LE(NumSeries(text), 2000u);
  // What is left first is what matters most.
  EXPECT_THAT(text, HasSubstr("sluice_flops_total"));
  EXPECT_THAT(text, HasSubstr("sluice_token_layers_total"));
  EXPECT_THAT(text, HasSubstr("reason=\"_other\""));
}

INSTANTIATE_TEST_SUITE_P(Layers, SeriesBudgetTest, testing::Values(1, 16, 64, 128, 1000));

TEST_F(MetricsExporterTest, TheTableHoldsEveryNameThatBoardsAndAlertsUse) {
  const char* root = std::getenv("SLUICE_SOURCE_DIR");
  std::ifstream file(std::string(root == nullptr ? "." : root) + "/tests/deploy/metric_names.txt");
  if (!file) GTEST_SKIP() << "tests/deploy/metric_names.txt is not there";
  std::set<std::string> names;
  for (const MetricRow& row : MetricTable()) names.insert(std::string(row.name));
  std::string name;
  size_t count = 0;
  while (std::getline(file, name)) {
    if (name.empty() || name[0] == '#') continue;
    ++count;
    EXPECT_TRUE(names.contains(name)) << name;
  }
  EXPECT_GT(count, 30u);
}

TEST_F(MetricsExporterTest, PromtoolAcceptsTheText) {
  if (std::system("promtool --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no promtool";
  const std::string path = testing::TempDir() + "sluice_metrics_" + std::to_string(getpid());
  // The vllm names break promtool's naming advice on purpose, so they are left out here.
  std::ofstream(path) << Render(FullSnapshot());
  const std::string command = "promtool check metrics < " + path + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  char buffer[256];
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) output += buffer;
  EXPECT_EQ(pclose(pipe), 0) << output;
  unlink(path.c_str());
}

}  // namespace
}  // namespace sluice::server
