// A model from the packed cache answers as one from its own files, and a cache that does not fit is
// made anew.
#include "engine/packed_model.h"

#include <cstdlib>
#include <map>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/engine_thread.h"
#include "gmock/gmock.h"
#include "tests/engine/test_engine.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using kernels::WeightFormat;
using ::testing::HasSubstr;

constexpr char kWritten[] = "written for the next start", kRead[] = "read and verified";
constexpr char kMoeut[] = "moeut";  // not a folder, see WriteMoeut

std::string Contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class PackedModelTest : public DirectoryTest {
 protected:
  // A golden folder as the model.
  void Copy(const std::string& folder) {
    if (folder == kMoeut) return WriteMoeut();
    const char* source = std::getenv("SLUICE_SOURCE_DIR");
    const std::string from =
        absl::StrCat(source == nullptr ? "." : source, "/tests/golden/", folder, "/");
    for (const char* name : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(from + name, Path(name),
                                 std::filesystem::copy_options::overwrite_existing);
    }
    WriteTokenizer();
  }
  void WriteTokenizer() {
    Write("tokenizer.json",
          R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},
              "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
              "decoder": {"type": "ByteLevel"}})");
    std::filesystem::create_directories(cache());
  }
  // SwitchHead with one expert: an output projection that is split by heads.
  void WriteMoeut() {
    Write("config.json",
          R"({"model_type": "moeut", "vocab_size": 32, "hidden_size": 24, "num_hidden_layers": 2,
              "group_size": 1, "num_attention_heads": 2, "head_dim": 10, "num_experts": 5,
              "moe_intermediate_size": 8, "num_experts_per_tok": 2, "num_attention_experts": 1,
              "num_attention_experts_per_tok": 1, "eos_token_id": 0})");
    const std::string layer = "transformer.layers.0.", attention = layer + "attention.";
    const std::map<std::string, std::vector<int>> shapes = {{"embedding.weight", {32, 24}},
                                                            {"lm_head.weight", {32, 24}},
                                                            {"lm_head.bias", {32}},
                                                            {"out_norm.weight", {24}},
                                                            {"out_norm.bias", {24}},
                                                            {layer + "ln1.weight", {24}},
                                                            {layer + "ln1.bias", {24}},
                                                            {layer + "ln2.weight", {24}},
                                                            {layer + "ln2.bias", {24}},
                                                            {attention + "q.weight", {20, 24}},
                                                            {attention + "k.weight", {20, 24}},
                                                            {attention + "v", {20, 24}},
                                                            {attention + "o", {24, 20}},
                                                            {attention + "sel_o", {2, 24}},
                                                            {layer + "ffn.keys", {5, 24, 8}},
                                                            {layer + "ffn.values", {5, 8, 24}},
                                                            {layer + "ffn.expert_sel", {5, 24}}};
    std::vector<std::string> entries;
    std::mt19937 random(1);
    std::string values;
    for (const auto& [name, shape] : shapes) {
      const size_t begin = values.size();
      int count = 1;
      for (const int size : shape) count *= size;
      for (int i = 0; i < count; ++i) {
        const float value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
        values.append(reinterpret_cast<const char*>(&value), sizeof(value));
      }
      entries.push_back(
          absl::StrFormat(R"("%s":{"dtype":"F32","shape":[%s],"data_offsets":[%d,%d]})", name,
                          absl::StrJoin(shape, ","), begin, values.size()));
    }
    const std::string header = absl::StrCat("{", absl::StrJoin(entries, ","), "}");
    Write("model.safetensors", SafetensorsBytes(header, 0) + values);
    WriteTokenizer();
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
  // The only cache file of a format.
  std::filesystem::path File(const std::string& weights) const {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(cache())) {
      if (absl::StartsWith(entry.path().filename().string(), "model." + weights + "."))
        found.push_back(entry.path());
    }
    EXPECT_EQ(found.size(), 1u) << weights;
    return found.empty() ? root_ : found[0];
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
  for (const char* folder : {"llama", "olmoe", "gpt2", "jetmoe", "deepseek_v2", "gpt_oss-mxfp4",
                             "mot", "molora-llama", kMoeut}) {
    Copy(folder);
    for (const WeightFormat weights :
         {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
      EngineConfig config = Config(weights);
      config.packed_cache.clear();
      const Answer expected = Ask(config).first;
      config = Config(weights);
      const auto [first, written] = Ask(config);
      EXPECT_THAT(written, HasSubstr(kWritten)) << folder;
      const auto [second, read] = Ask(config);
      EXPECT_THAT(read, HasSubstr(kRead)) << folder;
      EXPECT_EQ(expected, first) << folder;
      EXPECT_EQ(expected, second) << folder;
    }
    EXPECT_THAT(Ask(Config(std::nullopt)).second, HasSubstr(kRead)) << folder;  // one of the above
  }
}

