// `sluice bench quality`: what rounding the weights does to the next-token distribution. Both forms
// of the model read the same windows of a text side by side.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine_thread.h"
#include "engine/model_runner.h"
#include "engine/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/commands/bench_run.h"
#include "server/commands/commands.h"
#include "server/commands/next_token_comparison.h"

namespace sluice::server {
namespace {

constexpr int32_t kDefaultWindow = 256;
constexpr size_t kFewestTokens = 16;
constexpr int64_t kMaxTextBytes = 64 << 20;

// Simple words, which every tokenizer knows. For numbers that say something about a model, bring a
// text of the kind that it will see.
constexpr char kBuiltInText[] =
    "Once upon a time there was a small town by the sea. In the town lived a girl named Ann and "
    "her little dog. Every morning they walked to the harbor to look at the boats. One day the "
    "wind was strong and the waves were high, and an old man could not bring his boat to the "
    "shore. Ann saw that he was tired. She ran to the house of her uncle and asked for a long "
    "rope. Her uncle came with two friends, and they threw the rope to the old man. They pulled "
    "and pulled until the boat was safe. The old man was very happy. He thanked Ann and gave her "
    "a shell that he had found far away. When she held the shell to her ear she could hear the "
    "sea. That night she put it next to her bed, and the dog slept beside it. From then on, when "
    "the wind was strong, Ann went to the harbor to see if somebody needed help. The people of the "
    "town said that she was kind and brave. She said that she had only looked, and that anybody "
    "who looks can see what there is to do.\n";

absl::StatusOr<std::string> ReadText(const std::string& path) {
  if (path.empty()) return std::string(kBuiltInText);
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat("--text: ", path, " is a directory"));
  }
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::NotFoundError(absl::StrCat("--text: ", path, " cannot be opened"));
  const int64_t bytes = file.tellg();
  if (bytes < 0) return absl::NotFoundError(absl::StrCat("--text: ", path, " is no file"));
  if (bytes > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("--text: ", path, " is larger than 64 MiB"));
  }
  std::string text(static_cast<size_t>(bytes), '\0');
  file.seekg(0);
  if (!file.read(text.data(), bytes)) {
    return absl::NotFoundError(absl::StrCat("--text: ", path, " cannot be read"));
  }
  return text;
}

absl::StatusOr<std::vector<int32_t>> ReadTokens(const QualityConfig& config,
                                                const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(config.text_file));
  const std::string name = config.text_file.empty() ? "the built-in text" : config.text_file;
  absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(text, {});
  if (!tokens.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--text: ", name, ": ", std::string(tokens.status().message())));
  }
  if (tokens->size() < kFewestTokens) {
    return absl::InvalidArgumentError(absl::StrCat("--text: ", name, " has ", tokens->size(),
                                                   " tokens; at least ", kFewestTokens,
                                                   " are needed"));
  }
  tokens->resize(std::min(tokens->size(), static_cast<size_t>(config.tokens)));
  return tokens;
}

// What a model without a next-token distribution, or of another kind of prompt, is told.
absl::Status CheckKind(const ModelCard& card) {
  if (card.embedding_size > 0) {
    return absl::UnimplementedError(absl::StrCat("bench quality compares next tokens; ",
                                                 card.family, " is an encoder and has none"));
  }
  if (card.decoder_start_token >= 0) {
    return absl::UnimplementedError(
        absl::StrCat("bench quality reads a text from left to right; the text of ", card.family,
                     " goes to its encoder"));
  }
  return absl::OkStatus();
}

// Runs `tokens` as a sequence of its own in one step, so that models that route over a whole prompt
// can be compared too.
absl::Status RunWindow(std::span<const int32_t> tokens, ModelRunner& runner, LogitsSink sink) {
  const auto count = static_cast<int32_t>(tokens.size());
  ASSIGN_OR_RETURN(const KvSequence sequence, runner.pages().Open());
  absl::Status status = runner.pages().Reserve(sequence, count);
  if (status.ok()) {
    std::vector<int32_t> positions, wanted;
    for (int32_t i = 0; i < count; ++i) positions.push_back(i);
    wanted.assign(positions.begin(), positions.end() - 1);  // the last has no next token
    const std::vector<KvSequence> sequences(tokens.size(), sequence);
    const std::vector<uint8_t> is_prompt(tokens.size(), 1);
    const std::vector<RowRouting> routing(tokens.size());
    const Batch batch{.tokens = tokens,
                      .positions = positions,
                      .sequences = sequences,
                      .is_prompt = is_prompt,
                      .routing = routing,
                      .wanted = wanted};
    runner.Run(batch, nullptr, sink);
    status = runner.device_status();
    runner.Commit(sequence);
  }
  runner.pages().Free(sequence);
  return status;
}

