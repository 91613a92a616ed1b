// What the plot of `sluice bench` shows, read back from the picture.
#include "server/plot/speed_plot.h"

#include <cmath>
#include <limits>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/plot/svg_document.h"
#include "tests/server_plot/xml_elements.h"

namespace sluice::server {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::DoubleNear;
using testing::Ge;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Le;
using testing::Not;

// `speeds[g]`: of the contenders at group g.
SpeedPlot PlotOf(const std::vector<std::vector<double>>& speeds, IdealRatio ideal = {}) {
  SpeedPlot plot{.title = "model against others", .notes = {"machine"}};
  SpeedPanel panel{.heading = "Decode"};
  for (size_t g = 0; g < speeds.size(); ++g) {
    SpeedGroup group{.label = "batch " + std::to_string(g)};
    for (const double speed : speeds[g]) group.speeds.push_back({.median = speed});
    if (!speeds[g].empty()) group.ideals.assign(speeds[g].size() - 1, ideal);
    panel.groups.push_back(group);
    plot.contenders.resize(speeds[g].size(), "contender");
  }
  plot.panels.push_back(panel);
  return plot;
}

class Picture {
 public:
  explicit Picture(const SpeedPlot& plot) : svg(ToSvg(plot)) {
    const auto parsed = ParseXml(svg);
    EXPECT_TRUE(parsed) << svg;
    if (parsed) elements = *parsed;
  }
  std::vector<XmlElement> Of(const std::string& class_name) const {
    std::vector<XmlElement> found;
    for (const XmlElement& element : elements) {
      if (element.HasClass(class_name)) found.push_back(element);
    }
    return found;
  }
  std::vector<std::string> Texts() const {
    std::vector<std::string> found;
    for (const XmlElement& element : elements) {
      if (element.name == "text") found.push_back(element.text);
    }
    return found;
  }
  double Bottom() const { return Of("axis").front().Number("y1"); }

  std::string svg;
  std::vector<XmlElement> elements;
};

TEST(SpeedPlotTest, BarsAreAsHighAsTheirSpeeds) {
  const std::vector<std::vector<double>> speeds = {{1000, 500}, {2500, 10}, {3.5, 4000}};
  const Picture picture(PlotOf(speeds));
  const auto bars = picture.Of("bar");
  ASSERT_EQ(bars.size(), 6u);
  const double scale = bars[0].Number("height") / 1000;
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_THAT(bars[i].Number("height"), DoubleNear(speeds[i / 2][i % 2] * scale, 0.02)) << i;
    EXPECT_THAT(bars[i].Number("y") + bars[i].Number("height"), DoubleNear(picture.Bottom(), 0.02));
    EXPECT_TRUE(bars[i].HasClass("s" + std::to_string(i % 2)));
  }
}

TEST(SpeedPlotTest, TheAxisHasTheScaleOfTheBars) {
  const Picture picture(PlotOf({{1000}}));
  std::optional<double> label_y;
  for (const XmlElement& element : picture.elements) {
    if (element.name == "text" && element.text == "1000") label_y = element.Number("y");
  }
  ASSERT_TRUE(label_y);
  EXPECT_THAT(*label_y - 4, DoubleNear(picture.Of("bar")[0].Number("y"), 0.02));
  EXPECT_THAT(picture.Texts(), Contains("tokens/s"));
}

TEST(SpeedPlotTest, RatiosAndIdealsStandOverTheGroup) {
  const Picture both(PlotOf({{1500, 1000}}, {.by_flops = 2.0, .by_weight_bytes = 1.25}));
  EXPECT_THAT(both.Texts(), Contains("1.50\u00D7 (1.25\u20132.00)"));
  const Picture one(PlotOf({{1500, 1000}}, {.by_flops = 2.0}));
  EXPECT_THAT(one.Texts(), Contains("1.50\u00D7 (2.00)"));
  const Picture same(PlotOf({{1500, 1000}}, {.by_flops = 2.0, .by_weight_bytes = 2.001}));
  EXPECT_THAT(same.Texts(), Contains("1.50\u00D7 (2.00)"));
  const Picture unknown(PlotOf({{1500, 1000}}, {.by_flops = std::nan("")}));
  EXPECT_THAT(unknown.Texts(), Contains("1.50\u00D7"));
}

TEST(SpeedPlotTest, IdealsAreMarkedAtTheSpeedThatTheyMean) {
  const Picture picture(PlotOf({{1500, 1000}}, {.by_flops = 2.0, .by_weight_bytes = 1.25}));
  const auto marks = picture.Of("ideal");
  ASSERT_EQ(marks.size(), 2u);
  const auto bars = picture.Of("bar");
  const double scale = bars[1].Number("height") / 1000;
  EXPECT_THAT(picture.Bottom() - marks[0].Number("y1"), DoubleNear(2000 * scale, 0.05));
  EXPECT_THAT(picture.Bottom() - marks[1].Number("y1"), DoubleNear(1250 * scale, 0.05));
  EXPECT_FALSE(marks[0].HasClass("dotted"));
  EXPECT_TRUE(marks[1].HasClass("dotted"));
  for (const XmlElement& mark : marks) {
    EXPECT_TRUE(mark.HasClass("p1"));  // the colour of what it is computed from
    EXPECT_LT(mark.Number("x2"), bars[0].Number("x"));
  }
}

