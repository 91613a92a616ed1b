#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/status_macros.h"
#include "kernels/machine_limits.h"
#include "nlohmann/json.hpp"
#include "server/commands/bench_run.h"
#include "server/commands/commands.h"

namespace sluice::server {
namespace {

using kernels::MachineLimits;

// What is measured side by side in every round.
struct Contender {
  std::string label;
  BenchSubject* subject = nullptr;
  bool forced_dense = false;
  std::vector<BenchResult> rounds;
};

absl::StatusOr<std::vector<int32_t>> ParseBatchSizes(const std::string& text) {
  std::vector<int32_t> sizes;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int32_t size = 0;
    if (!absl::SimpleAtoi(part, &size) || size < 1 || size > 4096) {
      return absl::InvalidArgumentError(
          "--batch-sizes: expected numbers from 1 to 4096, such as 1,8,32");
    }
    sizes.push_back(size);
  }
  return sizes;
}

template <typename Field>
double Median(const std::vector<BenchResult>& rounds, Field field) {
  std::vector<double> values;
  for (const BenchResult& round : rounds) values.push_back(round.*field);
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

// Interleaved, every second round in reverse order, so that drift of the machine hits all alike.
absl::Status MeasureAll(const BenchLoad& load, int32_t rounds, std::vector<Contender>& contenders) {
  for (Contender& contender : contenders) {
    contender.rounds.clear();
    RETURN_IF_ERROR(contender.subject->Measure(load, contender.forced_dense).status());  // warm-up
  }
  for (int32_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      Contender& contender = contenders[round % 2 == 0 ? i : contenders.size() - 1 - i];
      ASSIGN_OR_RETURN(const BenchResult result,
                       contender.subject->Measure(load, contender.forced_dense));
      contender.rounds.push_back(result);
    }
  }
  return absl::OkStatus();
}

// Shares of what the machine can do, measured in the same run: S-MBU and S-MFU, of the bytes and
// FLOPs that the routing made necessary.
double OfMemory(const Contender& contender, const MachineLimits& limits) {
  return Median(contender.rounds, &BenchResult::weight_bytes_per_second) /
         limits.memory_bytes_per_second();
}

double OfPeak(const Contender& contender, const MachineLimits& limits, double BenchResult::*rate) {
  return Median(contender.rounds, rate) /
         limits.operations_per_second(contender.subject->weights());
}

nlohmann::json Summary(const Contender& contender,
                       const BenchLoad& load,
                       const MachineLimits& limits) {
  const auto& rounds = contender.rounds;
  return {
      {"subject", contender.label},
      {"batch", load.batch},
      {"prompt_tokens", load.prompt_tokens},
      {"output_tokens", load.output_tokens},
      {"prefill_tokens_per_second", Median(rounds, &BenchResult::prefill_tokens_per_second)},
      {"decode_tokens_per_second", Median(rounds, &BenchResult::decode_tokens_per_second)},
      {"output_tokens_per_second", Median(rounds, &BenchResult::output_tokens_per_second)},
      {"flops_per_token", Median(rounds, &BenchResult::flops_per_token)},
      {"weight_bytes_per_step", Median(rounds, &BenchResult::weight_bytes_per_step)},
      {"weight_bytes_per_second", Median(rounds, &BenchResult::weight_bytes_per_second)},
      {"decode_share_of_memory_rate", OfMemory(contender, limits)},
      {"decode_share_of_peak", OfPeak(contender, limits, &BenchResult::decode_flops_per_second)},
      {"prefill_share_of_peak", OfPeak(contender, limits, &BenchResult::prefill_flops_per_second)},
      {"least_expert_load", Median(rounds, &BenchResult::least_expert_load)},
      {"most_expert_load", Median(rounds, &BenchResult::most_expert_load)},
      {"load_seconds", contender.subject->load_seconds()},
      {"process_peak_resident_bytes", PeakResidentBytes()},  // with the baseline
      {"memory_bytes_per_second", limits.memory_bytes_per_second()},
      {"operations_per_second", limits.operations_per_second(contender.subject->weights())},
      {"skipped_ratio_all_layers", Median(rounds, &BenchResult::skipped_ratio)}};
}

void PrintLoad(const BenchLoad& load,
               const std::vector<Contender>& contenders,
               const MachineLimits& limits) {
  const auto& first = contenders.front();
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
    const auto& other = contenders[i].rounds;
    const auto ratio = [&](double BenchResult::*field, bool less_is_better) {
      const double ours = Median(first.rounds, field);
      const double theirs = Median(other, field);
      return less_is_better ? theirs / ours : ours / theirs;
    };
    // The ideal: all time goes to arithmetic, or all to reading weights; the truth lies between.
    std::printf(
        "  %s / %s: decode %.2fx (ideal by FLOPs %.2fx, by weight bytes %.2fx), prefill %.2fx\n",
        first.label.c_str(), contenders[i].label.c_str(),
        ratio(&BenchResult::decode_tokens_per_second, false),
        ratio(&BenchResult::flops_per_token, true),
        ratio(&BenchResult::weight_bytes_per_step, true),
        ratio(&BenchResult::prefill_tokens_per_second, false));
  }
}

