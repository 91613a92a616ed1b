// Golden parity: each folder's reference outputs against ours, on every CPU backend and in every
// way of running. The first wrong layer is named. Tolerances: reference outputs are fp32
// (transformers) or float64, ours fp32.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/golden/golden_files.h"
#include "tests/golden/golden_run.h"
#include "tests/support/tensors.h"

namespace sluice {
namespace {

constexpr Tolerance kTolerance{.absolute = 2e-5f, .relative = 3e-6f};

struct Golden {
  std::string folder;
  bool chunked = true;  // false: routed by top-k over the prompt, so only one-shot is defined
};

void PrintTo(const Golden& golden, std::ostream* out) { *out << golden.folder; }

const Golden kFolders[] = {
    {"llama"},
    {"llama-tied-bias"},
    {"mistral"},
    {"qwen2"},
    {"qwen3"},
    {"gpt2"},
    {"mixtral"},
    {"mixtral-stacked"},
    {"olmoe"},
    {"qwen2_moe"},
    {"qwen2_moe-renormalized"},
    {"qwen3_moe"},
    {"deepseek"},
    {"mod-threshold"},
    {"mod-predictor"},
    {"mod-only-block"},
    {"mod-binary"},
    {"mod-topk", false},
    {"mode-staged"},
    {"mode-integrated"},
    {"llama-llama3"},
    {"llama-linear"},
    {"qwen3-yarn"},
    {"granite"},
    {"granitemoe"},
    {"granitemoe-stacked"},
    {"gpt_oss"},
    {"gpt_oss-mxfp4"},
    {"deepseek-unshared"},
    {"deepseek_v2"},
    {"deepseek_v2-groups"},
    {"deepseek_v3"},
    {"deepseek_v3-half"},
    {"mixtral-window-tied"},
    {"mistral-full"},
    {"qwen2-window-tied"},
    {"qwen3-bias"},
    {"olmoe-renormalized"},
    {"qwen2_moe-no-bias"},
    {"qwen3_moe-plain"},
};

class GoldenTest : public ::testing::TestWithParam<std::tuple<Golden, std::string>> {
 protected:
  void SetUp() override {
    const std::string directory = SourceDirectory() + "/tests/golden/" + folder();
    auto expected = ReadExpected(directory, "expected.safetensors");
    ASSERT_TRUE(expected.ok()) << expected.status();
    expected_ = *std::move(expected);
    EngineConfig config;
    config.device = std::get<1>(GetParam());
    config.threads = 2;
    config.max_batch_tokens = 64;
    config.max_sequences = 4;
    auto run = GoldenRun::Load(directory, config);
    ASSERT_TRUE(run.ok()) << run.status();
    run_.emplace(*std::move(run));
    tokens_ = expected_.at("input_ids").integers;
  }

  const std::string& folder() const { return std::get<0>(GetParam()).folder; }
  bool chunked() const { return std::get<0>(GetParam()).chunked; }
  int32_t length() const { return static_cast<int32_t>(tokens_.size()); }

  SequenceTrace RunOne(const std::vector<Step>& steps) {
    auto traces = run_->Run({tokens_}, steps);
    EXPECT_TRUE(traces.ok()) << traces.status();
    return traces.ok() ? traces->front() : SequenceTrace();
  }