TEST(SpeedPlotTest, WhiskersAreTheQuartilesAndOnlyThose) {
  SpeedPlot plot = PlotOf({{1000, 500}});
  EXPECT_THAT(Picture(plot).Of("whisker"), IsEmpty());
  plot.panels[0].groups[0].speeds[0] = {1000, 900, 1200};
  const Picture picture(plot);
  const auto whiskers = picture.Of("whisker");
  ASSERT_EQ(whiskers.size(), 3u);
  const double scale = picture.Of("bar")[0].Number("height") / 1000;
  EXPECT_THAT(picture.Bottom() - whiskers[0].Number("y1"), DoubleNear(900 * scale, 0.05));
  EXPECT_THAT(picture.Bottom() - whiskers[0].Number("y2"), DoubleNear(1200 * scale, 0.05));
  EXPECT_THAT(picture.svg, HasSubstr("Whiskers: quartiles"));
}

TEST(SpeedPlotTest, WithoutABaselineNothingIsCompared) {
  const Picture picture(PlotOf({{1000}, {2000}}));
  EXPECT_EQ(picture.Of("bar").size(), 2u);
  EXPECT_THAT(picture.Of("ideal"), IsEmpty());
  EXPECT_THAT(picture.svg, Not(HasSubstr("\u00D7")));
}

TEST(SpeedPlotTest, WhatIsNoSpeedIsNotDrawn) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {0.0, -1.0, nan, infinity}) {
    const Picture picture(
        PlotOf({{bad, 1000}, {1000, bad}, {bad, bad}}, {.by_flops = bad, .by_weight_bytes = bad}));
    EXPECT_EQ(picture.Of("bar").size(), 2u) << bad;
    EXPECT_THAT(picture.Of("ideal"), IsEmpty()) << bad;
    EXPECT_THAT(picture.svg, Not(testing::AnyOf(HasSubstr("nan"), HasSubstr("inf")))) << bad;
  }
  EXPECT_THAT(Picture(PlotOf({})).Of("bar"), IsEmpty());
  EXPECT_THAT(Picture(SpeedPlot{}).Of("bar"), IsEmpty());
}

// Of a text, as wide as TextWidth says.
struct Extent {
  double left = 0.0, right = 0.0, y = 0.0;
};

Extent ExtentOf(const XmlElement& text) {
  const double width = TextWidth(text.text);
  const std::string anchor = text.attributes.at("text-anchor");
  const double left = text.Number("x") - (anchor == "middle" ? width / 2
                                          : anchor == "end"  ? width
                                                             : 0.0);
  return {left, left + width, text.Number("y")};
}

bool Meet(const Extent& a, const Extent& b) {
  return a.left < b.right && b.left < a.right && std::abs(a.y - b.y) < 11;
}

void ExpectApartAndOnThePage(const std::vector<XmlElement>& labels, const XmlElement& page) {
  for (size_t i = 0; i < labels.size(); ++i) {
    const Extent extent = ExtentOf(labels[i]);
    EXPECT_THAT(extent.left, Ge(0)) << labels[i].text;
    EXPECT_THAT(extent.right, Le(page.Number("width"))) << labels[i].text;
    EXPECT_THAT(extent.y, AllOf(Ge(0), Le(page.Number("height")))) << labels[i].text;
    for (size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(Meet(extent, ExtentOf(labels[j])))
          << labels[i].text << " and " << labels[j].text;
    }
  }
}

TEST(SpeedPlotTest, LabelsNeverMeetAndStayOnThePage) {
  for (size_t groups = 1; groups <= 20; ++groups) {
    for (size_t contenders = 1; contenders <= 3; ++contenders) {
      SpeedPlot plot = PlotOf(std::vector(groups, std::vector(contenders, 1234.5)),
                              {.by_flops = 12.34, .by_weight_bytes = 10.99});
      for (size_t g = 0; g < groups; ++g)
        plot.balance.push_back({"batch", std::vector(contenders, ExpertBalance{0.25, 15.75})});
      const Picture picture(plot);
      const auto labels = picture.Of("label");
      EXPECT_EQ(labels.size(), groups * 2 + groups * (contenders - 1) + groups * contenders);
      ExpectApartAndOnThePage(labels, picture.elements.front());
    }
  }
}

TEST(SpeedPlotTest, ExpertsHaveAStripFromTheLeastToTheMost) {
  SpeedPlot plot = PlotOf({{1000, 500}});
  plot.balance = {{"batch 0", {{}, {}}}};
  EXPECT_THAT(Picture(plot).Of("fair"), IsEmpty());
  plot.balance = {{"batch 0", {{0.5, 3.0}, {}}}};
  const Picture picture(plot);
  const auto bars = picture.Of("balance");
  ASSERT_EQ(bars.size(), 1u);
  ASSERT_EQ(picture.Of("fair").size(), 1u);
  // From 0.5 to 3: the fair share lies a fifth above its lower end.
  const double top = bars[0].Number("y"), length = bars[0].Number("height");
  EXPECT_THAT(picture.Of("fair")[0].Number("y1"), DoubleNear(top + 0.8 * length, 0.05));
  EXPECT_THAT(picture.Texts(), Contains("0.50\u20133.00\u00D7"));
}

TEST(SpeedPlotTest, NamesAreEscapedAndTheDescriptionHasTheNumbers) {
  SpeedPlot plot = PlotOf({{1500, 1000}}, {.by_flops = 2.0});
  plot.title = plot.contenders[0] = "a<b>&\"c";
  const Picture picture(plot);
  EXPECT_EQ(picture.elements[1].text, "a<b>&\"c");
  EXPECT_THAT(picture.elements[2].text,
              AllOf(HasSubstr("machine"), HasSubstr("Decode, batch 0: a<b>&\"c 1500.0 tokens/s"),
                    HasSubstr("1.50\u00D7 (2.00)")));
}

}  // namespace
}  // namespace sluice::server
