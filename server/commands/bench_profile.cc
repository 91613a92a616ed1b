// Accounts a decode step and a prefill chunk: every op from inside the backend, sampling and the
// forward pass from around the runner, the rest of the step by subtraction.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_thread.h"
#include "engine/model_runner.h"
#include "engine/status_macros.h"
#include "kernels/machine_limits.h"
#include "kernels/op_profile.h"
#include "nlohmann/json.hpp"
#include "server/commands/bench_run.h"
#include "server/commands/commands.h"

namespace sluice::server {
namespace {

using kernels::MachineLimits;
using kernels::OpCost;
using kernels::OpProfile;
using kernels::WeightFormat;

class Stopwatch {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Passes everything on, and times the forward pass and what the engine does with its logits.
class TimedRunner final : public ModelRunner {
 public:
  explicit TimedRunner(std::unique_ptr<ModelRunner> runner) : runner_(std::move(runner)) {}

  const RunnerFacts& facts() const override { return runner_->facts(); }
  PageBudget& pages() override { return runner_->pages(); }
  const ForwardStats& Run(const Batch& batch,
                          ForwardObserver* observer,
                          LogitsSink logits) override {
    const Stopwatch run;
    const ForwardStats& stats =
        runner_->Run(batch, observer, [&](int32_t index, std::span<float> values) {
          sampled_bytes += static_cast<double>(values.size_bytes());
          const Stopwatch sink;
          logits(index, values);
          sampling_seconds += sink.Seconds();
        });
    run_seconds += run.Seconds();
    return stats;
  }
  void Truncate(KvSequence sequence, int32_t position) override {
    runner_->Truncate(sequence, position);
  }
  void Commit(KvSequence sequence) override { runner_->Commit(sequence); }
  absl::Status device_status() const override { return runner_->device_status(); }
  void Scrub(KvSequence sequence) override { runner_->Scrub(sequence); }
  double DenseFlops(int32_t position, bool with_logits, bool in_encoder) const override {
    return runner_->DenseFlops(position, with_logits, in_encoder);
  }
  const KvCache* cache() const override { return runner_->cache(); }
  kernels::TensorView draft_states() const override { return runner_->draft_states(); }

  double run_seconds = 0.0, sampling_seconds = 0.0;
  double sampled_bytes = 0.0;  // logits, once each

 private:
  const std::unique_ptr<ModelRunner> runner_;
};

// One kind of step, summed over its repetitions.
struct Account {
  std::string name;
  int64_t steps = 0;
  double wall_seconds = 0.0;  // of Engine::Step, without what measuring the ops took
  std::vector<OpCost> ops;    // slowest first
  OpCost sampling;
  double between_seconds = 0.0;  // the forward pass outside of ops: row lists, counts
  double engine_seconds = 0.0;   // the step outside of the forward pass: scheduler, text, metrics
};

class Profiler {
 public:
  static absl::StatusOr<std::unique_ptr<Profiler>> Load(const ServerConfig& config) {
    auto profiler = std::make_unique<Profiler>();
    EngineConfig engine = config.engine;
    engine.op_profile = &profiler->profile_;
    engine.max_batch_tokens =
        std::max({engine.max_batch_tokens, config.bench.prompt_tokens, config.profile.batch});
    engine.max_sequences = std::max(engine.max_sequences, config.profile.batch);
    engine.max_queued_requests = std::max(engine.max_queued_requests, engine.max_sequences);
    engine.max_queued_tokens =
        std::max(engine.max_queued_tokens, int64_t{config.profile.batch} * config.profile.context +
                                               config.bench.prompt_tokens);
    ASSIGN_OR_RETURN(LoadedModel model, LoadModel(engine, nullptr));
    profiler->card_ = model.card;
    profiler->report_ = std::move(model.report);
    profiler->tokenizer_ = std::move(model.tokenizer);
    auto runner = std::make_unique<TimedRunner>(std::move(model.runner));
    profiler->runner_ = runner.get();
    profiler->engine_ =
        std::make_unique<Engine>(Engine::Parts{.config = engine,
                                               .card = std::move(model.card),
                                               .runner = std::move(runner),
                                               .tokenizer = profiler->tokenizer_.get(),
                                               .clock = &profiler->clock_});
    return profiler;
  }

