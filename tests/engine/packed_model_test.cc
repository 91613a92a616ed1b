// A model from the packed cache answers as one from its own files, and a cache that does not fit is
// made anew.
#include "engine/packed_model.h"

#include <bit>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "engine/engine_thread.h"
#include "tests/engine/test_engine.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using kernels::WeightFormat;

class PackedModelTest : public DirectoryTest {
 protected:
  // A golden folder as the model.
  void Copy(const std::string& folder) {
    const char* source = std::getenv("SLUICE_SOURCE_DIR");
    const std::string from =
        absl::StrCat(source == nullptr ? "." : source, "/tests/golden/", folder, "/");
    for (const char* name : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(from + name, Path(name),
                                 std::filesystem::copy_options::overwrite_existing);
    }
    Write("tokenizer.json",
          R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},
              "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
              "decoder": {"type": "ByteLevel"}})");
    std::filesystem::create_directories(cache());
  }
  std::string cache() const { return (root_ / "cache").string(); }
  EngineConfig Config(std::optional<WeightFormat> weights) const {
    EngineConfig config;
    config.model_directory = directory();
    config.threads = 2;
    config.weights = weights;
    config.kv_memory_bytes = 8 << 20;
    config.packed_cache = cache();
    return config;
  }
  std::filesystem::path File(const char* weights) const {
    return std::filesystem::path(cache()) / absl::StrCat("model.", weights, ".packed");
  }
  // The answer to a fixed prompt, and what was done with the cache.
  std::pair<Answer, std::string> Ask(const EngineConfig& config) {
    absl::StatusOr<LoadedModel> model = LoadModel(config, nullptr);
    if (!model.ok()) return {Answer(), std::string(model.status().message())};
    const std::string line = model->report.packed_cache;
    FixedClock clock;
    Engine engine(Engine::Parts{.config = config,
                                .card = std::move(model->card),
                                .runner = std::move(model->runner),
                                .tokenizer = model->tokenizer.get(),
                                .clock = &clock});
    Request request;
    request.prompt = {1, 2, 0, 2, 1};
    request.stop = {.max_tokens = 6, .ignore_eos = true};
    request.sampling.temperature = 0.0f;
    request.sampling.logprobs = 2;
    const auto sink = std::make_shared<AnswerSink>();
    const absl::Status status = engine.Submit(RequestId{1}, request, sink);
    EXPECT_TRUE(status.ok()) << status;
    while (engine.num_active() > 0 && engine.Step()) {
    }
    EXPECT_FALSE(sink->answer.logprob_bits.empty());
    return {sink->answer, line};
  }
};

TEST_F(PackedModelTest, AnswersAreTheSameToTheBitForEveryFormat) {
  for (const char* folder : {"llama", "olmoe", "gpt2", "jetmoe", "deepseek_v2", "gpt_oss-mxfp4"}) {
    Copy(folder);
    for (const auto weights :
         {std::optional<WeightFormat>(), std::optional(WeightFormat::kF32),
          std::optional(WeightFormat::kBF16), std::optional(WeightFormat::kInt8),
          std::optional(WeightFormat::kInt4)}) {
      EngineConfig config = Config(weights);
      config.packed_cache.clear();
      const Answer expected = Ask(config).first;
      config = Config(weights);
      const auto [first, written] = Ask(config);
      EXPECT_NE(written.find("written"), std::string::npos) << folder << " " << written;
      const auto [second, read] = Ask(config);
      EXPECT_NE(read.find("read and verified"), std::string::npos) << folder << " " << read;
      EXPECT_EQ(expected, first) << folder;
      EXPECT_EQ(expected, second) << folder;
    }
  }
}

TEST_F(PackedModelTest, AnotherConfigurationIsNotTrusted) {
  Copy("llama");
  const Answer int8 = Ask(Config(WeightFormat::kInt8)).first;
  const Answer bf16 = Ask(Config(WeightFormat::kBF16)).first;
  std::filesystem::copy_file(File("bf16"), File("int8"),
                             std::filesystem::copy_options::overwrite_existing);
  auto again = Ask(Config(WeightFormat::kInt8));
  EXPECT_NE(again.second.find("written"), std::string::npos) << again.second;
  EXPECT_EQ(again.first, int8);
  EngineConfig scalar = Config(WeightFormat::kInt8);
  scalar.isa = "scalar";
  again = Ask(scalar);
  EXPECT_NE(again.second.find("written"), std::string::npos) << again.second;
  scalar.device = "reference";
  again = Ask(scalar);
  EXPECT_NE(again.second.find("written"), std::string::npos) << again.second;
  Copy("llama-partial");  // another model in the same place
  again = Ask(scalar);
  EXPECT_NE(again.second.find("written"), std::string::npos) << again.second;
}

TEST_F(PackedModelTest, DamageIsNoticedAndTheFileIsMadeAnew) {
  Copy("olmoe");
  const EngineConfig config = Config(WeightFormat::kInt8);
  const Answer expected = Ask(config).first;
  std::ifstream file(File("int8"), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), {}};
  for (const size_t at :
       {size_t{0}, size_t{20}, size_t{5000}, whole.size() / 2, whole.size() - 9}) {
    for (const bool cut : {false, true}) {
      std::string bent = cut ? whole.substr(0, at) : whole;
      if (!cut) bent[at] = static_cast<char>(bent[at] ^ 4);
      std::ofstream(File("int8"), std::ios::binary)
          .write(bent.data(), static_cast<std::streamsize>(bent.size()));
      const auto [answer, line] = Ask(config);
      EXPECT_EQ(answer, expected) << at;
      EXPECT_NE(line.find("written"), std::string::npos) << at << " " << line;
      EXPECT_NE(Ask(config).second.find("read and verified"), std::string::npos) << at;
    }
  }
}

TEST_F(PackedModelTest, ADirectoryThatIsMissingOrCannotBeWrittenIsNamed) {
  Copy("llama");
  EngineConfig config = Config(std::nullopt);
  config.packed_cache = cache() + "/missing";
  EXPECT_EQ(Ask(config).second, absl::StrCat("--packed-cache: ", config.packed_cache,
                                             ": no such directory; make it first"));
  config.packed_cache = "/proc";  // nobody makes files there
  const std::string line = Ask(config).second;
  EXPECT_NE(line.find("--packed-cache: /proc: cannot be written"), std::string::npos) << line;
}

}  // namespace
}  // namespace sluice::testing
