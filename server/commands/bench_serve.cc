// `sluice bench serve`: the same load on any OpenAI-compatible server.
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "server/commands/commands.h"
#include "server/load/load_report.h"
#include "server/load/load_run.h"
#include "server/plot/plot_file.h"

namespace sluice::server {
namespace {

absl::StatusOr<LoadTarget> MakeTarget(const LoadConfig& config) {
  absl::StatusOr<ServerAddress> address = ParseServerAddress(config.url);
  if (!address.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--url: ", address.status().message()));
  }
  if (!IsHeaderToken(config.api_key)) {
    return absl::InvalidArgumentError("--api-key: expected printable ASCII without spaces");
  }
  return LoadTarget{.address = *std::move(address),
                    .api_key = config.api_key,
                    .timeout = absl::Seconds(config.timeout_seconds)};
}

LoadPlan MakePlan(const ServerConfig& config) {
  return {.model = config.engine.served_model_name,
          .requests = config.load.requests,
          .warmup_requests = config.load.warmup_requests,
          .rate = config.load.rate,
          .concurrency = config.load.concurrency,
          .output_tokens = config.bench.output_tokens,
          .seed = static_cast<uint64_t>(config.generate.seed)};
}

absl::StatusOr<PromptSource> MakePrompts(const ServerConfig& config) {
  const int32_t tokens = config.bench.prompt_tokens;
  const auto seed = static_cast<uint64_t>(config.generate.seed);
  const std::string& file = config.quality.text_file;
  if (!file.empty()) return PromptSource::Text(file, tokens, seed);
  return PromptSource::TokenIds(tokens, config.load.vocab_size, seed);
}

// A connection for each request in flight: as many as the system allows.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Unavailable when no request was answered.
absl::Status BenchServe(const ServerConfig& config) {
  RETURN_IF_ERROR(CheckPlotFile(config.bench.plot_file));
  ASSIGN_OR_RETURN(LoadTarget target, MakeTarget(config.load));
  ASSIGN_OR_RETURN(PromptSource prompts, MakePrompts(config));
  const LoadPlan plan = MakePlan(config);
  if (!IsValidUtf8(plan.model)) {
    return absl::InvalidArgumentError("--served-model-name: not valid UTF-8");
  }
  const LatencyObjective objective{.ttft_ms = config.load.slo_ttft_ms,
                                   .itl_ms = config.load.slo_itl_ms};
  LoadRun run(std::move(target), plan, std::move(prompts));
  ASSIGN_OR_RETURN(const ServerTraits traits, run.Probe());
  const LoadReport report = MakeLoadReport(run.Measure(), plan, objective);
  if (config.print_json) {
    // Messages of the server may hold anything.
    const std::string text = ToJson(report, plan, traits, objective)
                                 .dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
    std::printf("%s\n", text.c_str());
  } else {
    std::printf("%s\n%s", config.load.url.c_str(), ToText(report, plan, traits, objective).c_str());
  }
  RETURN_IF_ERROR(
      WritePlotFile(config.bench.plot_file,
                    ToSvg(MakeLatencyPlot(report, plan, objective,
                                          absl::StrCat(traits.model, " at ", config.load.url)))));
  if (report.answered > 0 || report.interrupted) return absl::OkStatus();
  return absl::UnavailableError("no request was answered");
}

}  // namespace

int RunBenchServe(const ServerConfig& config) {
  std::signal(SIGPIPE, SIG_IGN);  // a server that goes away is a result
  RaiseFileLimit();
  const absl::Status status = BenchServe(config);
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "sluice bench serve: %s\n", std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitUnavailable;
}

}  // namespace sluice::server