TEST_F(PackedModelTest, AFileForSomethingElseIsNotTrusted) {
  Copy("llama");
  const Answer int8 = Ask(Config(WeightFormat::kInt8)).first;
  Ask(Config(WeightFormat::kBF16));
  std::filesystem::copy_file(File("bf16"), File("int8"),
                             std::filesystem::copy_options::overwrite_existing);
  auto again = Ask(Config(WeightFormat::kInt8));
  EXPECT_THAT(again.second, HasSubstr(kWritten));
  EXPECT_EQ(again.first, int8);

  const std::filesystem::path file = File("int8");
  const std::string fast = Contents(file);
  std::filesystem::remove(file);
  EngineConfig other = Config(WeightFormat::kInt8);
  other.device = "reference";
  const Answer reference = Ask(other).first;
  EXPECT_NE(File("int8"), file);  // a shared directory has room for both
  std::ofstream(File("int8"), std::ios::binary) << fast;
  again = Ask(other);
  EXPECT_THAT(again.second, HasSubstr(kWritten));
  EXPECT_EQ(again.first, reference);

  Copy("llama-partial");  // another model in the same place
  EXPECT_THAT(Ask(other).second, HasSubstr(kWritten));
  EXPECT_THAT(Ask(other).second, HasSubstr(kRead));
}

TEST_F(PackedModelTest, ModelsOfOneNameHaveFilesOfTheirOwn) {
  Copy("llama");
  EngineConfig config = Config(std::nullopt);
  Ask(config);
  const auto elsewhere = root_ / "elsewhere" / "model";
  std::filesystem::create_directories(elsewhere);
  std::filesystem::copy(Path(""), elsewhere);
  config.model_directory = elsewhere.string();
  EXPECT_THAT(Ask(config).second, HasSubstr(kWritten));
  EXPECT_THAT(Ask(config).second, HasSubstr(kRead));
  EXPECT_THAT(Ask(Config(std::nullopt)).second, HasSubstr(kRead));
}

TEST_F(PackedModelTest, AnyNameOfADirectoryWillDo) {
  Copy("llama");
  for (const std::string& name :
       {std::string(255, 'n'), std::string(63, 'n') + "\xC3\xA9", std::string("a b.c")}) {
    const auto long_name = root_ / name;
    std::filesystem::create_directories(long_name);
    std::filesystem::copy(Path(""), long_name);
    EngineConfig config = Config(std::nullopt);
    config.model_directory = long_name.string();
    EXPECT_THAT(Ask(config).second, HasSubstr(kWritten));
    EXPECT_THAT(Ask(config).second, HasSubstr(kRead));
  }
}

