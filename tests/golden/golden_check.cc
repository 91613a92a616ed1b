#include "tests/golden/golden_check.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/model/prompt_rules.h"
#include "engine/status_macros.h"
#include "tests/golden/golden_compare.h"
#include "tests/golden/layer_check.h"

namespace sluice {
namespace {

constexpr size_t kMaxTokens = 4'096;

// Reference outputs are f32 or float64, ours f32 in another order of summation. The README of the
// shared fixtures states theirs.
constexpr FamilyTolerance kOwnF32[] = {{"", {2e-5f, 3e-6f}}};
constexpr FamilyTolerance kSharedF32[] = {{"mod", {2e-5f, 1e-6f}},
                                          {"mor", {2e-5f, 1e-6f}},
                                          {"sut", {2e-5f, 1e-6f}},
                                          {"", {1e-5f, 1e-6f}}};
// Weights, activations before each product, keys and values rounded to 8 bits. Measured on both
// devices: at most 0.024 + 0.024 max|x| (mod-topk-strict), no depth decision differs. MoEUT's
// fixtures choose among many nearly equal experts: up to 2.6 % of the choices of a layer differ,
// which adds up to 0.059 + 0.059 max|x|.
// SUT's choose the same way: 2 of 96 choices, and 1 of 48 rows halts a step later.
constexpr FamilyTolerance kBf16[] = {
    {"moeut", {8e-2f, 8e-2f}, 0.05f}, {"sut", {4e-2f, 4e-2f}, 0.03f, 0.03f}, {"", {4e-2f, 4e-2f}}};

// Weights and the inputs of each product rounded to 8 bits with one scale a row. Where a choice
// falls the other way its rows become other rows: compared is what stands in front of the first.
// Measured on the cpu device: 0.084 of the expected size (a predictor of mod).
constexpr FamilyTolerance kInt8[] = {{"", {}, 0.0f, 0.0f, 0.1f}};

// Weights in 4 bits, compared in the same way: these models are so narrow that only a gross error
// shows (of the product int8_test and int4_test are the tests), but every way of running must give
// the same bits. Measured on the cpu device: 0.32, and where the same layers run again and again
// 0.51 (ouro) and 0.43 (mor).
constexpr FamilyTolerance kInt4[] = {
    {"ouro", {}, 0.0f, 0.0f, 0.6f}, {"mor", {}, 0.0f, 0.0f, 0.5f}, {"", {}, 0.0f, 0.0f, 0.4f}};

FamilyTolerance ToleranceOf(const OpenGolden& golden, const CheckOptions& options) {
  std::span<const FamilyTolerance> table = kOwnF32;
  if (golden.scratch != nullptr) table = kSharedF32;
  if (options.weights == kernels::WeightFormat::kBF16) table = kBf16;
  if (options.weights == kernels::WeightFormat::kInt8) table = kInt8;
  if (options.weights == kernels::WeightFormat::kInt4) table = kInt4;
  const std::string& family = golden.run->spec().family;
  return *std::find_if(table.begin(), table.end() - 1,
                       [&family](const FamilyTolerance& entry) { return family == entry.family; });
}

std::vector<int32_t> Lengths(const std::vector<std::vector<int32_t>>& tokens) {
  std::vector<int32_t> lengths;
  for (const auto& list : tokens) lengths.push_back(static_cast<int32_t>(list.size()));
  return lengths;
}

// Stored tensors without anything of ours to hold against them.
struct Reason {
  const char* family;
  const char* prefix;  // of the name
  const char* why;
};
constexpr Reason kReasons[] = {
    {"huginn", "given_s0.", "a start state of the caller's own, which no request has"},
    {"huginn", "ring", "one row of keys and values for all steps: refused (halted_kv ring)"},
    {"huginn", "steps", "another num_steps: recurrent_golden_test"},
    {"huginn", "rel_diff.", "as exits: recurrent_golden_test"},
    {"sut", "halt.", "an expected depth, which only the loss reads; nothing stops before step 0"},
};

std::string WhyNotCompared(const std::string& family, const std::string& name) {
  for (const Reason& reason : kReasons) {
    if (family == reason.family && absl::StartsWith(name, reason.prefix)) return reason.why;
  }
  return "";
}

// Decision 1 of the design: however the rows are split and whoever is beside them, the same bits.
// `whole`: prompts must not be split.
absl::Status CheckWays(const std::vector<std::vector<int32_t>>& tokens,
                       const std::vector<SequenceTrace>& once,
                       bool whole,
                       const RowRouting& routing,
                       GoldenRun& run,
                       GoldenReport& report) {
  const std::vector<int32_t> lengths = Lengths(tokens);
  for (const int32_t chunk : {7, 1}) {
    if (whole) break;
    ASSIGN_OR_RETURN(const auto split, run.Run(tokens, InChunks(lengths, chunk), routing));
    if (split != once) report.wrong_ways.push_back(absl::StrCat("chunks of ", chunk));
  }
  // Each sequence behind its own reverse.
  for (size_t s = 0; s < tokens.size(); ++s) {
    const std::vector<int32_t> other(tokens[s].rbegin(), tokens[s].rend());
    for (const int32_t chunk : {lengths[s], 5, 1}) {
      if (whole && chunk < lengths[s]) continue;
      ASSIGN_OR_RETURN(
          const auto pair,
          run.Run({other, tokens[s]}, Together({lengths[s], lengths[s]}, chunk), routing));
      if (pair[1] != once[s])
        report.wrong_ways.push_back(absl::StrCat("beside another, chunks of ", chunk));
    }
  }
  return absl::OkStatus();
}

// The first half of a sequence is its prompt, the others are generated rows: one by one alone, and
// while another sequence generates and a third one brings its prompt.
absl::Status CheckGenerating(const std::vector<int32_t>& tokens,
                             GoldenRun& run,
                             GoldenReport& report) {
  const auto length = static_cast<int32_t>(tokens.size());
  const int32_t half = std::max(1, length / 2);
  const std::vector<int32_t> other(tokens.rbegin(), tokens.rend());
  std::vector<Step> alone = {{{0, 0, half}}};
  std::vector<Step> beside = {{{1, 0, half}, {2, 0, half}}};  // the last one is what is compared
  for (int32_t t = half; t < length; ++t) {
    alone.push_back({{0, t, t + 1}});
    Step step = {{1, t, t + 1}, {2, t, t + 1}};
    if (t == half) step.insert(step.begin(), {0, 0, half});
    beside.push_back(std::move(step));
  }
  run.set_prompt_tokens(half);
  const auto once = run.Run({tokens}, alone);
  const auto crowd = run.Run({other, other, tokens}, beside);
  run.set_prompt_tokens(std::numeric_limits<int32_t>::max());
  RETURN_IF_ERROR(once.status());
  RETURN_IF_ERROR(crowd.status());
  if (crowd->back() != once->front()) report.wrong_ways.push_back("generating beside others");
  return absl::OkStatus();
}

// The members of a cohort go on together, in steps of any length, beside others or not.
absl::Status CheckCohortWays(const std::vector<std::vector<int32_t>>& tokens,
                             const std::vector<SequenceTrace>& once,
                             GoldenRun& run,
                             GoldenReport& report) {
  std::vector<std::vector<int32_t>> with_other = tokens;
  with_other.emplace_back(tokens.front().rbegin(), tokens.front().rend());
  for (const int32_t chunk : {static_cast<int32_t>(tokens.front().size()), 7, 1}) {
    ASSIGN_OR_RETURN(const auto split,
                     run.Run(tokens, Together(Lengths(tokens), chunk), {}, tokens.size()));
    if (split != once) report.wrong_ways.push_back(absl::StrCat("a cohort in chunks of ", chunk));
    ASSIGN_OR_RETURN(auto beside,
                     run.Run(with_other, Together(Lengths(with_other), chunk), {}, tokens.size()));
    beside.pop_back();
    if (beside != once)
      report.wrong_ways.push_back(absl::StrCat("a cohort beside another, chunks of ", chunk));
  }
  return absl::OkStatus();
}

}  // namespace

bool GoldenReport::ok() const { return first_wrong().empty() && wrong_ways.empty(); }

std::string GoldenReport::first_wrong() const {
  for (const TensorResult& tensor : tensors) {
    if (!tensor.ok()) return tensor.name;
  }
  return "";
}

std::vector<GoldenCase> GoldenCases(const ExpectedTensors& expected) {
  std::vector<GoldenCase> cases;
  for (const char* prefix : {"", "short.", "single."}) {
    if (!GoldenTokens(expected, prefix).empty()) cases.push_back({prefix});
  }
  if (!GoldenTokens(expected, "capacity.").empty())
    cases.push_back({.prefix = "capacity.", .routing = {RowRouting::Decide::kCapacity}});
  for (const auto& entry : expected) {
    absl::string_view name = entry.first;
    if (!absl::ConsumeSuffix(&name, "logits")) continue;
    GoldenCase found{std::string(name)};
    absl::string_view kind = name;
    absl::ConsumeSuffix(&kind, ".");
    int32_t number = 0;
    if (absl::ConsumePrefix(&kind, "isolated") && absl::SimpleAtoi(kind, &number)) {
      found.first = static_cast<size_t>(std::max(0, number));
    } else if (kind == "cohort" || absl::StartsWith(kind, "partial")) {
      found.cohort = true;
    } else {
      continue;
    }
    if (!GoldenTokens(expected, found).empty()) cases.push_back(std::move(found));
  }
  return cases;
}

std::vector<std::vector<int32_t>> GoldenTokens(const ExpectedTensors& expected,
                                               const GoldenCase& which) {
  const auto ids = expected.find("input_ids");
  const auto logits = expected.find(which.prefix + "logits");
  if (ids == expected.end() || logits == expected.end()) return {};
  if (ids->second.shape.empty()) return {};
  const auto length = static_cast<size_t>(ids->second.shape.back());
  const auto& shape = logits->second.shape;
  if (shape.size() < 2) return {};
  const auto count = shape.size() == 3 ? static_cast<size_t>(shape[0]) : 1;
  const auto kept = static_cast<size_t>(shape[shape.size() - 2]);
  const size_t stored = length == 0 ? 0 : ids->second.integers.size() / length;
  if (stored == 0 || kept > length || count > stored || which.first > stored - count) return {};
  std::vector<std::vector<int32_t>> tokens;
  for (size_t s = 0; s < count; ++s) {
    const auto begin =
        ids->second.integers.begin() + static_cast<int64_t>((which.first + s) * length);
    tokens.emplace_back(begin, begin + static_cast<int64_t>(kept));
  }
  return tokens;
}

absl::StatusOr<OpenGolden> OpenGoldenFolder(const std::string& folder,
                                            const CheckOptions& options) {
  OpenGolden golden;
  ASSIGN_OR_RETURN(golden.expected, ReadExpected(folder, "expected.safetensors"));
  std::string served = folder;
  if (!std::filesystem::exists(folder + "/model.safetensors") &&
      !std::filesystem::exists(folder + "/model.gguf")) {
    const std::string name = std::filesystem::path(folder).lexically_normal().filename().string();
    golden.scratch = std::make_unique<ScratchDirectory>(
        absl::StrCat(name, "-", options.device, "-", static_cast<int>(options.weights)));
    RETURN_IF_ERROR(WriteServedModel(folder, golden.scratch->path()));
    RETURN_IF_ERROR(RenameExpected(folder, golden.expected));
    served = golden.scratch->path();
  }
  if (golden.expected.count("input_ids") == 0 ||
      golden.expected["input_ids"].integers.size() > kMaxTokens ||
      GoldenCases(golden.expected).empty()) {
    return absl::InvalidArgumentError(folder +
                                      "/expected.safetensors: no input_ids that fit its logits");
  }
  EngineConfig config;
  config.device = options.device;
  config.weights = options.weights;
  config.threads = 2;
  config.max_sequences = 4;
  for (const GoldenCase& which : GoldenCases(golden.expected)) {
    const auto tokens = GoldenTokens(golden.expected, which);
    size_t rows = 2 * (tokens.front().size() + 64);  // an encoder's prompt beside them
    if (which.cohort) {                              // in one step, with another sequence
      rows = (tokens.size() + 1) * tokens.front().size();
      config.max_sequences =
          std::max(config.max_sequences, static_cast<int32_t>(tokens.size()) + 1);
    }
    config.max_batch_tokens = std::max(config.max_batch_tokens, static_cast<int32_t>(rows));
  }
  ASSIGN_OR_RETURN(golden.run, GoldenRun::Load(served, config));
  return golden;
}

absl::StatusOr<std::vector<SequenceTrace>> RunOnce(const std::vector<std::vector<int32_t>>& tokens,
                                                   const GoldenCase& which,
                                                   GoldenRun& run) {
  const std::vector<int32_t> lengths = Lengths(tokens);
  if (which.cohort) return run.Run(tokens, Together(lengths, lengths.front()), {}, tokens.size());
  return run.Run(tokens, OneShot(lengths), which.routing);
}

absl::StatusOr<GoldenReport> CheckGolden(const std::string& folder, const CheckOptions& options) {
  if (IsLayerFolder(folder)) return CheckLayerGolden(folder, options);
  ASSIGN_OR_RETURN(OpenGolden golden, OpenGoldenFolder(folder, options));
  GoldenRun& run = *golden.run;
  GoldenReport report;
  report.family = run.spec().family;
  if (const auto ids = golden.expected.find("encoder_ids"); ids != golden.expected.end())
    run.set_encoder_tokens(ids->second.integers);
  const bool encodes = run.spec().is_encoder();
  report.whole_prompt = encodes || RoutesWholePrompt(run.spec().decoder());
  const bool generates = !encodes && !OnlyScores(run.spec().decoder());
  report.unused_weights = run.unused_weights();
  OpenGolden precise;
  if (kernels::IsInteger(options.weights)) {
    CheckOptions unrounded = options;
    unrounded.weights = kernels::WeightFormat::kF32;
    ASSIGN_OR_RETURN(precise, OpenGoldenFolder(folder, unrounded));
    if (const auto ids = golden.expected.find("encoder_ids"); ids != golden.expected.end())
      precise.run->set_encoder_tokens(ids->second.integers);
  }
  int32_t first_other_choice = kNoLayer;
  std::set<std::string> compared = {"input_ids", "encoder_ids"};
  for (const GoldenCase& which : GoldenCases(golden.expected)) {
    const auto tokens = GoldenTokens(golden.expected, which);
    for (const auto& list : tokens) {
      for (const int32_t id : list) {
        if (id < 0 || id >= run.spec().decoder().embedding.vocab_size)
          return absl::InvalidArgumentError(folder + ": input_ids outside the vocabulary");
      }
    }
    ASSIGN_OR_RETURN(const auto once, RunOnce(tokens, which, run));
    int32_t end = kNoLayer;
    if (precise.run.has_value()) {
      ASSIGN_OR_RETURN(const auto unrounded, RunOnce(tokens, which, *precise.run));
      const auto dim = static_cast<size_t>(run.spec().decoder().embedding.dim);
      end = FirstOtherChoice(once, unrounded, dim);
    }
    Comparison comparison(golden.expected, which.prefix, ToleranceOf(golden, options), report);
    comparison.Compare(once, run.spec(), end);
    compared.insert(comparison.compared().begin(), comparison.compared().end());
    if (end != kNoLayer) first_other_choice = std::min(first_other_choice, end);
    if (which.cohort) {
      RETURN_IF_ERROR(CheckCohortWays(tokens, once, run, report));
    } else {
      const bool whole =
          report.whole_prompt || which.routing.decide == RowRouting::Decide::kCapacity;
      RETURN_IF_ERROR(CheckWays(tokens, once, whole, which.routing, run, report));
      if (which.routing.decide == RowRouting::Decide::kModel && generates)
        RETURN_IF_ERROR(CheckGenerating(tokens.front(), run, report));
    }
  }
  report.chooses_otherwise = first_other_choice != kNoLayer;
  for (const auto& [name, tensor] : golden.expected) {
    if (compared.count(name) != 0) continue;
    std::string why = WhyNotCompared(report.family, name);
    if (why.empty() && report.chooses_otherwise)
      why = absl::StrCat("rows choose otherwise from layer ", first_other_choice, " on");
    report.not_compared.push_back({name, std::move(why)});
  }
  return report;
}

}  // namespace sluice
