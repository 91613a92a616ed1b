// How far ahead of its use a weight is asked for: the candidates, and the rule that chooses one by
// their times. Not for taking the times (cpu_prefetch.cc).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice::kernels::cpu {

// The first is what holds unless another is faster by the margin: memory is shared with neighbours,
// whose noise must not choose. The processor's own prefetching stops at the ends of 4 KiB pages and
// begins anew behind them.
inline constexpr std::array<int64_t, 6> kPrefetchCandidates = {4096, 0, 1024, 2048, 8192, 16384};
inline constexpr double kPrefetchMargin = 1.03;

struct PrefetchChoice {
  int64_t bytes = kPrefetchCandidates[0];
  std::string text;  // for the start-up report; empty: there is nothing to report
};

// Of each candidate the seconds of each round, for as many bytes as the others of the round.
using PrefetchTimes = std::array<std::vector<double>, kPrefetchCandidates.size()>;

// The candidate with the largest gain over the first, the median of the rounds' own ratios, if that
// reaches the margin and more rounds show a gain than half of them by three standard deviations of
// a fair coin: so few or so noisy rounds choose nothing.
PrefetchChoice ChoosePrefetch(const PrefetchTimes& seconds);

// "prefetch 8 KiB ahead", "no prefetch ahead".
std::string PrefetchText(int64_t bytes);

}  // namespace sluice::kernels::cpu
