#include "server/plot/speed_plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/plot/axis.h"
#include "server/plot/svg_document.h"

namespace sluice::server {
namespace {

constexpr double kLeft = 64.0, kRight = 20.0, kMargin = 20.0;
constexpr double kLeastPlotWidth = 560.0;
constexpr double kLeastGroupWidth = 160.0;  // holds one comparison: "12.34× (12.34–12.34)"
constexpr double kBarWidth = 26.0, kBarGap = 4.0, kMarkWidth = 14.0, kSwatch = 8.0;
constexpr double kSpeedHeight = 160.0, kBalanceHeight = 64.0;
constexpr double kFrameFoot = 44.0;  // labels of the groups, and room before the next heading
constexpr double kLine = 15.0;       // of text

bool IsSpeed(double value) { return std::isfinite(value) && value > 0.0; }

// The model over `other`; 0: not both are known.
double Ratio(const SpeedGroup& group, size_t other) {
  const double ours = group.speeds[0].median, theirs = group.speeds[other].median;
  return IsSpeed(ours) && IsSpeed(theirs) ? ours / theirs : 0.0;
}

// What the model would reach by an ideal ratio to `other`; 0: not known.
double IdealSpeed(double ratio, const Speed& other) {
  return IsSpeed(ratio) && IsSpeed(other.median) ? ratio * other.median : 0.0;
}

// "1.53× (1.10–2.01)": the ratio, and in brackets the ideals from low to high.
std::string RatioText(const SpeedGroup& group, size_t other) {
  const double ratio = Ratio(group, other);
  if (ratio == 0.0) return "";
  const IdealRatio& ideal = group.ideals[other - 1];
  std::vector<double> known;
  for (const double value : {ideal.by_flops, ideal.by_weight_bytes}) {
    if (IsSpeed(value)) known.push_back(value);
  }
  std::sort(known.begin(), known.end());
  std::vector<std::string> texts;
  texts.reserve(known.size());
  for (const double value : known) texts.push_back(absl::StrFormat("%.2f", value));
  if (texts.size() == 2 && texts[0] == texts[1]) texts.pop_back();
  const std::string ideals =
      texts.empty() ? "" : absl::StrCat(" (", absl::StrJoin(texts, "\u2013"), ")");
  return absl::StrFormat("%.2f\u00D7%s", ratio, ideals);
}

std::string SpeedText(const Speed& speed) {
  std::string text = absl::StrFormat("%.1f tokens/s", speed.median);
  if (IsSpeed(speed.upper_quartile)) {
    absl::StrAppendFormat(&text, " (quartiles %.1f to %.1f)", speed.lower_quartile,
                          speed.upper_quartile);
  }
  return text;
}

std::string Description(const SpeedPlot& plot) {
  std::string text = absl::StrCat(absl::StrJoin(plot.notes, ". "), ".");
  for (const SpeedPanel& panel : plot.panels) {
    for (const SpeedGroup& group : panel.groups) {
      absl::StrAppend(&text, " ", panel.heading, ", ", group.label, ":");
      for (size_t i = 0; i < group.speeds.size(); ++i) {
        if (!IsSpeed(group.speeds[i].median)) continue;
        absl::StrAppend(&text, " ", plot.contenders[i], " ", SpeedText(group.speeds[i]));
        if (i > 0 && Ratio(group, i) > 0.0)
          absl::StrAppend(&text, ", to which the first is ", RatioText(group, i));
        absl::StrAppend(&text, ";");
      }
    }
  }
  return text;
}

// One part of the picture with its own vertical scale. Groups share the width.
struct Frame {
  double left = 0.0, right = 0.0, top = 0.0, bottom = 0.0;
  double most = 1.0;  // at `top`
  size_t num_groups = 1, num_bars = 1;

  double Y(double value) const { return bottom - value / most * (bottom - top); }
  double Middle(size_t group) const {
    return left +
           (right - left) * (static_cast<double>(group) + 0.5) / static_cast<double>(num_groups);
  }
  double BarLeft(size_t group, size_t bar) const {
    const auto bars = static_cast<double>(num_bars);
    return Middle(group) - (bars * (kBarWidth + kBarGap) - kBarGap) / 2 +
           static_cast<double>(bar) * (kBarWidth + kBarGap);
  }
};

// A line of text over a group, about one contender.
struct Annotation {
  size_t series = 0;
  std::string text;
};

class SpeedDrawing {
 public:
  explicit SpeedDrawing(const SpeedPlot& plot)
      : plot_(plot),
        plot_width_(
            std::max(kLeastPlotWidth, kLeastGroupWidth * static_cast<double>(NumGroups()))) {}

  std::string Draw() {
    DrawHead();
    for (const SpeedPanel& panel : plot_.panels) DrawSpeeds(panel);
    if (HasExperts()) DrawBalance();
    y_ = svg_.Note({kMargin, y_}, Explanation(), TextRoom());
    return svg_.Finish({Width(), y_ + kMargin}, plot_.title, Description(plot_));
  }

