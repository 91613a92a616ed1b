// What a loaded model tells its clients: which modes and numbers a request may ask for, and how it
// samples where a request does not say.
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "engine/engine_thread.h"
#include "gmock/gmock.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using ::testing::ElementsAre;

class ModelCardTest : public DirectoryTest {
 protected:
  // The card of a golden folder, whose `config.json` may be replaced in part.
  ModelCard Load(const std::string& folder, const std::string& remove = "") {
    WriteModel(folder, remove);
    auto model = LoadModel(config(), nullptr);
    EXPECT_TRUE(model.ok()) << folder << ": " << model.status();
    return model.ok() ? model->card : ModelCard();
  }
  void WriteModel(const std::string& folder, const std::string& remove = "") {
    const char* source = std::getenv("SLUICE_SOURCE_DIR");
    const std::string from =
        absl::StrCat(source == nullptr ? "." : source, "/tests/golden/", folder, "/");
    nlohmann::json config = nlohmann::json::parse(std::ifstream(from + "config.json"));
    config.erase(remove);
    Write("config.json", config.dump());
    std::filesystem::copy_file(from + "model.safetensors", Path("model.safetensors"),
                               std::filesystem::copy_options::overwrite_existing);
    Write("tokenizer.json",
          R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},
              "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
              "decoder": {"type": "ByteLevel"}})");
  }
  EngineConfig config() const {
    EngineConfig engine;
    engine.model_directory = directory();
    engine.device = "reference";
    return engine;
  }
};

TEST_F(ModelCardTest, ACapacityIsAModeAndNotTheDefault) {
  for (const char* folder : {"switch", "gshard", "glam"}) {
    const ModelCard card = Load(folder);
    EXPECT_THAT(card.routing_modes, ElementsAre("no_drop", "capacity")) << folder;
    EXPECT_EQ(card.experts_per_token, std::string(folder) == "switch" ? 1 : 2);
    EXPECT_FALSE(card.scores_only);
  }
  EXPECT_THAT(Load("switch", "expert_capacity").routing_modes, ElementsAre());
  EXPECT_THAT(Load("sparsely_gated").routing_modes, ElementsAre());
}

TEST_F(ModelCardTest, ExpertsThatChooseNeedThresholdsToGenerate) {
  const ModelCard prompts = Load("expert_choice");
  EXPECT_THAT(prompts.routing_modes, ElementsAre("topk_prompt"));
  EXPECT_TRUE(prompts.scores_only);
  EXPECT_TRUE(prompts.default_needs_whole_prompt);
  EXPECT_TRUE(prompts.has_experts);
  EXPECT_EQ(prompts.experts_per_token, 0);
  const ModelCard causal = Load("expert_choice-threshold");
  EXPECT_THAT(causal.routing_modes, ElementsAre("threshold", "topk_prompt"));
  EXPECT_FALSE(causal.scores_only);
  EXPECT_FALSE(causal.default_needs_whole_prompt);
  const ModelCard both = Load("expert_choice-threshold", "prefill_decide");
  EXPECT_THAT(both.routing_modes, ElementsAre("topk_prompt", "threshold"));
  EXPECT_FALSE(both.scores_only);
}

TEST_F(ModelCardTest, ADecisionPerPromptIsTheDefaultOfModelsTrainedForIt) {
  const ModelCard prompts = Load("router_tuning");
  EXPECT_THAT(prompts.routing_modes, ElementsAre("prompt_mean", "threshold", "topk_prompt"));
  EXPECT_THAT(prompts.routed_layers, ElementsAre("1", "3"));
  EXPECT_FALSE(prompts.has_capacity_table);
  EXPECT_TRUE(prompts.default_needs_whole_prompt);
  EXPECT_FALSE(Load("router_tuning-attn-token").default_needs_whole_prompt);
  EXPECT_TRUE(Load("big_bird").default_needs_whole_prompt);
  EXPECT_THAT(Load("router_tuning", "mod_capacity").routing_modes,
              ElementsAre("prompt_mean", "threshold"));
  EXPECT_THAT(Load("router_tuning-attn-token").routing_modes,
              ElementsAre("threshold", "topk_prompt"));
}

TEST_F(ModelCardTest, QueryExpertsComeWithTheNumberOfFfnExperts) {
  EXPECT_EQ(Load("jetmoe").experts_per_token, 2);
  EXPECT_EQ(Load("jetmoe-untied").experts_per_token, 3);
}

TEST_F(ModelCardTest, SamplingDefaultsAreTheFilesUnlessSwitchedOff) {
  WriteModel("llama");
  EngineConfig engine = config();
  const auto without = LoadModel(engine, nullptr);
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_EQ(without->card.sampling_defaults, SamplingDefaults());
  EXPECT_EQ(without->report.sampling_line, "temperature 1 unless a request says otherwise");
  Write("generation_config.json",
        R"({"eos_token_id": 7, "temperature": 0.4, "top_p": 0.9, "top_k": 20, "min_p": 0.01,
            "repetition_penalty": 1.1})");
  const auto with = LoadModel(engine, nullptr);
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ(with->card.sampling_defaults.temperature, 0.4);
  EXPECT_EQ(with->report.sampling_line,
            "temperature 0.4, top_p 0.9, top_k 20, min_p 0.01, repetition_penalty 1.1 unless a "
            "request says otherwise (generation_config.json)");
  engine.generation_config = "none";
  const auto off = LoadModel(engine, nullptr);
  ASSERT_TRUE(off.ok()) << off.status();
  EXPECT_EQ(off->card.sampling_defaults, SamplingDefaults());
  EXPECT_THAT(off->card.eos_token_ids, ::testing::Contains(7));
  EXPECT_NE(off->card.fingerprint, with->card.fingerprint);
}

TEST_F(ModelCardTest, ABadSamplingDefaultStopsTheLoadUnlessSwitchedOff) {
  WriteModel("llama");
  Write("generation_config.json", R"({"temperature": 3})");
  EngineConfig engine = config();
  const absl::Status status = LoadModel(engine, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(
                  ::testing::HasSubstr("generation_config.json: 'temperature' must be a number"),
                  ::testing::HasSubstr("--generation-config=none")));
  engine.generation_config = "none";
  EXPECT_TRUE(LoadModel(engine, nullptr).ok());
}

}  // namespace
}  // namespace sluice::testing
