// What golden_check cannot ask of the shared fixtures whose rows repeat a group, because it is
// another config of the same weights: Huginn at other numbers of steps and with exits, and
// Mixture-of-Recursions by threshold. The folders themselves are golden_test's.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/golden/golden_files.h"
#include "tests/golden/golden_run.h"
#include "tests/golden/served_recurrent.h"
#include "tests/support/tensors.h"

namespace sluice {
namespace {

using nlohmann::json;

// The README of the fixtures: 1e-5, and 2e-5 for mor and sut.
constexpr Tolerance kTolerance{.absolute = 2e-5f, .relative = 2e-6f};

class RecurrentGoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
  // False when the folder of reference outputs is not there.
  bool Open(const std::string& folder) {
    directory_ = absl::StrCat(SharedDirectory(), "/goldens/", folder);
    if (!std::filesystem::exists(directory_)) return false;
    golden_ = json::parse(std::ifstream(directory_ + "/config.json"));
    auto expected = ReadExpected(directory_, "expected.safetensors");
    EXPECT_TRUE(expected.ok()) << expected.status();
    if (expected.ok()) expected_ = *std::move(expected);
    return expected.ok();
  }

  GoldenRun Serve(const json& config) {
    const ScratchDirectory served(absl::StrCat("recurrent-", GetParam()));
    std::ofstream(served.path() + "/config.json") << config.dump(1);
    std::filesystem::copy_file(directory_ + "/weights.safetensors",
                               served.path() + "/model.safetensors");
    EngineConfig engine;
    engine.device = GetParam();
    engine.threads = 2;
    engine.max_sequences = 4;
    auto run = GoldenRun::Load(served.path(), engine);
    EXPECT_TRUE(run.ok()) << run.status();
    return *std::move(run);
  }

  std::vector<std::vector<int32_t>> Tokens() const {
    const ExpectedTensor& ids = expected_.at("input_ids");
    std::vector<std::vector<int32_t>> tokens;
    for (auto row = ids.integers.begin(); row != ids.integers.end(); row += ids.shape[1])
      tokens.emplace_back(row, row + ids.shape[1]);
    return tokens;
  }
  // Sequence `s` of an expected tensor [sequences, ...].
  std::span<const float> Part(const std::string& name, size_t s) const {
    const ExpectedTensor& tensor = expected_.at(name);
    const size_t size = tensor.floats.size() / static_cast<size_t>(tensor.shape[0]);
    return std::span<const float>(tensor.floats).subspan(s * size, size);
  }
  static std::vector<SequenceTrace> Run(GoldenRun& run,
                                        const std::vector<std::vector<int32_t>>& tokens,
                                        const std::vector<Step>& steps) {
    auto traces = run.Run(tokens, steps);
    EXPECT_TRUE(traces.ok()) << traces.status();
    return traces.ok() ? *std::move(traces) : std::vector<SequenceTrace>(tokens.size());
  }

  void ExpectSameBitsInEveryWayOfRunning(GoldenRun& run,
                                         const std::vector<std::vector<int32_t>>& tokens) {
    std::vector<int32_t> lengths;
    for (const auto& sequence : tokens) lengths.push_back(static_cast<int32_t>(sequence.size()));
    const auto once = Run(run, tokens, OneShot(lengths));
    EXPECT_EQ(Run(run, tokens, InChunks(lengths, 7)), once) << "chunks of 7";
    EXPECT_EQ(Run(run, tokens, InChunks(lengths, 1)), once) << "token by token";
    for (const int32_t chunk : {30, 5, 1})
      EXPECT_EQ(Run(run, tokens, Together(lengths, chunk)), once) << "together, " << chunk;
  }

  std::string directory_;
  json golden_;
  ExpectedTensors expected_;
};

TEST_P(RecurrentGoldenTest, HuginnAtOtherNumbersOfSteps) {
  if (!Open("huginn")) GTEST_SKIP() << directory_ << " is not there";
  for (const int32_t steps : golden_["other_steps"]) {
    json config = *ServedHuginnConfig(golden_);
    config["num_steps"] = steps;
    GoldenRun run = Serve(config);
    const auto traces = Run(run, Tokens(), Together({24, 24}, 24));
    for (size_t s = 0; s < traces.size(); ++s) {
      const std::string name = absl::StrCat("steps", steps, ".logits");
      EXPECT_TRUE(AllNear(traces[s].logits, Part(name, s), kTolerance)) << steps << " steps";
    }
  }
}

// Where every state is computed, a row stops behind the first step whose published relative
// difference is below the threshold; where its keys and values are left out or copied, the same
// rows stop at first, and every way of running gives the same bits.
TEST_P(RecurrentGoldenTest, HuginnRowsStopWhereTheReferenceConverges) {
  if (!Open("huginn")) GTEST_SKIP() << directory_ << " is not there";
  const int32_t steps = golden_["num_steps"];
  const auto running = [&](float threshold, size_t s, size_t t, int32_t step) {
    for (int32_t r = 0; r < step; ++r) {
      if (Part(absl::StrCat("rel_diff.", r), s)[t] < threshold) return 0;
    }
    return 1;
  };
  for (const float threshold : {0.3f, 0.5f, 0.7f}) {
    json config = *ServedHuginnConfig(golden_);
    config["exit_criterion"] = "latent-diff";
    config["exit_threshold"] = threshold;
    for (const char* kv : {"compute_all", "latest", "own"}) {
      SCOPED_TRACE(absl::StrCat(threshold, " ", kv));
      config["halted_kv"] = kv;
      GoldenRun run = Serve(config);
      const auto traces = Run(run, Tokens(), OneShot({24, 24}));
      const int32_t known = kv[0] == 'c' ? steps : 3;  // before a row could miss another
      for (int32_t step = 0; step < known; ++step) {
        for (size_t s = 0; s < traces.size(); ++s) {
          const std::vector<int32_t>& taken = traces[s].taken.at(2 + 4 * step);
          for (size_t t = 0; t < taken.size(); ++t)
            EXPECT_EQ(taken[t], running(threshold, s, t, step)) << step << " " << s << " " << t;
        }
      }
      ExpectSameBitsInEveryWayOfRunning(run, Tokens());
    }
  }
}

// By threshold the same weights are causal: any split and any company give the same bits.
TEST_P(RecurrentGoldenTest, RecursionsByThreshold) {
  if (!Open("mor-expert")) GTEST_SKIP() << directory_ << " is not there";
  json config = *ServedRecursionsConfig(golden_);
  config["mor"].erase("prefill_decide");
  GoldenRun run = Serve(config);
  const std::vector<int32_t> tokens = Tokens()[0];
  const SequenceTrace trace = Run(run, {tokens}, OneShot({30}))[0];
  for (size_t t = 0; t < tokens.size(); ++t) {
    EXPECT_LE(trace.taken.at(2)[t], trace.taken.at(1)[t]) << "deeper rows come from the others";
    EXPECT_LE(trace.taken.at(3)[t], trace.taken.at(2)[t]);
  }
  ExpectSameBitsInEveryWayOfRunning(run, {tokens, {tokens.rbegin(), tokens.rend()}});
}

INSTANTIATE_TEST_SUITE_P(Backends,
                         RecurrentGoldenTest,
                         ::testing::Values("reference", "cpu"),
                         [](const auto& backend) { return std::string(backend.param); });

}  // namespace
}  // namespace sluice