// Null when none is asked for.
absl::StatusOr<std::unique_ptr<BenchSubject>> LoadBaseline(const BenchConfig& config,
                                                           EngineConfig engine,
                                                           const Clock& clock) {
  const bool same_weights = config.baseline_weights == "same";
  if (config.baseline.empty() && same_weights) return nullptr;
  if (!config.baseline.empty()) engine.model_directory = config.baseline;
  if (!same_weights) engine.weights = WeightFormatOf(config.baseline_weights);
  engine.packed_cache.clear();  // for the model that is served
  return BenchSubject::Load(engine, "baseline", clock);
}

std::vector<Contender> ListContenders(BenchSubject* subject, BenchSubject* baseline) {
  const bool formats_differ =
      baseline != nullptr && baseline->report().weights != subject->report().weights;
  const auto label = [formats_differ](const BenchSubject& of) {
    return formats_differ ? absl::StrCat(of.card().id, " ", of.report().weights) : of.card().id;
  };
  std::vector<Contender> contenders = {{.label = label(*subject), .subject = subject}};
  if (baseline != nullptr) contenders.push_back({.label = label(*baseline), .subject = baseline});
  if (subject->can_force_dense()) {
    contenders.push_back({.label = absl::StrCat(label(*subject), " forced dense"),
                          .subject = subject,
                          .forced_dense = true});
  }
  return contenders;
}

// What it took to get there: load times, and memory of all that is loaded.
void PrintCosts(const std::vector<const BenchSubject*>& subjects) {
  for (const BenchSubject* subject : subjects) {
    if (subject == nullptr) continue;
    std::printf("%s loaded in %.2f s\n", subject->card().id.c_str(), subject->load_seconds());
  }
  std::printf("most memory while loading: %.0f MB\n",
              static_cast<double>(PeakResidentBytes()) / 1e6);
}

absl::Status Bench(const ServerConfig& config) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> batch_sizes,
                   ParseBatchSizes(config.bench.batch_sizes));
  SteadyClock clock;
  EngineConfig engine = config.engine;
  engine.max_sequences =
      std::max(engine.max_sequences, *std::max_element(batch_sizes.begin(), batch_sizes.end()));
  engine.max_queued_requests = std::max(engine.max_queued_requests, engine.max_sequences);
  engine.max_queued_tokens = std::max<int64_t>(
      engine.max_queued_tokens, int64_t{engine.max_sequences} * config.bench.prompt_tokens);
  ASSIGN_OR_RETURN(const auto subject, BenchSubject::Load(engine, "model", clock));
  ASSIGN_OR_RETURN(const auto baseline, LoadBaseline(config.bench, engine, clock));
  if (baseline != nullptr && config.bench.baseline.empty() &&
      baseline->report().weights == subject->report().weights) {
    return absl::InvalidArgumentError(
        absl::StrCat("--baseline-weights: the model has ", subject->report().weights,
                     " weights itself, so there is nothing to compare with"));
  }
  std::vector<Contender> contenders = ListContenders(subject.get(), baseline.get());
  for (const Contender& contender : contenders) {
    const int64_t needed = int64_t{config.bench.prompt_tokens} + config.bench.output_tokens;
    if (needed > contender.subject->card().max_context_tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("--prompt-tokens and --output-tokens exceed the context of ",
                       contender.subject->card().max_context_tokens, " tokens"));
    }
  }
  std::printf("%s\n", subject->report().spec_line.c_str());
  PrintPackedCache(subject->report());
  for (const auto& kernel : subject->report().kernels) {
    std::printf("kernel %s: %s (%s)\n", kernel.op.c_str(), kernel.kernel.c_str(),
                kernel.reason.c_str());
  }
  PrintCosts({subject.get(), baseline.get()});
  ASSIGN_OR_RETURN(
      const MachineLimits limits,
      kernels::MeasureMachine(
          {.device = config.engine.device, .threads = subject->report().threads, .brief = true}));
  std::printf(
      "%d threads; measured just now: memory %.1f GB/s, peak %.0f GFLOP/s with %s weights; medians "
      "of %d interleaved rounds\n",
      subject->report().threads, limits.memory_bytes_per_second() / 1e9,
      limits.operations_per_second(subject->weights()) / 1e9, kernels::Name(subject->weights()),
      config.bench.rounds);
  nlohmann::json results = nlohmann::json::array();
  for (const int32_t batch : batch_sizes) {
    const BenchLoad load{batch, config.bench.prompt_tokens, config.bench.output_tokens,
                         static_cast<float>(std::max(0.0, config.generate.temperature))};
    RETURN_IF_ERROR(MeasureAll(load, config.bench.rounds, contenders));
    PrintLoad(load, contenders, limits);
    for (const Contender& contender : contenders) {
      results.push_back(Summary(contender, load, limits));
    }
  }
  if (config.bench.json_file.empty()) return absl::OkStatus();
  std::ofstream file(config.bench.json_file);
  file << results.dump(2) << "\n";
  if (!file.flush()) return absl::UnavailableError("--json-file: cannot be written");
  return absl::OkStatus();
}

}  // namespace

int RunBench(const ServerConfig& config) {
  const absl::Status status = Bench(config);
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "sluice bench: %s\n", std::string(status.message()).c_str());
  return ExitCodeOfLoadError(status);
}

}  // namespace sluice::server
