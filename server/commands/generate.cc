#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine_thread.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/commands/commands.h"
#include "server/commands/startup_report.h"
#include "server/prompt_encoding.h"
#include "server/request_validation.h"

namespace sluice::server {
namespace {

constexpr int64_t kMaxPromptBytes = 8 << 20;

// Prints text as it comes and keeps the last event for the main thread.
class PrintingSink final : public TokenSink {
 public:
  void OnEvent(TokenEvent event) override {
    std::fwrite(event.text.data(), 1, event.text.size(), stdout);
    std::fflush(stdout);
    if (event.finish == FinishReason::kNone) return;
    const absl::MutexLock lock(&mutex_);
    last_ = std::move(event);
    is_done_ = true;
  }

  TokenEvent Wait() {
    const absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&is_done_));
    return last_;
  }

 private:
  absl::Mutex mutex_;
  TokenEvent last_ ABSL_GUARDED_BY(mutex_);
  bool is_done_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::StatusOr<std::string> ReadPrompt(const std::string& flag) {
  std::string prompt = flag;
  if (flag == "-") {
    prompt.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  if (static_cast<int64_t>(prompt.size()) > kMaxPromptBytes) {
    return absl::InvalidArgumentError("the prompt is longer than 8 MiB");
  }
  if (!IsValidUtf8(prompt)) return absl::InvalidArgumentError("the prompt is not UTF-8");
  return prompt;
}

absl::StatusOr<Request> MakeRequest(const GenerateConfig& config, const EngineClient& engine) {
  ASSIGN_OR_RETURN(const std::string prompt, ReadPrompt(config.prompt));
  Request request;
  if (config.chat) {
    ASSIGN_OR_RETURN(request.prompt, EncodeChat({{"user", prompt}}, true, engine));
  } else {
    ASSIGN_OR_RETURN(request.prompt, EncodePrompt(prompt, true, engine.tokenizer()));
  }
  const ModelCard& model = engine.model();
  // The flag is a wish: what the context leaves is what there is.
  request.stop.max_tokens =
      ResolveMaxTokens(std::nullopt, config.max_tokens, request.prompt.size(), model);
  request.sampling = model.sampling_defaults.Params();
  if (config.temperature >= 0.0) {
    request.sampling.temperature = static_cast<float>(config.temperature);
  } else if (!model.sampling_defaults.gives_temperature) {
    request.sampling.temperature = 0.0f;
  }
  request.sampling.seed = static_cast<uint64_t>(config.seed);
  if (!config.routing_mode.empty()) {
    ASSIGN_OR_RETURN(request.routing.mode, ParseRoutingMode(config.routing_mode, model));
  }
  if (config.capacity >= 0.0) request.routing.capacity = config.capacity;
  RETURN_IF_ERROR(ValidateRequest(request, model));
  return request;
}

double Ratio(double part, double whole) { return whole > 0.0 ? part / whole : 0.0; }

void PrintSummary(const Usage& usage, double seconds, bool as_json) {
  const ComputeUsage& compute = usage.compute;
  const auto executed = static_cast<double>(compute.executed_token_layers);
  const auto skipped = static_cast<double>(compute.skipped_token_layers);
  const auto all = static_cast<double>(compute.all_token_layers);
  const auto rows = static_cast<double>(compute.rows);
  const double depth = Ratio(all - skipped, rows);
  if (as_json) {
    const nlohmann::json summary = {{"prompt_tokens", usage.prompt_tokens},
                                    {"completion_tokens", usage.completion_tokens},
                                    {"seconds", seconds},
                                    {"compute",
                                     {{"executed_token_layers", compute.executed_token_layers},
                                      {"skipped_token_layers", compute.skipped_token_layers},
                                      {"skipped_ratio", Ratio(skipped, executed + skipped)},
                                      {"skipped_ratio_all_layers", Ratio(skipped, all)},
                                      {"mean_depth", depth},
                                      {"distinct_experts", compute.distinct_experts},
                                      {"dropped_experts", compute.dropped_experts},
                                      {"flops", compute.flops},
                                      {"dense_flops", compute.dense_flops}}}};
    std::fprintf(stderr, "%s\n", summary.dump().c_str());
    return;
  }
  std::string text = absl::StrFormat("%d prompt tokens, %d generated in %.2f s\n",
                                     usage.prompt_tokens, usage.completion_tokens, seconds);
  absl::StrAppendFormat(&text, "routed layers: %.1f %% of rows skipped (%.1f %% of all layers)\n",
                        100.0 * Ratio(skipped, executed + skipped), 100.0 * Ratio(skipped, all));
  absl::StrAppendFormat(&text, "mean depth %.2f of %.0f layers, %d experts touched\n", depth,
                        Ratio(all, rows), compute.distinct_experts);
  absl::StrAppendFormat(&text, "%.3g FLOPs, %.1f %% of the dense %.3g\n", compute.flops,
                        100.0 * Ratio(compute.flops, compute.dense_flops), compute.dense_flops);
  std::fprintf(stderr, "%s", text.c_str());
}

int Refuse(int code, const absl::Status& status) {
  std::fprintf(stderr, "sluice: %s\n", std::string(status.message()).c_str());
  return code;
}

}  // namespace

int RunGenerate(const ServerConfig& config) {
  const SteadyClock clock;
  StartupReport report(LogFormat::kText, isatty(STDERR_FILENO) == 1, clock);
  absl::StatusOr<LoadedModel> model =
      LoadModel(config.engine, [&report](int64_t done, int64_t total) {
        if (isatty(STDERR_FILENO) == 1) report.Progress(done, total);
      });
  if (!model.ok()) return Refuse(ExitCodeOfLoadError(model.status()), model.status());
  if (!model->report.packed_cache.empty() && !config.generate.json)
    report.Line("packed", model->report.packed_cache);
  EngineThread engine(config.engine, *std::move(model), clock);
  const absl::StatusOr<Request> request = MakeRequest(config.generate, engine);
  if (!request.ok()) return Refuse(kExitUsage, request.status());
  const absl::Duration started_at = clock.Now();
  auto sink = std::make_shared<PrintingSink>();
  const absl::StatusOr<RequestId> id = engine.Submit(*request, sink);
  if (!id.ok()) return Refuse(kExitInternal, id.status());
  const TokenEvent last = sink->Wait();
  std::printf("\n");
  std::fflush(stdout);
  if (last.finish == FinishReason::kError)
    return Refuse(engine.healthy() ? kExitInternal : kExitDeviceLost, last.error);
  if (std::ferror(stdout) != 0) {
    return Refuse(kExitInternal, absl::DataLossError("the text could not be written"));
  }
  PrintSummary(last.usage, absl::ToDoubleSeconds(clock.Now() - started_at), config.generate.json);
  return kExitOk;
}

}  // namespace sluice::server
