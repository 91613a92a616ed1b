// Text and documents: nothing that a model or a server is called breaks one.
#include "server/plot/svg_document.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/plot/axis.h"
#include "tests/server_plot/xml_elements.h"

namespace sluice::server {
namespace {

using testing::ElementsAre;

TEST(XmlElementsTest, RefusesWhatIsNotWellFormed) {
  EXPECT_TRUE(ParseXml("<a b=\"c\"><d/>e</a>\n"));
  for (const char* text :
       {"", "a", "<a>", "<a></b>", "<a b=c/>", "<a b=\"<\"/>", "<a>&</a>", "<a>&b;</a>", "<a/><a/>",
        "<a b=\"\" b=\"\"/>", "<a>\x01</a>", "<a>\xFF</a>", "<a>\xEF\xBF\xBF</a>"}) {
    EXPECT_FALSE(ParseXml(text)) << text;
  }
}

TEST(SvgDocumentTest, ReservedCharactersComeBackAsTheyWere) {
  constexpr char kText[] = "a<b>&\"c' &amp; ]]> \u00FC\u2013";
  SvgDocument svg;
  svg.Text({1, 2}, kText, "label");
  svg.Rect({0, 0}, {1, 1}, "s0", kText);
  const auto elements = ParseXml(svg.Finish({10, 20}, kText, kText));
  ASSERT_TRUE(elements);
  int found = 0;
  for (const XmlElement& element : *elements) found += element.text == kText ? 1 : 0;
  EXPECT_EQ(found, 4);  // title, description, text, tooltip
}

TEST(SvgDocumentTest, AnyBytesMakeADocument) {
  std::vector<std::string> texts = {std::string("\0", 1), "\xEF\xBF\xBE",
                                    "\xEF\xBF\xBFx",      "\xC3",
                                    "a\xED\xA0\x80",      "\xF0\x9F\x8C\x8A"};
  for (int byte = 1; byte < 256; ++byte) texts.emplace_back(3, static_cast<char>(byte));
  for (const std::string& text : texts) {
    SvgDocument svg;
    svg.Text({0, 0}, text, "label");
    svg.Note({0, 0}, text, 50);
    EXPECT_TRUE(ParseXml(svg.Finish({10, 10}, text, text))) << testing::PrintToString(text);
  }
}

TEST(SvgDocumentTest, ItIsNamedDescribedAndHasColoursForDarkViewers) {
  SvgDocument svg;
  const std::string text = svg.Finish({10, 20}, "name", "in words");
  const auto elements = ParseXml(text);
  ASSERT_TRUE(elements);
  const XmlElement& root = elements->front();
  EXPECT_EQ(root.name, "svg");
  EXPECT_EQ(root.attributes.at("viewBox"), "0 0 10 20");
  EXPECT_EQ(root.attributes.at("aria-labelledby"), "plot-title plot-description");
  EXPECT_EQ((*elements)[1].attributes.at("id"), "plot-title");
  EXPECT_EQ((*elements)[1].text, "name");
  EXPECT_EQ((*elements)[2].attributes.at("id"), "plot-description");
  EXPECT_EQ((*elements)[2].text, "in words");
  EXPECT_THAT(text, testing::HasSubstr("@media (prefers-color-scheme:dark)"));
}

TEST(WrapTextTest, BreaksAtSpacesAndShortensWhatIsLonger) {
  EXPECT_THAT(WrapText("", 5), ElementsAre());
  EXPECT_THAT(WrapText("ab cd ef", 5), ElementsAre("ab cd", "ef"));
  EXPECT_THAT(WrapText("abcde  f", 5), ElementsAre("abcde", "f"));
  EXPECT_THAT(WrapText("abcdef g", 5), ElementsAre("abcd\u2026", "g"));
  EXPECT_THAT(WrapText("\u00FC\u00FC\u00FC\u00FC \u00FC\u00FC\u00FC", 3),
              ElementsAre("\u00FC\u00FC\u2026", "\u00FC\u00FC\u00FC"));
}

TEST(AxisTest, LinearTicksAreRoundAndReachTheMost) {
  EXPECT_THAT(LinearTicks(4.0), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(LinearTicks(4.1), ElementsAre(0, 2, 4, 6));
  EXPECT_THAT(LinearTicks(17000), ElementsAre(0, 5000, 10000, 15000, 20000));
  EXPECT_THAT(LinearTicks(0.0), ElementsAre(0, 1));
  EXPECT_THAT(LinearTicks(std::nan("")), ElementsAre(0, 1));
  EXPECT_THAT(LinearTicks(INFINITY), ElementsAre(0, 1));
  for (double most = 1e-4; most < 1e9; most *= 1.3) {
    const auto ticks = LinearTicks(most);
    EXPECT_GE(ticks.back(), most * (1 - 1e-6));
    EXPECT_LT(ticks[ticks.size() - 2], most);
    EXPECT_LE(ticks.size(), 5u);
  }
}

TEST(AxisTest, LogTicksHoldTheRange) {
  EXPECT_THAT(LogTicks(3, 40), ElementsAre(2, 5, 10, 20, 50));
  EXPECT_THAT(LogTicks(5, 5), ElementsAre(5, 10));
  EXPECT_THAT(LogTicks(0.02, 3000), ElementsAre(0.01, 0.1, 1, 10, 100, 1000, 10000));
  for (double least = 1e-3; least < 1e6; least *= 1.7) {
    for (double factor = 1; factor < 1e9; factor *= 3.1) {
      const auto ticks = LogTicks(least, least * factor);
      EXPECT_LE(ticks.front(), least * (1 + 1e-6));
      EXPECT_GE(ticks.back(), least * factor * (1 - 1e-6));
      EXPECT_GE(ticks.size(), 2u);
      EXPECT_LE(ticks.size(), 14u);
    }
  }
}

TEST(AxisTest, LabelsAreShort) {
  EXPECT_EQ(TickLabel(0), "0");
  EXPECT_EQ(TickLabel(0.001), "0.001");
  EXPECT_EQ(TickLabel(5000), "5000");
  EXPECT_EQ(TickLabel(15000), "15k");
  EXPECT_EQ(TickLabel(2e6), "2M");
}

}  // namespace
}  // namespace sluice::server
