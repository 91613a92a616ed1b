#include "server/commands/bench_report.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/load/latency_summary.h"

namespace sluice::server {
namespace {

using kernels::MachineLimits;
using Field = double BenchResult::*;

constexpr size_t kFewestRoundsForQuartiles = 3;

std::vector<double> Sorted(const std::vector<BenchResult>& rounds, Field field) {
  std::vector<double> values;
  values.reserve(rounds.size());
  for (const BenchResult& round : rounds) values.push_back(round.*field);
  std::sort(values.begin(), values.end());
  return values;
}

double Median(const std::vector<BenchResult>& rounds, Field field) {
  return Quantile(Sorted(rounds, field), 0.5);
}

// Shares of what the machine can do, measured in the same run: S-MBU and S-MFU, of the bytes and
// FLOPs that the routing made necessary.
double OfMemory(const Contender& contender, const MachineLimits& limits) {
  return Median(contender.rounds, &BenchResult::weight_bytes_per_second) /
         limits.memory_bytes_per_second();
}

double OfPeak(const Contender& contender, const MachineLimits& limits, Field rate) {
  return Median(contender.rounds, rate) /
         limits.operations_per_second(contender.subject->weights());
}

double Ratio(const Contender& above, const Contender& below, Field field) {
  return Median(above.rounds, field) / Median(below.rounds, field);
}

// How many times faster than `other` the first would be if all time went to
// arithmetic, or all to reading weights; the truth lies between.
IdealRatio DecodeIdeal(const Contender& first, const Contender& other) {
  return {.by_flops = Ratio(other, first, &BenchResult::flops_per_token),
          .by_weight_bytes = Ratio(other, first, &BenchResult::weight_bytes_per_step)};
}

IdealRatio PrefillIdeal(const Contender& first, const Contender& other) {
  return {.by_flops = Ratio(other, first, &BenchResult::prefill_flops_per_token)};
}

Speed SpeedOf(const Contender& contender, Field field) {
  const std::vector<double> values = Sorted(contender.rounds, field);
  Speed speed{.median = Quantile(values, 0.5)};
  if (values.size() < kFewestRoundsForQuartiles) return speed;
  speed.lower_quartile = Quantile(values, 0.25);
  speed.upper_quartile = Quantile(values, 0.75);
  return speed;
}

using IdealOf = IdealRatio (*)(const Contender& first, const Contender& other);

SpeedGroup GroupOf(const std::string& label,
                   const std::vector<Contender>& contenders,
                   Field field,
                   IdealOf ideal_of) {
  SpeedGroup group{.label = label};
  for (const Contender& contender : contenders) group.speeds.push_back(SpeedOf(contender, field));
  for (size_t i = 1; i < contenders.size(); ++i)
    group.ideals.push_back(ideal_of(contenders.front(), contenders[i]));
  return group;
}

nlohmann::json Summary(const Contender& contender,
                       const BenchLoad& load,
                       const BenchSetting& setting) {
  const auto& rounds = contender.rounds;
  const MachineLimits& limits = setting.limits;
  return {
      {"subject", contender.label},
      {"batch", load.batch},
      {"prompt_tokens", load.prompt_tokens},
      {"output_tokens", load.output_tokens},
      {"prefill_tokens_per_second", Median(rounds, &BenchResult::prefill_tokens_per_second)},
      {"decode_tokens_per_second", Median(rounds, &BenchResult::decode_tokens_per_second)},
      {"output_tokens_per_second", Median(rounds, &BenchResult::output_tokens_per_second)},
      {"prefill_flops_per_token", Median(rounds, &BenchResult::prefill_flops_per_token)},
      {"flops_per_token", Median(rounds, &BenchResult::flops_per_token)},
      {"weight_bytes_per_step", Median(rounds, &BenchResult::weight_bytes_per_step)},
      {"weight_bytes_per_second", Median(rounds, &BenchResult::weight_bytes_per_second)},
      {"decode_share_of_memory_rate", OfMemory(contender, limits)},
      {"decode_share_of_peak", OfPeak(contender, limits, &BenchResult::decode_flops_per_second)},
      {"prefill_share_of_peak", OfPeak(contender, limits, &BenchResult::prefill_flops_per_second)},
      {"least_expert_load", Median(rounds, &BenchResult::least_expert_load)},
      {"most_expert_load", Median(rounds, &BenchResult::most_expert_load)},
      {"load_seconds", contender.subject->load_seconds()},
      {"load_peak_resident_bytes", setting.load_peak_resident_bytes},  // with the baseline
      {"memory_bytes_per_second", limits.memory_bytes_per_second()},
      {"operations_per_second", limits.operations_per_second(contender.subject->weights())},
      {"skipped_ratio_all_layers", Median(rounds, &BenchResult::skipped_ratio)}};
}

}  // namespace

std::string MachineLine(const BenchSetting& setting, const BenchSubject& subject) {
  const MachineLimits& limits = setting.limits;
  return absl::StrFormat(
      "%d threads; measured just now: memory %.1f GB/s, peak %.0f GFLOP/s with %s weights; medians "
      "of %d interleaved rounds",
      subject.report().threads, limits.memory_bytes_per_second() / 1e9,
      limits.operations_per_second(subject.weights()) / 1e9, kernels::Name(subject.weights()),
      setting.rounds);
}

void PrintLoad(const MeasuredLoad& measured, const BenchSetting& setting) {
  const BenchLoad& load = measured.load;
  const std::vector<Contender>& contenders = measured.contenders;
  const MachineLimits& limits = setting.limits;
  const Contender& first = contenders.front();
  std::printf("\nbatch %d, %d prompt tokens, %d generated\n", load.batch, load.prompt_tokens,
              load.output_tokens);
  std::printf("  %-30s %13s %7s %12s %9s %9s %9s %6s %7s\n", "", "prefill tok/s", "of peak",
              "decode tok/s", "MFLOP/tok", "MB/step", "read GB/s", "of mem", "skipped");
  for (const Contender& contender : contenders) {
    const auto& rounds = contender.rounds;
    std::printf("  %-30s %13.0f %6.0f%% %12.1f %9.2f %9.2f %9.2f %5.0f%% %6.1f%%\n",
                contender.label.c_str(), Median(rounds, &BenchResult::prefill_tokens_per_second),
                100 * OfPeak(contender, limits, &BenchResult::prefill_flops_per_second),
                Median(rounds, &BenchResult::decode_tokens_per_second),
                Median(rounds, &BenchResult::flops_per_token) / 1e6,
                Median(rounds, &BenchResult::weight_bytes_per_step) / 1e6,
                Median(rounds, &BenchResult::weight_bytes_per_second) / 1e9,
                100 * OfMemory(contender, limits),
                100 * Median(rounds, &BenchResult::skipped_ratio));
  }
  for (const Contender& contender : contenders) {
    const double most = Median(contender.rounds, &BenchResult::most_expert_load);
    if (most == 0.0) continue;
    std::printf("  %s: experts have %.2f to %.2f times their fair share of rows\n",
                contender.label.c_str(), Median(contender.rounds, &BenchResult::least_expert_load),
                most);
  }
  for (size_t i = 1; i < contenders.size(); ++i) {
    const Contender& other = contenders[i];
    const IdealRatio decode = DecodeIdeal(first, other), prefill = PrefillIdeal(first, other);
    std::printf(
        "  %s / %s: decode %.2fx (ideal by FLOPs %.2fx, by weight bytes %.2fx), prefill %.2fx "
        "(ideal by FLOPs %.2fx)\n",
        first.label.c_str(), other.label.c_str(),
        Ratio(first, other, &BenchResult::decode_tokens_per_second), decode.by_flops,
        decode.by_weight_bytes, Ratio(first, other, &BenchResult::prefill_tokens_per_second),
        prefill.by_flops);
  }
}

nlohmann::json ToJson(const std::vector<MeasuredLoad>& loads, const BenchSetting& setting) {
  nlohmann::json objects = nlohmann::json::array();
  for (const MeasuredLoad& measured : loads) {
    for (const Contender& contender : measured.contenders)
      objects.push_back(Summary(contender, measured.load, setting));
  }
  return objects;
}

SpeedPlot MakeSpeedPlot(const std::vector<MeasuredLoad>& loads, const BenchSetting& setting) {
  const BenchLoad& load = loads.front().load;
  SpeedPlot plot{.notes = {MachineLine(setting, *loads.front().contenders.front().subject),
                           absl::StrFormat("%d prompt tokens, %d generated", load.prompt_tokens,
                                           load.output_tokens)},
                 .panels = {{.heading = "Prefill"}, {.heading = "Decode"}}};
  if (!setting.limits.device.empty()) plot.notes.insert(plot.notes.begin(), setting.limits.device);
  for (const Contender& contender : loads.front().contenders)
    plot.contenders.push_back(contender.label);
  plot.title = plot.contenders.front();
  for (size_t i = 1; i < plot.contenders.size(); ++i)
    absl::StrAppend(&plot.title, i == 1 ? " against " : " and ", plot.contenders[i]);
  for (const MeasuredLoad& measured : loads) {
    const std::string label = absl::StrCat("batch ", measured.load.batch);
    const std::vector<Contender>& contenders = measured.contenders;
    plot.panels[0].groups.push_back(
        GroupOf(label, contenders, &BenchResult::prefill_tokens_per_second, PrefillIdeal));
    plot.panels[1].groups.push_back(
        GroupOf(label, contenders, &BenchResult::decode_tokens_per_second, DecodeIdeal));
    BalanceGroup balance{.label = label};
    for (const Contender& contender : contenders) {
      balance.balances.push_back({Median(contender.rounds, &BenchResult::least_expert_load),
                                  Median(contender.rounds, &BenchResult::most_expert_load)});
    }
    plot.balance.push_back(std::move(balance));
  }
  return plot;
}

}  // namespace sluice::server