absl::StatusOr<NextTokenDistance> Compare(const std::vector<int32_t>& tokens,
                                          size_t window,
                                          ModelRunner& subject,
                                          ModelRunner& baseline) {
  NextTokenComparison comparison;
  const auto vocab = static_cast<size_t>(subject.facts().vocab_size);
  std::vector<float> kept((window - 1) * vocab);
  for (size_t begin = 0; begin + 1 < tokens.size(); begin += window) {
    const auto run = std::span(tokens).subspan(begin, std::min(window, tokens.size() - begin));
    if (run.size() < 2) break;
    RETURN_IF_ERROR(RunWindow(run, baseline, [&](int32_t index, std::span<float> logits) {
      std::copy(logits.begin(), logits.end(),
                kept.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(index) * vocab));
    }));
    bool finite = true;
    RETURN_IF_ERROR(RunWindow(run, subject, [&](int32_t index, std::span<float> logits) {
      const auto i = static_cast<size_t>(index);
      finite &= comparison.Add(logits, std::span(kept).subspan(i * vocab, vocab), run[i + 1]);
    }));
    if (!finite) {
      return absl::DataLossError(absl::StrCat("logits that are not finite between tokens ", begin,
                                              " and ", begin + run.size()));
    }
  }
  return comparison.Distance();
}

void Print(const NextTokenDistance& distance,
           const std::string& subject,
           const std::string& baseline) {
  std::printf("%lld positions\n", static_cast<long long>(distance.positions));
  std::printf("perplexity: %s %.4f, %s %.4f (%+.3f %%)\n", subject.c_str(),
              distance.subject_perplexity, baseline.c_str(), distance.baseline_perplexity,
              100.0 * (distance.subject_perplexity / distance.baseline_perplexity - 1.0));
  std::printf("KL(%s || %s): mean %.3e, p99 %.3e, largest %.3e nats\n", baseline.c_str(),
              subject.c_str(), distance.mean_divergence, distance.p99_divergence,
              distance.largest_divergence);
  std::printf("most probable token agrees: %.2f %%\n", 100.0 * distance.top_agreement);
}

absl::Status WriteJson(const NextTokenDistance& distance,
                       const std::string& subject,
                       const std::string& baseline,
                       const std::string& path) {
  const nlohmann::json json = {{"weights", subject},
                               {"baseline_weights", baseline},
                               {"positions", distance.positions},
                               {"perplexity", distance.subject_perplexity},
                               {"baseline_perplexity", distance.baseline_perplexity},
                               {"kl_mean", distance.mean_divergence},
                               {"kl_p99", distance.p99_divergence},
                               {"kl_max", distance.largest_divergence},
                               {"top_agreement", distance.top_agreement}};
  std::ofstream file(path);
  file << json.dump(2) << "\n";
  if (!file.flush()) return absl::UnavailableError("--json-file: cannot be written");
  return absl::OkStatus();
}

absl::Status Quality(const ServerConfig& config) {
  EngineConfig engine = config.engine;
  engine.max_sequences = 1;
  engine.max_batch_tokens = config.quality.window > 0 ? config.quality.window : kDefaultWindow;
  EngineConfig other = engine;
  const std::string& weights = config.bench.baseline_weights;
  other.packed_cache.clear();  // for the model that is served
  other.weights = weights == "same" ? kernels::WeightFormat::kBF16 : WeightFormatOf(weights);
  ASSIGN_OR_RETURN(const LoadedModel subject, LoadModel(engine, nullptr));
  RETURN_IF_ERROR(CheckKind(subject.card));
  const int32_t context =
      std::min(subject.card.max_context_tokens, subject.card.kv_capacity_tokens);
  if (config.quality.window == 1 || config.quality.window > context) {
    return absl::InvalidArgumentError(
        absl::StrCat("--window: expected 2 to ", context, ", the context of the model"));
  }
  const int32_t window = std::min(engine.max_batch_tokens, context);
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                   ReadTokens(config.quality, *subject.tokenizer));
  ASSIGN_OR_RETURN(const LoadedModel baseline, LoadModel(other, nullptr));
  if (baseline.report.weights == subject.report.weights) {
    return absl::InvalidArgumentError(
        absl::StrCat("--weights and --baseline-weights are both ", subject.report.weights));
  }
  std::printf("%s\n", subject.report.spec_line.c_str());
  PrintPackedCache(subject.report);
  std::printf("%s of %zu tokens, windows of %d\n",
              config.quality.text_file.empty() ? "built-in text" : config.quality.text_file.c_str(),
              tokens.size(), window);
  ASSIGN_OR_RETURN(const NextTokenDistance distance,
                   Compare(tokens, static_cast<size_t>(window), *subject.runner, *baseline.runner));
  Print(distance, subject.report.weights, baseline.report.weights);
  if (config.bench.json_file.empty()) return absl::OkStatus();
  return WriteJson(distance, subject.report.weights, baseline.report.weights,
                   config.bench.json_file);
}

}  // namespace

int RunBenchQuality(const ServerConfig& config) {
  const absl::Status status = Quality(config);
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "sluice bench quality: %s\n", std::string(status.message()).c_str());
  return ExitCodeOfLoadError(status);
}

}  // namespace sluice::server
