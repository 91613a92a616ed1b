#include "server/plot/latency_plot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/plot/axis.h"
#include "server/plot/svg_document.h"

namespace sluice::server {
namespace {

constexpr double kMargin = 20.0, kLeft = 64.0, kPlotWidth = 560.0, kRight = 28.0, kHeight = 170.0;
constexpr double kWidth = kLeft + kPlotWidth + kRight;
constexpr double kLeastMs = 0.001;    // less is drawn there: a logarithm needs an end
constexpr double kAxisMargin = 1.02;  // so that no curve runs along the edge
constexpr std::array<double, 3> kMarked = {0.5, 0.9, 0.99};

// What share `q` stayed within, between neighbours linearly.
double At(const std::vector<double>& quantiles, double q) {
  const double place = q * static_cast<double>(quantiles.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, quantiles.size() - 1);
  return quantiles[below] +
         (place - static_cast<double>(below)) * (quantiles[above] - quantiles[below]);
}

std::string Milliseconds(double ms) {
  const int digits = ms < 10 ? 2 : ms < 100 ? 1 : 0;
  return absl::StrFormat("%.*f ms", digits, ms);
}

std::string MarkName(double q) { return absl::StrFormat("p%g", 100 * q); }

// "p50 281 ms, p90 1886 ms, p99 3364 ms"
std::string MarksText(const LatencyCurve& curve) {
  std::vector<std::string> texts;
  texts.reserve(kMarked.size());
  for (const double q : kMarked)
    texts.push_back(absl::StrCat(MarkName(q), " ", Milliseconds(At(curve.quantiles_ms, q))));
  return absl::StrJoin(texts, ", ");
}

std::string Description(const LatencyPlot& plot) {
  std::string text = absl::StrCat(absl::StrJoin(plot.notes, ". "), ".");
  for (const LatencyCurve& curve : plot.curves) {
    absl::StrAppend(&text, " ", curve.heading, ": ",
                    curve.quantiles_ms.empty() ? "nothing measured" : MarksText(curve), ".");
  }
  return text;
}

// The time axis of one curve. The few least do not stretch it: chunks that come together are
// microseconds apart.
std::vector<double> TimeTicks(const LatencyCurve& curve) {
  double least = std::max(kLeastMs, At(curve.quantiles_ms, 0.02) / kAxisMargin);
  double most = std::max(least, curve.quantiles_ms.back() * kAxisMargin);
  // An objective that is far from everything would squeeze the curve; the notes name it.
  const double objective = curve.objective_ms;
  if (objective > least / 10 && objective < most * 10) {
    least = std::min(least, objective);
    most = std::max(most, objective);
  }
  return LogTicks(least, most);
}

class LatencyDrawing {
 public:
  explicit LatencyDrawing(const LatencyPlot& plot) : plot_(plot) {}

  std::string Draw() {
    y_ = svg_.Title({kMargin, y_}, plot_.title, kWidth - 2 * kMargin);
    for (const std::string& note : plot_.notes)
      y_ = svg_.Note({kMargin, y_}, note, kWidth - 2 * kMargin);
    for (size_t i = 0; i < plot_.curves.size(); ++i) DrawCurve(plot_.curves[i], i);
    return svg_.Finish({kWidth, y_ + kMargin}, plot_.title, Description(plot_));
  }

 private:
  void DrawCurve(const LatencyCurve& curve, size_t series) {
    y_ += 16;
    svg_.Text({kMargin, y_ + 12}, curve.heading, "heading");
    if (curve.quantiles_ms.empty()) {
      svg_.Text({kLeft, y_ + 34}, "nothing measured", "note");
      y_ += 40;
      return;
    }
    svg_.Text({kLeft + kPlotWidth, y_ + 12}, MarksText(curve), "label", TextAnchor::kEnd);
    top_ = y_ + 42;
    ticks_ = TimeTicks(curve);
    DrawAxes(curve);
    DrawObjective(curve);
    std::vector<Point> points;
    const auto steps = static_cast<double>(curve.quantiles_ms.size() - 1);
    for (size_t i = 0; i < curve.quantiles_ms.size(); ++i) {
      points.push_back({X(curve.quantiles_ms[i]), Y(static_cast<double>(i) / steps)});
    }
    svg_.Polyline(points, absl::StrCat("curve ", SeriesLine(series)));
    for (const double q : kMarked) DrawMark(curve, q, series);
    y_ = top_ + kHeight + 38;
  }

  void DrawAxes(const LatencyCurve& curve) {
    for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      svg_.Line({kLeft, Y(share)}, {kLeft + kPlotWidth, Y(share)}, share == 0.0 ? "axis" : "grid");
      svg_.Text({kLeft - 6, Y(share) + 4}, absl::StrFormat("%g %%", 100 * share), "note",
                TextAnchor::kEnd);
    }
    for (const double tick : ticks_) {
      svg_.Line({X(tick), Y(0)}, {X(tick), Y(1)}, "grid");
      svg_.Text({X(tick), Y(0) + 16}, TickLabel(tick), "note", TextAnchor::kMiddle);
    }
    svg_.Text({kLeft + kPlotWidth / 2, Y(0) + 32}, "ms", "note", TextAnchor::kMiddle);
    svg_.UprightText({kMargin, (Y(0) + Y(1)) / 2}, absl::StrCat(curve.unit, " within"), "note");
  }

  void DrawObjective(const LatencyCurve& curve) {
    const double objective = curve.objective_ms;
    if (objective < ticks_.front() || objective > ticks_.back()) return;
    svg_.Line({X(objective), Y(0)}, {X(objective), Y(1) - 4}, "whisker dashed objective");
    const std::string text = absl::StrFormat("objective %g ms", objective);
    const double half = TextWidth(text) / 2;
    const double x = std::clamp(X(objective), kLeft + half, kLeft + kPlotWidth - half);
    svg_.Text({x, Y(1) - 9}, text, "label", TextAnchor::kMiddle);
  }

  // A percentile, named to the right below the curve, or to the left above it near the edge.
  void DrawMark(const LatencyCurve& curve, double q, size_t series) {
    const double ms = At(curve.quantiles_ms, q);
    const Point at = {X(ms), Y(q)};
    svg_.Dot(at, absl::StrCat("mark ", SeriesArea(series)),
             absl::StrCat(MarkName(q), " ", Milliseconds(ms)));
    const bool has_room = at.x + 8 + TextWidth(MarkName(q)) < kLeft + kPlotWidth;
    svg_.Text({has_room ? at.x + 8 : at.x - 8, has_room ? at.y + 10 : at.y - 1}, MarkName(q),
              "label", has_room ? TextAnchor::kStart : TextAnchor::kEnd);
  }

  double X(double ms) const {
    const double low = std::log(ticks_.front()), high = std::log(ticks_.back());
    const double clamped = std::clamp(ms, ticks_.front(), ticks_.back());
    return kLeft + (std::log(clamped) - low) / (high - low) * kPlotWidth;
  }
  double Y(double share) const { return top_ + (1 - share) * kHeight; }

  const LatencyPlot& plot_;
  SvgDocument svg_;
  double y_ = kMargin;         // where the next thing begins
  double top_ = 0.0;           // of the curve that is drawn
  std::vector<double> ticks_;  // of its axis
};

}  // namespace

std::string ToSvg(const LatencyPlot& plot) { return LatencyDrawing(plot).Draw(); }

}  // namespace sluice::server
