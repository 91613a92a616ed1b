#include "kernels/cpu/prefetch_choice.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/check.h"

namespace sluice::kernels::cpu {
namespace {

std::string Size(int64_t bytes) {
  return bytes % 1024 == 0 ? absl::StrCat(bytes / 1024, " KiB") : absl::StrCat(bytes, " bytes");
}

struct Gain {
  double median = 0.0;
  bool is_steady = false;
};

Gain GainOver(const std::vector<double>& first, const std::vector<double>& other) {
  SLUICE_CHECK(!first.empty() && first.size() == other.size()) << first.size();
  std::vector<double> ratios;
  for (size_t round = 0; round < first.size(); ++round)
    ratios.push_back(first[round] / other[round]);
  std::sort(ratios.begin(), ratios.end());
  const auto rounds = static_cast<double>(ratios.size());
  const auto gains = std::count_if(ratios.begin(), ratios.end(), [](double r) { return r > 1.0; });
  const double chance = rounds / 2.0 + 3.0 * std::sqrt(rounds) / 2.0;
  // Of an even number the lower of the two in the middle.
  return {ratios[(ratios.size() - 1) / 2], static_cast<double>(gains) > chance};
}

}  // namespace

PrefetchChoice ChoosePrefetch(const PrefetchTimes& seconds) {
  size_t best = 0;
  double most = kPrefetchMargin;
  for (size_t candidate = 1; candidate < seconds.size(); ++candidate) {
    const Gain gain = GainOver(seconds[0], seconds[candidate]);
    if (!gain.is_steady || gain.median < most) continue;
    best = candidate;
    most = gain.median;
  }
  PrefetchChoice choice{.bytes = kPrefetchCandidates[best], .text = ""};
  const std::string why =
      best == 0 ? absl::StrFormat("no other faster by %.0f %%", 100.0 * (kPrefetchMargin - 1.0))
                : absl::StrFormat("%.2fx of %s", most, Size(kPrefetchCandidates[0]));
  choice.text = absl::StrCat(PrefetchText(choice.bytes), ": ", why);
  return choice;
}

std::string PrefetchText(int64_t bytes) {
  return bytes == 0 ? "no prefetch ahead" : absl::StrCat("prefetch ", Size(bytes), " ahead");
}

}  // namespace sluice::kernels::cpu