  // Steps in which every one of `batch` sequences decodes one token.
  absl::StatusOr<Account> Decode(const ProfileConfig& load, int32_t rounds) {
    std::vector<std::shared_ptr<StartSink>> sinks;
    // Those that start first decode while the others' prompts are read: at least 16 rows a step, or
    // a prompt.
    const int64_t starting = int64_t{load.batch} * (load.context / 16 + 2);
    const auto room = static_cast<int64_t>(card_.max_context_tokens) - load.context;
    const auto tokens = static_cast<int32_t>(std::min(rounds + 4 + starting, room));
    for (int32_t s = 0; s < load.batch; ++s) {
      sinks.push_back(std::make_shared<StartSink>());
      RETURN_IF_ERROR(Submit(s, {load.batch, load.context, tokens}, sinks.back()));
    }
    const auto started = [](const auto& sink) { return sink->started; };
    while (!std::all_of(sinks.begin(), sinks.end(), started) && engine_->Step()) {
    }
    engine_->Step();  // warm-up
    Begin();
    for (int32_t i = 0; i < rounds; ++i) TimeStep();
    Account account = End("decode step");
    // Less than all of them would be another step than the one that was asked for.
    const auto decoding = static_cast<int32_t>(engine_->num_active());
    engine_->CancelAll("bench");
    if (decoding == load.batch) return account;
    return absl::FailedPreconditionError(absl::StrCat(
        "only ", decoding, " of ", load.batch,
        " sequences decoded to the end; lower --batch, --context or --rounds, or raise "
        "--kv-memory"));
  }

  // Steps that read one prompt, and give its first token.
  absl::StatusOr<Account> Prefill(int32_t prompt_tokens, int32_t rounds) {
    for (int32_t i = 0; i <= rounds; ++i) {
      if (i == 1) Begin();  // the first is a warm-up
      RETURN_IF_ERROR(Submit(i, {1, prompt_tokens, 1}, std::make_shared<StartSink>()));
      while (engine_->num_active() > 0 && TimeStep()) {
      }
    }
    return End("prefill chunk");
  }

  const EngineReport& report() const { return report_; }

 private:
  struct StartSink final : TokenSink {
    void OnEvent(TokenEvent event) override { started |= !event.tokens.empty(); }
    bool started = false;
  };

  absl::Status Submit(int32_t index, const BenchLoad& load, std::shared_ptr<TokenSink> sink) {
    return engine_->Submit(RequestId{next_id_++}, BenchRequest(card_, load, index),
                           std::move(sink));
  }

  void Begin() {
    profile_.Reset();
    runner_->run_seconds = runner_->sampling_seconds = runner_->sampled_bytes = 0.0;
    wall_seconds_ = 0.0;
    steps_ = 0;
  }

  bool TimeStep() {
    const Stopwatch step;
    const bool ran = engine_->Step();
    wall_seconds_ += step.Seconds();
    ++steps_;
    return ran;
  }

  Account End(std::string name) const {
    Account account{.name = std::move(name), .steps = steps_};
    const double measuring = profile_.bookkeeping_seconds();
    account.wall_seconds = wall_seconds_ - measuring;
    account.ops = profile_.costs();
    std::sort(account.ops.begin(), account.ops.end(),
              [](const OpCost& a, const OpCost& b) { return a.seconds > b.seconds; });
    account.sampling = {.op = "sampling",
                        .calls = steps_,
                        .seconds = runner_->sampling_seconds,
                        .bytes = runner_->sampled_bytes,
                        .operations = runner_->sampled_bytes / sizeof(float)};  // compared once
    account.between_seconds =
        runner_->run_seconds - runner_->sampling_seconds - profile_.seconds() - measuring;
    account.engine_seconds = wall_seconds_ - runner_->run_seconds;
    return account;
  }

