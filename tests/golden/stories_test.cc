// The smallest real model: stories260K of llama2.c, converted by tools/convert/llama2c.py, must
// tell its story; so must its MoE and MoD forms, which compute the same function.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer.h"
#include "tests/golden/golden_files.h"
#include "tests/golden/golden_run.h"

namespace sluice {
namespace {

constexpr char kPrompt[] = "Once upon a time";
constexpr char kStory[] =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";

constexpr char kMissing[] = "../shared/data/checkpoints or python3 is missing";

class StoriesTest : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  // Converts the checkpoint as `kind`; false when it is not there.
  bool Convert(const std::string& kind, const std::string& out) {
    const std::string source = SharedDirectory() + "/data/checkpoints/stories260K/";
    if (!std::filesystem::exists(source)) return false;
    const std::string command = absl::StrCat(
        "python3 '", SourceDirectory(), "/tools/convert/llama2c.py' '", source,
        "stories260K.bin' '", source, "tok512.bin' --out '", out, "' --as ", kind, " > /dev/null");
    return std::system(command.c_str()) == 0;
  }

  EngineConfig Config(const char* device) {
    EngineConfig config;
    config.device = device;
    config.threads = 2;
    config.max_sequences = 2;
    return config;
  }

  // One step over a few tokens of the checkpoint in this form; nothing when it is not there.
  std::optional<SequenceTrace> RunAs(const std::string& kind) {
    const ScratchDirectory model("stories-bits-" + kind);
    if (!Convert(kind, model.path())) return std::nullopt;
    auto run = GoldenRun::Load(model.path(), Config("cpu"));
    EXPECT_TRUE(run.ok()) << run.status();
    if (!run.ok()) return std::nullopt;
    auto traces = run->Run({{1, 403, 407, 261, 378, 15, 99, 300}}, OneShot({8}));
    EXPECT_TRUE(traces.ok()) << traces.status();
    if (!traces.ok()) return std::nullopt;
    return std::move((*traces)[0]);
  }
};

TEST_P(StoriesTest, TellsTheStory) {
  const auto [kind, device] = GetParam();
  const ScratchDirectory model(absl::StrCat("stories-", kind, "-", device));
  if (!Convert(kind, model.path())) GTEST_SKIP() << kMissing;
  const auto tokenizer = Tokenizer::Load(model.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto prompt = (*tokenizer)->Encode(kPrompt, {});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(*prompt, (std::vector<int32_t>{1, 403, 407, 261, 378}));
  auto run = GoldenRun::Load(model.path(), Config(device));
  ASSERT_TRUE(run.ok()) << run.status();
  const auto tokens = run->Generate(*prompt, 30);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ((*tokenizer)->Decode(*tokens, false).substr(0, sizeof(kStory) - 1), kStory);
}

INSTANTIATE_TEST_SUITE_P(Forms,
                         StoriesTest,
                         ::testing::Combine(::testing::Values("dense", "moe", "mod"),
                                            ::testing::Values("reference", "cpu")));

TEST_F(StoriesTest, RoutersThatTakeEverythingChangeNoBit) {
  const auto dense = RunAs("dense");
  const auto mod = RunAs("mod");
  if (!dense.has_value() || !mod.has_value()) GTEST_SKIP() << kMissing;
  EXPECT_EQ(mod->logits, dense->logits);
  EXPECT_EQ(mod->taken.size(), 2u);
}

TEST_F(StoriesTest, ExpertsThatAreCopiesAddUpToTheOneTheyCopy) {
  const auto dense = RunAs("dense");
  const auto moe = RunAs("moe");
  if (!dense.has_value() || !moe.has_value()) GTEST_SKIP() << kMissing;
  ASSERT_EQ(moe->logits.size(), dense->logits.size());
  for (size_t i = 0; i < dense->logits.size(); ++i) {
    ASSERT_NEAR(moe->logits[i], dense->logits[i], 1e-5) << "logit " << i;
  }
}

}  // namespace
}  // namespace sluice
