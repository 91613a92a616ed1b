#include "server/plot/axis.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sluice::server {
namespace {

constexpr std::array<double, 3> kRound = {1.0, 2.0, 5.0};
constexpr int kMostLogTicks = 9;

// Element `index` of ..., 0.5, 1, 2, 5, 10, ...: 0 is 1.
double RoundNumber(int index) {
  const int decade = static_cast<int>(std::floor(index / 3.0));
  return kRound[static_cast<size_t>(index - 3 * decade)] * std::pow(10.0, decade);
}

// The last one that is not above `value`.
int RoundIndexBelow(double value) {
  int index = 3 * static_cast<int>(std::floor(std::log10(value)));
  while (RoundNumber(index + 1) <= value * (1 + 1e-9)) ++index;
  return index;
}

int RoundIndexAbove(double value) {
  const int below = RoundIndexBelow(value);
  return RoundNumber(below) >= value * (1 - 1e-9) ? below : below + 1;
}

}  // namespace

std::vector<double> LinearTicks(double most) {
  if (!std::isfinite(most) || most <= 0.0) return {0.0, 1.0};
  const double step = RoundNumber(RoundIndexAbove(most / 4));
  std::vector<double> ticks = {0.0};
  while (ticks.back() < most * (1 - 1e-9))
    ticks.push_back(step * static_cast<double>(ticks.size()));
  return ticks;
}

std::vector<double> LogTicks(double least, double most) {
  int first = RoundIndexBelow(least);
  int last = std::max(first + 1, RoundIndexAbove(most));
  int step = 1;
  if (last - first >= kMostLogTicks) {
    step = 3;
    first = 3 * static_cast<int>(std::floor(first / 3.0));
    last = 3 * static_cast<int>(std::ceil(last / 3.0));
  }
  std::vector<double> ticks;
  for (int index = first; index <= last; index += step) ticks.push_back(RoundNumber(index));
  return ticks;
}

std::string TickLabel(double value) {
  if (value >= 1e6) return absl::StrFormat("%gM", value / 1e6);
  if (value >= 1e4) return absl::StrFormat("%gk", value / 1e3);
  return absl::StrFormat("%g", value);
}

}  // namespace sluice::server
