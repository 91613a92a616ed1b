// When a load sends what, and how its numbers are summed up.
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <set>

#include "engine/json_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/load/arrivals.h"
#include "server/load/latency_summary.h"
#include "server/load/load_report.h"
#include "server/load/prompt_source.h"
#include "server/load/server_address.h"

namespace sluice::server {
namespace {

using testing::DoubleNear;
using testing::HasSubstr;

TEST(ArrivalsTest, TheSameSeedGivesTheSameTimesAndAnotherSeedOthers) {
  EXPECT_EQ(PoissonArrivals(5.0, 100, 7), PoissonArrivals(5.0, 100, 7));
  EXPECT_NE(PoissonArrivals(5.0, 100, 7), PoissonArrivals(5.0, 100, 8));
}

// SplitMix64 is a published sequence, so times can be checked by hand on any machine: the first
// output of seed 0 is 0xe220a8397b1dcdaf.
TEST(ArrivalsTest, FirstArrivalIsTheLogarithmOfTheFirstNumber) {
  EXPECT_EQ(SplitMix64(0).Next(), 0xe220a8397b1dcdafu);
  const double unit = static_cast<double>((0xe220a8397b1dcdafu >> 11) + 1) * 0x1p-53;
  const auto arrivals = PoissonArrivals(4.0, 1, 0);
  EXPECT_THAT(absl::ToDoubleSeconds(arrivals[0]), DoubleNear(-std::log(unit) / 4.0, 1e-9));
}

// Gaps of a Poisson process are exponential: mean 1/rate, as large a deviation, a share 1/e above
// the mean. Bounds are five standard errors.
TEST(ArrivalsTest, GapsAreExponential) {
  constexpr int kCount = 20000;
  constexpr double kRate = 8.0;
  const auto arrivals = PoissonArrivals(kRate, kCount, 1);
  double sum = 0.0, squares = 0.0, previous = 0.0;
  int above_mean = 0;
  for (const absl::Duration arrival : arrivals) {
    const double gap = absl::ToDoubleSeconds(arrival) - previous;
    ASSERT_GE(gap, 0.0);
    previous += gap;
    sum += gap;
    squares += gap * gap;
    above_mean += gap > 1.0 / kRate ? 1 : 0;
  }
  const double mean = sum / kCount;
  const double error = 5.0 / std::sqrt(static_cast<double>(kCount));
  EXPECT_THAT(mean * kRate, DoubleNear(1.0, error));
  EXPECT_THAT(std::sqrt(squares / kCount - mean * mean) * kRate, DoubleNear(1.0, 2 * error));
  EXPECT_THAT(above_mean / static_cast<double>(kCount), DoubleNear(std::exp(-1.0), error));
}

TEST(LatencySummaryTest, QuantilesLieBetweenNeighbours) {
  EXPECT_EQ(Quantile({3.0}, 0.99), 3.0);
  EXPECT_EQ(Quantile({1.0, 2.0, 3.0, 4.0}, 0.5), 2.5);
  EXPECT_EQ(Quantile({1.0, 2.0, 3.0, 4.0}, 0.0), 1.0);
  EXPECT_EQ(Quantile({1.0, 2.0, 3.0, 4.0}, 1.0), 4.0);
  std::vector<double> values;
  for (int i = 100; i >= 0; --i) values.push_back(i);
  const LatencySummary summary = Summarize(values);
  EXPECT_EQ(summary.count, 101u);
  EXPECT_EQ(summary.p50, 50.0);
  EXPECT_EQ(summary.p90, 90.0);
  EXPECT_EQ(summary.p99, 99.0);
  EXPECT_EQ(summary.max, 100.0);
  EXPECT_EQ(summary.mean, 50.0);
  ASSERT_EQ(summary.half_percents.size(), 201u);
  EXPECT_EQ(summary.half_percents[0], 0.0);
  EXPECT_EQ(summary.half_percents[1], 0.5);
  EXPECT_EQ(summary.half_percents[200], 100.0);
  EXPECT_EQ(Summarize({}).count, 0u);
}

TEST(ServerAddressTest, TakesHostPortPrefixAndTheUsualV1) {
  const auto plain = ParseServerAddress("http://localhost:8080");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->Authority(), "localhost:8080");
  EXPECT_EQ(plain->base_path, "");
  EXPECT_EQ(ParseServerAddress("http://h/v1/")->base_path, "");
  EXPECT_EQ(ParseServerAddress("http://h/v1/")->port, "80");
  EXPECT_EQ(ParseServerAddress("http://h:1/api/v1")->base_path, "/api");
  EXPECT_EQ(ParseServerAddress("http://[::1]:9")->Authority(), "[::1]:9");
  EXPECT_EQ(ParseServerAddress("http://[::1]:9")->host, "::1");
}

TEST(ServerAddressTest, RefusesWhatItCannotReach) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"https://h", "https is not supported"},
      {"h:80", "such as http://"},
      {"http://", "no host"},
      {"http://:80", "no host"},
      {"http://h:", "from 1 to 65535"},
      {"http://h:0", "from 1 to 65535"},
      {"http://h:65536", "from 1 to 65535"},
      {"http://h:+80", "from 1 to 65535"},
      {"http://h:8x", "from 1 to 65535"},
      {"http://[::1", "[ without ]"},
      {"http://[::1]9", "from 1 to 65535"},
      {"http://u:p@h", "not allowed"},
      {"http://h/a b", "not allowed"},
      {"http://h/\r\nX: y", "not allowed"},
      {"http://h/?q", "not allowed"},
      {"ftp://h", "such as http://"}};
  for (const auto& [url, message] : cases) {
    EXPECT_THAT(std::string(ParseServerAddress(url).status().message()), HasSubstr(message)) << url;
  }
}