TEST_F(PackedModelTest, DamageIsNoticedAndTheFileIsMadeAnew) {
  Copy("olmoe");
  const EngineConfig config = Config(WeightFormat::kInt8);
  const Answer expected = Ask(config).first;
  const std::string whole = Contents(File("int8"));
  for (const size_t at :
       {size_t{0}, size_t{20}, size_t{5000}, whole.size() / 2, whole.size() - 9}) {
    for (const bool cut : {false, true}) {
      std::string bent = cut ? whole.substr(0, at) : whole;
      if (!cut) bent[at] = static_cast<char>(bent[at] ^ 4);
      std::ofstream(File("int8"), std::ios::binary) << bent;
      const auto [answer, line] = Ask(config);
      EXPECT_EQ(answer, expected) << at;
      EXPECT_THAT(line, HasSubstr(kWritten)) << at;
      EXPECT_THAT(Ask(config).second, HasSubstr(kRead)) << at;
    }
  }
}

TEST_F(PackedModelTest, ADirectoryThatIsMissingOrCannotBeWrittenIsNamed) {
  Copy("llama");
  EngineConfig config = Config(std::nullopt);
  config.packed_cache = cache() + "/missing";
  EXPECT_EQ(Ask(config).second, absl::StrCat("--packed-cache: ", config.packed_cache,
                                             ": no such directory; make it first"));
  config.packed_cache = Path("config.json").string();
  EXPECT_EQ(Ask(config).second,
            absl::StrCat("--packed-cache: ", config.packed_cache, ": is not a directory"));
  config.packed_cache = "/proc";  // nobody makes files there
  EXPECT_THAT(Ask(config).second, HasSubstr("--packed-cache: /proc: cannot be written"));
}

TEST_F(PackedModelTest, WhatElseIsWrongWithTheCacheDoesNotKeepTheModelFromBeingServed) {
  Copy("llama");
  const EngineConfig config = Config(std::nullopt);
  const Answer expected = Ask(config).first;
  const std::filesystem::path file = File("f32");
  std::filesystem::remove(file);
  std::filesystem::create_directories(file.string() + ".tmp");
  const auto [answer, line] = Ask(config);
  EXPECT_EQ(answer, expected);
  EXPECT_THAT(line, HasSubstr("not written: cannot be written: Is a directory"));
}

// An error of the model is that, also where a good cache is there.
TEST_F(PackedModelTest, ErrorsOfTheModelAreNotTakenForThoseOfTheCache) {
  Copy("llama");
  EngineConfig config = Config(std::nullopt);
  Ask(config);
  const std::string before = Contents(File("f32"));
  // Whoever makes a cache removes it.
  const std::string abandoned = cache() + "/other.f32.0123456789ab.packed.tmp";
  std::ofstream(abandoned).put('x');
  config.draft_exit_layer = 999;
  const std::string with_cache = Ask(config).second;
  config.packed_cache.clear();
  EXPECT_EQ(with_cache, Ask(config).second);
  EXPECT_THAT(with_cache, HasSubstr("exit"));
  EXPECT_EQ(before, Contents(File("f32")));
  EXPECT_TRUE(std::filesystem::exists(abandoned));
}

TEST_F(PackedModelTest, ProgressGrowsToAllOfItWithACacheAndWithout) {
  Copy("olmoe");
  for (const bool cached : {false, true}) {
    int64_t last = 0, total = 0, in_between = 0;
    const auto model =
        LoadModel(Config(WeightFormat::kInt8), [&](int64_t done_bytes, int64_t total_bytes) {
          EXPECT_GE(done_bytes, last);
          last = done_bytes;
          total = total_bytes;
          in_between += done_bytes > total / 10 && done_bytes < total - total / 10 ? 1 : 0;
        });
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_THAT(model->report.packed_cache, HasSubstr(cached ? kRead : kWritten));
    EXPECT_EQ(last, total);
    EXPECT_GT(in_between, 0);
    const auto file = cached ? File("int8") : Path("model.safetensors");
    EXPECT_GT(total, static_cast<int64_t>(std::filesystem::file_size(file) / 2));
    EXPECT_LE(total, static_cast<int64_t>(std::filesystem::file_size(file)));
  }
}

}  // namespace
}  // namespace sluice::testing
