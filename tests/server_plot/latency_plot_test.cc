// What the plot of `sluice bench serve` shows, read back from the picture.
#include "server/plot/latency_plot.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server_plot/xml_elements.h"

namespace sluice::server {
namespace {

using testing::DoubleNear;
using testing::HasSubstr;
using testing::IsEmpty;

LatencyPlot PlotOf(std::vector<double> quantiles_ms, double objective_ms = 0.0) {
  return {.title = "model <at> a server",
          .notes = {"2 clients"},
          .curves = {{"Time to first token", "requests", std::move(quantiles_ms), objective_ms}}};
}

std::vector<XmlElement> Of(const LatencyPlot& plot, const std::string& class_name) {
  const auto parsed = ParseXml(ToSvg(plot));
  EXPECT_TRUE(parsed);
  std::vector<XmlElement> found;
  for (const XmlElement& element : parsed.value_or(std::vector<XmlElement>())) {
    if (element.HasClass(class_name)) found.push_back(element);
  }
  return found;
}

std::vector<std::pair<double, double>> CurveOf(const LatencyPlot& plot) {
  std::vector<std::pair<double, double>> points;
  const auto curves = Of(plot, "curve");
  if (curves.size() != 1) return points;
  for (const absl::string_view point :
       absl::StrSplit(curves[0].attributes.at("points"), ' ', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(point, ',');
    points.emplace_back();
    EXPECT_TRUE(absl::SimpleAtod(parts.first, &points.back().first));
    EXPECT_TRUE(absl::SimpleAtod(parts.second, &points.back().second));
  }
  return points;
}

TEST(LatencyPlotTest, SharesRiseEvenlyAndTimesAreLogarithms) {
  const auto points = CurveOf(PlotOf({10, 20, 40, 80, 160}));
  ASSERT_EQ(points.size(), 5u);
  for (size_t i = 1; i < points.size(); ++i) {
    // A doubling is as far as the one before.
    EXPECT_THAT(points[i].first - points[i - 1].first,
                DoubleNear(points[1].first - points[0].first, 0.03));
    EXPECT_THAT(points[i].second - points[i - 1].second,
                DoubleNear(points[1].second - points[0].second, 0.03));
  }
  EXPECT_GT(points[1].first, points[0].first);
  EXPECT_LT(points[1].second, points[0].second);
}

TEST(LatencyPlotTest, PercentilesLieOnTheCurve) {
  std::vector<double> quantiles;
  for (int i = 0; i <= 100; ++i) quantiles.push_back(5.0 + i);
  const LatencyPlot plot = PlotOf(quantiles);
  const auto points = CurveOf(plot);
  const auto marks = Of(plot, "mark");
  ASSERT_EQ(marks.size(), 3u);
  for (const auto& [mark, percent] : {std::pair(0, 50), std::pair(1, 90), std::pair(2, 99)}) {
    EXPECT_THAT(marks[mark].Number("cx"), DoubleNear(points[percent].first, 0.02));
    EXPECT_THAT(marks[mark].Number("cy"), DoubleNear(points[percent].second, 0.02));
  }
  EXPECT_THAT(ToSvg(plot), HasSubstr("p50 55.0 ms, p90 95.0 ms, p99 104 ms"));
}

TEST(LatencyPlotTest, TheObjectiveIsALineUnlessItIsFarAway) {
  const std::vector<double> quantiles = {10, 20, 40};
  const auto lines = Of(PlotOf(quantiles, 20.0), "objective");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0].Number("x1"), DoubleNear(CurveOf(PlotOf(quantiles, 20.0))[1].first, 0.02));
  EXPECT_EQ(Of(PlotOf(quantiles, 200.0), "objective").size(), 1u);
  EXPECT_THAT(Of(PlotOf(quantiles, 1e6), "objective"), IsEmpty());
  EXPECT_THAT(Of(PlotOf(quantiles, 0.0), "objective"), IsEmpty());
}

TEST(LatencyPlotTest, NothingOneValueAndNoTimeAtAll) {
  EXPECT_THAT(Of(PlotOf({}), "curve"), IsEmpty());
  EXPECT_THAT(ToSvg(PlotOf({})), HasSubstr("nothing measured"));
  for (const double ms : {0.0, 1e-9, 5.0, 1e9}) {
    const auto points = CurveOf(PlotOf({ms, ms, ms}));
    ASSERT_EQ(points.size(), 3u) << ms;
    EXPECT_EQ(points[0].first, points[2].first) << ms;
    EXPECT_GT(points[0].second, points[2].second) << ms;
  }
}

}  // namespace
}  // namespace sluice::server