  SteadyClock clock_;
  OpProfile profile_;
  ModelCard card_;
  EngineReport report_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  TimedRunner* runner_ = nullptr;  // of engine_
  uint64_t next_id_ = 1;
  double wall_seconds_ = 0.0;
  int64_t steps_ = 0;
};

nlohmann::json ToJson(const Account& account) {
  const auto steps = static_cast<double>(account.steps);
  nlohmann::json rows = nlohmann::json::array();
  for (const OpCost& op : account.ops) {
    rows.push_back({{"op", op.op},
                    {"label", op.label},
                    {"weights", kernels::Name(op.weights)},
                    {"calls", static_cast<double>(op.calls) / steps},
                    {"seconds", op.seconds / steps},
                    {"bytes", op.bytes / steps},
                    {"operations", op.operations / steps}});
  }
  return {{"name", account.name},
          {"steps", account.steps},
          {"seconds", account.wall_seconds / steps},
          {"ops", rows},
          {"sampling_seconds", account.sampling.seconds / steps},
          {"sampling_bytes", account.sampling.bytes / steps},
          {"sampling_operations", account.sampling.operations / steps},
          {"between_ops_seconds", account.between_seconds / steps},
          {"engine_seconds", account.engine_seconds / steps}};
}

void PrintRow(const std::string& name, double calls, double seconds, double share) {
  std::printf("  %-34s %7.1f %9.3f %6.1f%%", name.c_str(), calls, seconds * 1e3, share * 100);
}

void PrintOp(const OpCost& op, const Account& account, const MachineLimits& limits) {
  const auto steps = static_cast<double>(account.steps);
  PrintRow(std::string(op.op) + (op.label.empty() ? "" : " ") + std::string(op.label),
           static_cast<double>(op.calls) / steps, op.seconds / steps,
           op.seconds / account.wall_seconds);
  const double seconds = std::max(op.seconds, 1e-9);
  const double bytes_rate = op.bytes / seconds;
  const double rate = op.operations / seconds;
  std::printf(" %9.2f %7.2f %5.0f%% %9.1f %8.1f %5.0f%%\n", op.bytes / steps / 1e6,
              bytes_rate / 1e9, 100 * bytes_rate / limits.memory_bytes_per_second(),
              op.operations / steps / 1e6, rate / 1e9,
              100 * rate / limits.operations_per_second(op.weights));
}

void Print(const Account& account, const MachineLimits& limits) {
  const auto steps = static_cast<double>(account.steps);
  std::printf("\n%s: %.3f ms (mean of %d)\n", account.name.c_str(),
              account.wall_seconds / steps * 1e3, static_cast<int>(account.steps));
  std::printf("  %-34s %7s %9s %7s %9s %7s %6s %9s %8s %6s\n", "op", "calls", "ms", "share", "MB",
              "GB/s", "of mem", "MFLOP", "GFLOP/s", "of peak");
  for (const OpCost& op : account.ops) PrintOp(op, account, limits);
  PrintOp(account.sampling, account, limits);
  const auto rest = [&](const char* name, double seconds) {
    PrintRow(name, 1.0, seconds / steps, seconds / account.wall_seconds);
    std::printf("\n");
  };
  double by_op = account.sampling.seconds;
  for (const OpCost& op : account.ops) by_op += op.seconds;
  rest("between ops (row lists, counts)", account.between_seconds);
  rest("engine (scheduler, text, metrics)", account.engine_seconds);
  std::printf("  by op, with sampling: %.1f %% of the step\n", 100 * by_op / account.wall_seconds);
}

absl::Status Profile(const ServerConfig& config) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Profiler> profiler, Profiler::Load(config));
  ASSIGN_OR_RETURN(
      const MachineLimits limits,
      kernels::MeasureMachine(
          {.device = config.engine.device, .threads = profiler->report().threads, .brief = true}));
  ASSIGN_OR_RETURN(const Account decode, profiler->Decode(config.profile, config.bench.rounds));
  ASSIGN_OR_RETURN(const Account prefill,
                   profiler->Prefill(config.bench.prompt_tokens, config.bench.rounds));
  if (config.print_json) {
    const nlohmann::json json = {{"memory_bytes_per_second", limits.memory_bytes_per_second()},
                                 {"operations_per_second",
                                  {{"f32", limits.operations_per_second(WeightFormat::kF32)},
                                   {"bf16", limits.operations_per_second(WeightFormat::kBF16)},
                                   {"int8", limits.operations_per_second(WeightFormat::kInt8)}}},
                                 {"handover_seconds", limits.handover_seconds},
                                 {"threads", limits.threads},
                                 {"accounts", {ToJson(decode), ToJson(prefill)}}};
    std::printf("%s\n", json.dump(2).c_str());
    return absl::OkStatus();
  }
  std::printf("%s\n", profiler->report().spec_line.c_str());
  PrintPackedCache(profiler->report());
  if (!limits.device.empty()) {
    std::printf("%s\nevery op is waited for, so that its time is its own: steps take longer here\n",
                limits.device.c_str());
  }
  std::printf(
      "%d threads; measured just now: memory %.1f GB/s, peak %.0f GFLOP/s in f32, %.0f with bf16, "
      "%.0f with int8 weights, hand-over %.2f us\n",
      limits.threads, limits.memory_bytes_per_second() / 1e9,
      limits.operations_per_second(WeightFormat::kF32) / 1e9,
      limits.operations_per_second(WeightFormat::kBF16) / 1e9,
      limits.operations_per_second(WeightFormat::kInt8) / 1e9, limits.handover_seconds * 1e6);
  std::printf(
      "decode: %d sequences of %d tokens; prefill: %d tokens. MB: weights, keys and values; of "
      "other "
      "ops the rows that they read and write\n",
      config.profile.batch, config.profile.context, config.bench.prompt_tokens);
  Print(decode, limits);
  Print(prefill, limits);
  return absl::OkStatus();
}

}  // namespace

int RunBenchProfile(const ServerConfig& config) {
  const absl::Status status = Profile(config);
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "sluice bench profile: %s\n", std::string(status.message()).c_str());
  return ExitCodeOfLoadError(status);
}

}  // namespace sluice::server