  ExpectedTensors expected_;
  std::optional<GoldenRun> run_;
  std::vector<int32_t> tokens_;
};

TEST_P(GoldenTest, EveryLayerMatchesTheReference) {
  const SequenceTrace trace = RunOne(OneShot({length()}));
  ASSERT_TRUE(AllNear(trace.embed, expected_.at("hidden.embed").floats, kTolerance)) << "embedding";
  for (const auto& [layer, values] : trace.hidden) {
    const auto mask = expected_.find(absl::StrCat("mask.", layer));
    if (mask != expected_.end()) {
      ASSERT_EQ(trace.taken.at(layer), mask->second.integers) << "rows taken by layer " << layer;
    }
    ASSERT_TRUE(AllNear(values, expected_.at(absl::StrCat("hidden.", layer)).floats, kTolerance))
        << "first wrong layer is " << layer;
  }
  EXPECT_TRUE(AllNear(trace.logits, expected_.at("logits").floats, kTolerance)) << "logits";
}

TEST_P(GoldenTest, EveryTensorOfTheFileIsUsed) {
  EXPECT_EQ(run_->unused_weights(), std::vector<std::string>());
}

// Decision 1 of the design: not near, the same bits.
TEST_P(GoldenTest, ChunksAndNeighboursDoNotChangeABit) {
  if (!chunked()) GTEST_SKIP() << "top-k over the prompt is defined for one-shot prefill only";
  const SequenceTrace once = RunOne(OneShot({length()}));
  EXPECT_EQ(RunOne(InChunks({length()}, 7)), once) << "chunks of 7";
  EXPECT_EQ(RunOne(InChunks({length()}, 1)), once) << "token by token";
  std::vector<int32_t> other(tokens_.rbegin(), tokens_.rend());
  for (const int32_t chunk : {24, 5, 1}) {
    const auto traces = run_->Run({other, tokens_}, Together({length(), length()}, chunk));
    ASSERT_TRUE(traces.ok()) << traces.status();
    EXPECT_EQ((*traces)[1], once) << "beside another sequence, chunks of " << chunk;
  }
}

std::string TestName(const ::testing::TestParamInfo<GoldenTest::ParamType>& param) {
  std::string name = std::get<0>(param.param).folder + "_" + std::get<1>(param.param);
  for (char& c : name) {
    if (c == '-') c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Folders,
                         GoldenTest,
                         ::testing::Combine(::testing::ValuesIn(kFolders),
                                            ::testing::Values("reference", "cpu")),
                         TestName);

// The fixtures of the published MoEUT code bases; two sequences each.
class MoeutGoldenTest : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

// `choices`: the expert ids of one kind, expected ids count inside each head.
void ExpectSameExperts(const std::vector<int32_t>& actual,
                       const ExpectedTensor& expected,
                       size_t sequence,
                       int32_t experts_per_head) {
  const size_t size = actual.size();
  const auto heads = static_cast<size_t>(expected.shape.size() == 4 ? expected.shape[2] : 1);
  const auto choices = static_cast<size_t>(expected.shape.back());
  for (size_t i = 0; i < size; ++i) {
    const auto head = static_cast<int32_t>(i / choices % heads);
    const int32_t id = expected.integers.at(sequence * size + i);
    ASSERT_EQ(actual[i], heads == 1 ? id : head * experts_per_head + id) << "choice " << i;
  }
}

int32_t AttentionExperts(const ModelSpec& spec) {
  const auto& block = spec.decoder().groups[0].layers[0].sublayers[0].block;
  return std::get<AttentionSpec>(block).o.experts->num_experts;
}

TEST_P(MoeutGoldenTest, EveryLayerAndEveryChoiceMatchesTheReference) {
  const std::string directory =
      absl::StrCat(SharedDirectory(), "/goldens/", std::get<0>(GetParam()));
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << directory << " is not there";
  const ScratchDirectory served(absl::StrCat(std::get<0>(GetParam()), std::get<1>(GetParam())));
  ASSERT_TRUE(WriteServedModel(directory, served.path()).ok());
  const auto expected = ReadExpected(directory, "expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();
  EngineConfig config;
  config.device = std::get<1>(GetParam());
  config.threads = 2;
  config.max_sequences = 2;
  auto run = GoldenRun::Load(served.path(), config);
  ASSERT_TRUE(run.ok()) << run.status();

  const ExpectedTensor& ids = expected->at("input_ids");
  const auto length = static_cast<size_t>(ids.shape[1]);
  std::vector<std::vector<int32_t>> tokens;
  for (size_t first = 0; first < ids.integers.size(); first += length) {
    const auto begin = ids.integers.begin() + static_cast<int64_t>(first);
    tokens.emplace_back(begin, begin + static_cast<int64_t>(length));
  }
  const std::vector<int32_t> lengths(tokens.size(), static_cast<int32_t>(length));
  const auto once = run->Run(tokens, OneShot(lengths));
  ASSERT_TRUE(once.ok()) << once.status();

  // The README of the fixtures states this tolerance.
  const Tolerance tolerance{.absolute = 1e-5f, .relative = 1e-6f};
  for (size_t s = 0; s < tokens.size(); ++s) {
    const auto part = [&](const std::string& name) {
      const std::span<const float> all = expected->at(name).floats;
      return all.subspan(s * all.size() / tokens.size(), all.size() / tokens.size());
    };
    const SequenceTrace& trace = (*once)[s];
    ASSERT_TRUE(AllNear(trace.embed, part("hidden.embed"), tolerance)) << "embedding";
    for (const auto& [layer, values] : trace.hidden) {
      for (const char* kind : {"att_v", "att_o", "ffn"}) {
        const auto choice = expected->find(absl::StrCat("route.", layer, ".", kind, ".idx"));
        if (choice == expected->end()) continue;
        SCOPED_TRACE(absl::StrCat("layer ", layer, " ", kind));
        ASSERT_NO_FATAL_FAILURE(ExpectSameExperts(trace.experts.at(absl::StrCat(layer, ".", kind)),
                                                  choice->second, s,
                                                  AttentionExperts(run->spec())));
      }
      ASSERT_TRUE(AllNear(values, part(absl::StrCat("hidden.", layer)), tolerance))
          << "sequence " << s << ": first wrong layer is " << layer;
    }
    EXPECT_TRUE(AllNear(trace.logits, part("logits"), tolerance)) << "logits of sequence " << s;
  }
  const auto together = run->Run(tokens, Together(lengths, 5));
  const auto single = run->Run(tokens, InChunks(lengths, 1));
  ASSERT_TRUE(together.ok() && single.ok());
  EXPECT_EQ(*together, *once) << "together, chunks of 5";
  EXPECT_EQ(*single, *once) << "token by token";
}

INSTANTIATE_TEST_SUITE_P(Fixtures,
                         MoeutGoldenTest,
                         ::testing::Combine(::testing::Values("moeut-g2",
                                                              "moeut-g3-odd",
                                                              "moeut-att1",
                                                              "moeut-t96",
                                                              "moeut-training",
                                                              "moeut-training-aabb"),
                                            ::testing::Values("reference", "cpu")));

}  // namespace
}  // namespace sluice
