#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/status_macros.h"
#include "kernels/machine_limits.h"
#include "nlohmann/json.hpp"
#include "server/commands/bench_report.h"
#include "server/commands/bench_run.h"
#include "server/commands/commands.h"
#include "server/plot/plot_file.h"

namespace sluice::server {
namespace {

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

// Interleaved, every second round in reverse order, so that drift of the machine hits all alike.
absl::StatusOr<MeasuredLoad> MeasureAll(const BenchLoad& load,
                                        int32_t rounds,
                                        std::vector<Contender> contenders) {
  for (Contender& contender : contenders) {
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
  return MeasuredLoad{load, std::move(contenders)};
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
void PrintCosts(const std::vector<const BenchSubject*>& subjects, int64_t peak_resident_bytes) {
  for (const BenchSubject* subject : subjects) {
    if (subject == nullptr) continue;
    std::printf("%s loaded in %.2f s\n", subject->card().id.c_str(), subject->load_seconds());
  }
  std::printf("most memory while loading: %.0f MB\n",
              static_cast<double>(peak_resident_bytes) / 1e6);
}

absl::Status WriteJson(const std::string& path, const nlohmann::json& results) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path);
  file << results.dump(2) << "\n";
  if (!file.flush()) return absl::UnavailableError("--json-file: cannot be written");
  return absl::OkStatus();
}

// With room for every load.
EngineConfig EngineFor(const ServerConfig& config, const std::vector<int32_t>& batch_sizes) {
  EngineConfig engine = config.engine;
  engine.max_sequences =
      std::max(engine.max_sequences, *std::max_element(batch_sizes.begin(), batch_sizes.end()));
  engine.max_queued_requests = std::max(engine.max_queued_requests, engine.max_sequences);
  engine.max_queued_tokens = std::max<int64_t>(
      engine.max_queued_tokens, int64_t{engine.max_sequences} * config.bench.prompt_tokens);
  return engine;
}

absl::Status Bench(const ServerConfig& config, const std::vector<int32_t>& batch_sizes) {
  SteadyClock clock;
  const EngineConfig engine = EngineFor(config, batch_sizes);
  ASSIGN_OR_RETURN(const auto subject, BenchSubject::Load(engine, "model", clock));
  ASSIGN_OR_RETURN(const auto baseline, LoadBaseline(config.bench, engine, clock));
  if (baseline != nullptr && config.bench.baseline.empty() &&
      baseline->report().weights == subject->report().weights) {
    return absl::FailedPreconditionError(
        absl::StrCat("--baseline-weights: the model has ", subject->report().weights,
                     " weights itself, so there is nothing to compare with"));
  }
  const std::vector<Contender> contenders = ListContenders(subject.get(), baseline.get());
  for (const Contender& contender : contenders) {
    const int64_t needed = int64_t{config.bench.prompt_tokens} + config.bench.output_tokens;
    if (needed > contender.subject->card().max_context_tokens) {
      return absl::FailedPreconditionError(
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
  BenchSetting setting{.rounds = config.bench.rounds,
                       .load_peak_resident_bytes = PeakResidentBytes()};
  PrintCosts({subject.get(), baseline.get()}, setting.load_peak_resident_bytes);
  ASSIGN_OR_RETURN(setting.limits, kernels::MeasureMachine({.device = config.engine.device,
                                                            .threads = subject->report().threads,
                                                            .brief = true}));
  std::printf("%s\n", MachineLine(setting, *subject).c_str());
  std::vector<MeasuredLoad> loads;
  for (const int32_t batch : batch_sizes) {
    const BenchLoad load{batch, config.bench.prompt_tokens, config.bench.output_tokens,
                         static_cast<float>(std::max(0.0, config.generate.temperature))};
    ASSIGN_OR_RETURN(MeasuredLoad measured, MeasureAll(load, config.bench.rounds, contenders));
    PrintLoad(measured, setting);
    loads.push_back(std::move(measured));
  }
  absl::Status written = WriteJson(config.bench.json_file, ToJson(loads, setting));
  written.Update(WritePlotFile(config.bench.plot_file, ToSvg(MakeSpeedPlot(loads, setting))));
  return written;
}

int Refuse(const absl::Status& status, int exit_code) {
  std::fprintf(stderr, "sluice bench: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

}  // namespace

int RunBench(const ServerConfig& config) {
  const absl::StatusOr<std::vector<int32_t>> batch_sizes =
      ParseBatchSizes(config.bench.batch_sizes);
  if (!batch_sizes.ok()) return Refuse(batch_sizes.status(), kExitUsage);
  if (const absl::Status plot = CheckPlotFile(config.bench.plot_file); !plot.ok())
    return Refuse(plot, kExitUsage);
  if (!config.bench.plot_file.empty() && config.bench.plot_file == config.bench.json_file)
    return Refuse(absl::InvalidArgumentError("--plot and --json-file name the same file"),
                  kExitUsage);
  const absl::Status status = Bench(config, *batch_sizes);
  return status.ok() ? kExitOk : Refuse(status, ExitCodeOfLoadError(status));
}

}  // namespace sluice::server
