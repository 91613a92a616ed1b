// The smallest real model: stories260K of llama2.c, converted by tools/convert/llama2c.py, must
// tell its story; so must its MoE and MoD forms, which compute the same function.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
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
};

TEST_P(StoriesTest, TellsTheStory) {
  const auto [kind, device] = GetParam();
  const ScratchDirectory model(absl::StrCat("stories-", kind, "-", device));
  if (!Convert(kind, model.path()))
    GTEST_SKIP() << "../shared/data/checkpoints or python3 is missing";
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
  const ScratchDirectory dense("stories-bits-dense");
  const ScratchDirectory mod("stories-bits-mod");
  if (!Convert("dense", dense.path()) || !Convert("mod", mod.path())) {
    GTEST_SKIP() << "../shared/data/checkpoints or python3 is missing";
  }
  auto dense_run = GoldenRun::Load(dense.path(), Config("cpu"));
  auto mod_run = GoldenRun::Load(mod.path(), Config("cpu"));
  ASSERT_TRUE(dense_run.ok() && mod_run.ok()) << dense_run.status() << mod_run.status();
  const std::vector<int32_t> tokens = {1, 403, 407, 261, 378, 15, 99, 300};
  const auto expected = dense_run->Run({tokens}, OneShot({8}));
  const auto actual = mod_run->Run({tokens}, OneShot({8}));
  ASSERT_TRUE(expected.ok() && actual.ok());
  EXPECT_EQ((*actual)[0].logits, (*expected)[0].logits);
  EXPECT_EQ((*actual)[0].taken.size(), 2u);
}

}  // namespace
}  // namespace sluice