TEST(PromptSourceTest, IdsAreInRangeDifferByIndexAndSeedAndAreTheSameAgain) {
  const PromptSource source = PromptSource::TokenIds(16, 50, 3);
  EXPECT_EQ(source.Json(0), PromptSource::TokenIds(16, 50, 3).Json(0));
  EXPECT_NE(source.Json(0), PromptSource::TokenIds(16, 50, 4).Json(0));
  std::set<std::string> prompts;
  for (int i = 0; i < 200; ++i) {
    const auto ids = ParseJson(source.Json(i), JsonLimits{});
    ASSERT_TRUE(ids.ok() && ids->is_array());
    EXPECT_EQ(ids->size(), 16u);
    for (const auto& id : *ids) {
      ASSERT_TRUE(id.is_number_unsigned());
      EXPECT_LT(id.get<uint64_t>(), 50u);
    }
    prompts.insert(source.Json(i));
  }
  EXPECT_EQ(prompts.size(), 200u);
}

// A text that is removed with the object.
class TextFile {
 public:
  explicit TextFile(const std::string& text) {
    const int descriptor = mkstemp(path_.data());
    if (descriptor >= 0) close(descriptor);
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TextFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = testing::TempDir() + "sluice_text_XXXXXX";
};

// Of one to four bytes a character, so that many cuts fall inside one.
TEST(PromptSourceTest, PiecesOfTextAreUtf8AndFollowWhatTheServerCounted) {
  const TextFile file("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 xyz");
  auto source = PromptSource::Text(file.path(), 10, 0);
  ASSERT_TRUE(source.ok()) << source.status();
  for (int i = 0; i < 100; ++i) {
    const auto text = ParseJson(source->Json(i), JsonLimits{});
    ASSERT_TRUE(text.ok() && text->is_string()) << source->Json(i);
    EXPECT_GT(text->get_ref<const std::string&>().size(), 36u);
    EXPECT_LE(text->get_ref<const std::string&>().size(), 40u);
  }
  source->Calibrate(20);  // two bytes a token, not four
  const auto text = ParseJson(source->Json(0), JsonLimits{});
  EXPECT_GT(text->get_ref<const std::string&>().size(), 16u);
  EXPECT_LE(text->get_ref<const std::string&>().size(), 20u);
}

TEST(PromptSourceTest, RefusesFilesThatAreNoText) {
  EXPECT_THAT(std::string(PromptSource::Text("/nonexistent", 1, 0).status().message()),
              HasSubstr("cannot read /nonexistent"));
  EXPECT_THAT(std::string(PromptSource::Text(TextFile("").path(), 1, 0).status().message()),
              HasSubstr("--text: "));
  const TextFile latin("\xe9t\xe9");
  EXPECT_THAT(std::string(PromptSource::Text(latin.path(), 1, 0).status().message()),
              HasSubstr("is not UTF-8"));
}

RequestRecord Answered(double due_ms, double ttft_ms, std::vector<float> gaps_ms) {
  RequestRecord record{.end = RequestEnd::kAnswered};
  record.due = absl::Milliseconds(due_ms);
  record.sent = record.due + absl::Milliseconds(1);
  record.first_token = record.last_token = record.due + absl::Milliseconds(ttft_ms);
  for (const float gap : gaps_ms) record.last_token += absl::Milliseconds(gap);
  record.ended = record.last_token;
  record.chunks = static_cast<int64_t>(gaps_ms.size()) + 1;
  record.gaps_ms = std::move(gaps_ms);
  return record;
}

// One good, one with a late first token, one with a long gap, one failed, one interrupted.
TEST(LoadReportTest, GoodputCountsRequestsThatMeetBothObjectives) {
  LoadMeasurement measurement{.records = {Answered(0, 10, {5, 5}),
                                          Answered(0, 101, {5, 5}),
                                          Answered(0, 10, {5, 60}),
                                          {.end = RequestEnd::kHttpStatus, .message = "429: full"},
                                          {.end = RequestEnd::kInterrupted}},
                              .elapsed = absl::Seconds(2),
                              .generator_cpu = absl::Milliseconds(20)};
  const LoadPlan plan{.requests = 5, .concurrency = 5, .output_tokens = 3};
  const LatencyObjective objective{.ttft_ms = 100, .itl_ms = 50};
  const LoadReport report = MakeLoadReport(measurement, plan, objective);
  EXPECT_EQ(report.sent, 5);
  EXPECT_EQ(report.answered, 3);
  EXPECT_EQ(report.failed, 1);
  EXPECT_EQ(report.good, 1);
  EXPECT_EQ(report.PerSecond(report.good), 0.5);
  EXPECT_EQ(report.output_tokens, 9);
  EXPECT_EQ(report.short_answers, 0);
  EXPECT_EQ(report.ttft_ms.p50, 10.0);
  EXPECT_EQ(report.ttft_ms.max, 101.0);
  EXPECT_EQ(report.itl_ms.max, 60.0);
  EXPECT_EQ(report.per_token_ms.max, 32.5);
  EXPECT_EQ(report.end_to_end_ms.max, 111.0);
  EXPECT_EQ(report.lateness_ms.p50, 1.0);
  const nlohmann::json json = ToJson(report, plan, ServerTraits{.model = "m"}, objective);
  EXPECT_EQ(json["errors"]["http_status"]["count"], 1);
  EXPECT_EQ(json["errors"]["http_status"]["first_message"], "429: full");
  EXPECT_EQ(json["goodput_requests_per_second"], 0.5);
  EXPECT_EQ(json["generator_cpu_seconds"], 0.02);
  EXPECT_THAT(ToText(report, plan, ServerTraits{.model = "m"}, objective), HasSubstr("429: full"));
  const LatencyPlot plot = MakeLatencyPlot(report, plan, objective, "m");
  EXPECT_THAT(plot.notes[0], HasSubstr("5 clients: 5 sent, 3 answered, 1 failed in 2.00 s; 4.5"));
  EXPECT_THAT(plot.notes[1], HasSubstr("goodput 0.50 requests/s: 1 of 5 within 100 ms"));
  ASSERT_EQ(plot.curves.size(), 2u);
  EXPECT_EQ(plot.curves[0].quantiles_ms[100], 10.0);
  EXPECT_EQ(plot.curves[0].quantiles_ms.back(), 101.0);
  EXPECT_EQ(plot.curves[0].objective_ms, 100.0);
  EXPECT_EQ(plot.curves[1].quantiles_ms.back(), 60.0);
  EXPECT_EQ(plot.curves[1].objective_ms, 50.0);
}

TEST(LoadReportTest, OneGapInAHundredMayBeLate) {
  const auto good = [](size_t in_time, size_t late) {
    RequestRecord record = Answered(0, 10, {});
    record.gaps_ms.assign(in_time, 10.0f);
    record.gaps_ms.insert(record.gaps_ms.end(), late, 400.0f);
    const LoadPlan plan{.requests = 1, .concurrency = 1, .output_tokens = 3};
    return MakeLoadReport({.records = {record}, .elapsed = absl::Seconds(1)}, plan,
                          {.ttft_ms = 100, .itl_ms = 200})
        .good;
  };
  EXPECT_EQ(good(62, 1), 0);
  EXPECT_EQ(good(99, 1), 1);
  EXPECT_EQ(good(198, 2), 1);
  EXPECT_EQ(good(197, 3), 0);
}

TEST(LoadReportTest, TokensAreThoseTheServerCountsAndShortAnswersAreSaid) {
  RequestRecord record = Answered(0, 1, {10, 10});
  record.completion_tokens = 5;  // in three chunks
  const LoadPlan plan{.requests = 1, .concurrency = 1, .output_tokens = 8};
  const LoadReport report =
      MakeLoadReport({.records = {record}, .elapsed = absl::Seconds(1)}, plan, {});
  EXPECT_EQ(report.output_tokens, 5);
  EXPECT_EQ(report.short_answers, 1);
  EXPECT_EQ(report.per_token_ms.p50, 5.0);
  EXPECT_EQ(report.good, 0);
  EXPECT_THAT(ToText(report, plan, {}, {}), HasSubstr("1 answers ended before --output-tokens"));
  EXPECT_THAT(ToText(report, plan, {}, {}), HasSubstr("a chunk holds 1.67 tokens"));
}

// Nothing to divide by: no NaN reaches the table.
TEST(LoadReportTest, ALoadWithoutAnswersStillReports) {
  const LoadPlan plan{.requests = 1, .rate = 2.0, .output_tokens = 8};
  const LoadReport report =
      MakeLoadReport({.records = {{.end = RequestEnd::kConnect, .message = "refused"}}}, plan, {});
  const std::string text = ToText(report, plan, {}, {});
  EXPECT_THAT(text, HasSubstr("connect"));
  EXPECT_THAT(text, testing::Not(HasSubstr("nan")));
  EXPECT_TRUE(ToJson(report, plan, {}, {})["ttft_ms"].is_null());
  EXPECT_TRUE(MakeLatencyPlot(report, plan, {}, "m").curves[0].quantiles_ms.empty());
}

}  // namespace
}  // namespace sluice::server