 private:
  size_t NumGroups() const {
    size_t most = std::max<size_t>(1, plot_.balance.size());
    for (const SpeedPanel& panel : plot_.panels) most = std::max(most, panel.groups.size());
    return most;
  }
  size_t NumOthers() const { return plot_.contenders.empty() ? 0 : plot_.contenders.size() - 1; }
  bool HasExperts() const { return MostUneven() > 0.0; }
  double MostUneven() const {
    double most = 0.0;
    for (const BalanceGroup& group : plot_.balance) {
      for (const ExpertBalance& balance : group.balances) most = std::max(most, balance.most);
    }
    return most;
  }
  bool HasQuartiles() const {
    for (const SpeedPanel& panel : plot_.panels) {
      for (const SpeedGroup& group : panel.groups) {
        for (const Speed& speed : group.speeds) {
          if (IsSpeed(speed.upper_quartile)) return true;
        }
      }
    }
    return false;
  }

  double Width() const { return kLeft + plot_width_ + kRight; }
  // Above the bars: a line of text for each comparison.
  double Headroom() const { return 8 + kLine * static_cast<double>(NumOthers()); }
  double BalanceHeadroom() const {
    size_t lines = 0;
    for (const BalanceGroup& group : plot_.balance) {
      const auto with_experts =
          std::count_if(group.balances.begin(), group.balances.end(),
                        [](const ExpertBalance& balance) { return balance.most > 0.0; });
      lines = std::max(lines, static_cast<size_t>(with_experts));
    }
    return 8 + kLine * static_cast<double>(lines);
  }
  double TextRoom() const { return Width() - 2 * kMargin; }

  std::string Explanation() const {
    std::string text;
    if (NumOthers() > 0) {
      text =
          "n\u00D7: how many times faster the first is. In brackets, and as marks beside its bar: "
          "how "
          "many times it would be if all time went to arithmetic (line) or to reading weights "
          "(dots). ";
    }
    if (HasQuartiles()) text += "Whiskers: quartiles of the rounds. ";
    if (HasExperts()) text += "Experts: rows of the least and of the most used one of any layer. ";
    return text;
  }

  void DrawHead() {
    y_ = svg_.Title({kMargin, y_}, plot_.title, TextRoom());
    for (const std::string& note : plot_.notes) y_ = svg_.Note({kMargin, y_}, note, TextRoom());
    y_ += 6;
    for (size_t i = 0; i < plot_.contenders.size(); ++i) {
      svg_.Rect({kMargin, y_ + 1}, {kMargin + 10, y_ + 11}, SeriesArea(i));
      y_ = svg_.Note({kMargin + 17, y_}, plot_.contenders[i], TextRoom() - 17) + 2;
    }
    y_ += 10;
  }

  // Heading, grid and axes of the next frame.
  Frame DrawFrame(std::string_view heading,
                  std::string_view unit,
                  const std::vector<double>& ticks,
                  double headroom,
                  double height) {
    Frame frame{.left = kLeft,
                .right = kLeft + plot_width_,
                .top = y_ + 18 + headroom,
                .most = ticks.back(),
                .num_groups = NumGroups(),
                .num_bars = std::max<size_t>(1, plot_.contenders.size())};
    frame.bottom = frame.top + height;
    svg_.Text({kMargin, y_ + 14}, heading, "heading");
    for (const double tick : ticks) {
      const double y = frame.Y(tick);
      svg_.Line({frame.left, y}, {frame.right, y}, tick == 0.0 ? "axis" : "grid");
      svg_.Text({frame.left - 6, y + 4}, TickLabel(tick), "note", TextAnchor::kEnd);
    }
    svg_.UprightText({kMargin, (frame.top + frame.bottom) / 2}, unit, "note");
    y_ = frame.bottom + kFrameFoot - 18;
    return frame;
  }

  void DrawSpeeds(const SpeedPanel& panel) {
    double most = 0.0;
    for (const SpeedGroup& group : panel.groups) most = std::max(most, Highest(group));
    const Frame frame =
        DrawFrame(panel.heading, "tokens/s", LinearTicks(most), Headroom(), kSpeedHeight);
    for (size_t g = 0; g < panel.groups.size(); ++g) {
      const SpeedGroup& group = panel.groups[g];
      svg_.Text({frame.Middle(g), frame.bottom + 16}, group.label, "label", TextAnchor::kMiddle);
      for (size_t i = 0; i < group.speeds.size(); ++i) {
        DrawBar(frame, group.speeds[i], g, i,
                absl::StrCat(plot_.contenders[i], ", ", group.label, ": "));
      }
      std::vector<Annotation> annotations;
      for (size_t i = 1; i < group.speeds.size(); ++i) {
        DrawIdeals(frame, group, g, i);
        annotations.push_back({i, RatioText(group, i)});
      }
      Annotate(frame.Middle(g), frame.Y(Highest(group)), annotations);
    }
  }

  // Of everything that is drawn for the group.
  static double Highest(const SpeedGroup& group) {
    double most = 0.0;
    const auto see = [&most](double value) {
      most = IsSpeed(value) ? std::max(most, value) : most;
    };
    for (const Speed& speed : group.speeds) {
      see(speed.median);
      see(speed.upper_quartile);
    }
    for (size_t i = 1; i < group.speeds.size(); ++i) {
      see(IdealSpeed(group.ideals[i - 1].by_flops, group.speeds[i]));
      see(IdealSpeed(group.ideals[i - 1].by_weight_bytes, group.speeds[i]));
    }
    return most;
  }

  void DrawBar(const Frame& frame,
               const Speed& speed,
               size_t group,
               size_t series,
               const std::string& subject) {
    if (!IsSpeed(speed.median)) return;
    const double left = frame.BarLeft(group, series);
    svg_.Rect({left, frame.Y(speed.median)}, {left + kBarWidth, frame.bottom},
              absl::StrCat("bar ", SeriesArea(series)), absl::StrCat(subject, SpeedText(speed)));
    if (!IsSpeed(speed.upper_quartile)) return;
    const double x = left + kBarWidth / 2;
    const double low = frame.Y(speed.lower_quartile), high = frame.Y(speed.upper_quartile);
    svg_.Line({x, low}, {x, high}, "whisker");
    svg_.Line({x - 4, low}, {x + 4, low}, "whisker");
    svg_.Line({x - 4, high}, {x + 4, high}, "whisker");
  }

  // Where the model would be, by what `other` reached: beside the model's bar, in its colour.
  void DrawIdeals(const Frame& frame, const SpeedGroup& group, size_t g, size_t other) {
    const double right = frame.BarLeft(g, 0) - 1;
    const auto draw = [&](double ratio, const char* classes) {
      const double speed = IdealSpeed(ratio, group.speeds[other]);
      if (!IsSpeed(speed)) return;
      const double y = frame.Y(speed);
      svg_.Line({right - kMarkWidth, y}, {right, y}, absl::StrCat(classes, SeriesLine(other)));
    };
    draw(group.ideals[other - 1].by_flops, "ideal ");
    draw(group.ideals[other - 1].by_weight_bytes, "ideal dotted ");
  }

  // One above the other, the last just over `y`. The page behind them hides the grid.
  void Annotate(double middle, double y, const std::vector<Annotation>& annotations) {
    y -= 7 + kLine * static_cast<double>(annotations.size() - 1);
    for (const Annotation& annotation : annotations) {
      if (!annotation.text.empty()) {
        const double half = TextWidth(annotation.text) / 2;
        const bool is_one_of_many = plot_.contenders.size() > 2;
        const double left = middle - half - (is_one_of_many ? kSwatch + 3 : 0.0);
        svg_.Rect({left, y - 11}, {middle + half, y + 3}, "page");
        if (is_one_of_many)
          svg_.Rect({left, y - 8}, {left + kSwatch, y}, SeriesArea(annotation.series));
        svg_.Text({middle, y}, annotation.text, "label", TextAnchor::kMiddle);
      }
      y += kLine;
    }
  }

  void DrawBalance() {
    const Frame frame = DrawFrame("Experts", "\u00D7 fair share", LinearTicks(MostUneven()),
                                  BalanceHeadroom(), kBalanceHeight);
    for (size_t g = 0; g < plot_.balance.size(); ++g) {
      const BalanceGroup& group = plot_.balance[g];
      svg_.Text({frame.Middle(g), frame.bottom + 16}, group.label, "label", TextAnchor::kMiddle);
      double most = 0.0;
      std::vector<Annotation> annotations;
      for (size_t i = 0; i < group.balances.size(); ++i) {
        const ExpertBalance& balance = group.balances[i];
        if (balance.most <= 0.0) continue;
        most = std::max(most, balance.most);
        const double left = frame.BarLeft(g, i);
        annotations.push_back(
            {i, absl::StrFormat("%.2f\u2013%.2f\u00D7", balance.least, balance.most)});
        svg_.Rect({left, frame.Y(balance.most)}, {left + kBarWidth, frame.Y(balance.least)},
                  absl::StrCat("balance ", SeriesArea(i)),
                  absl::StrCat(plot_.contenders[i], ", ", group.label, ": ",
                               annotations.back().text, " of the fair share"));
      }
      if (!annotations.empty()) Annotate(frame.Middle(g), frame.Y(most), annotations);
    }
    svg_.Line({frame.left, frame.Y(1.0)}, {frame.right, frame.Y(1.0)}, "axis dashed fair");
  }

  const SpeedPlot& plot_;
  const double plot_width_;
  SvgDocument svg_;
  double y_ = kMargin;  // where the next thing begins
};

}  // namespace

std::string ToSvg(const SpeedPlot& plot) { return SpeedDrawing(plot).Draw(); }

}  // namespace sluice::server
