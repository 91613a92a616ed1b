// What the metadata and the tensor names of a GGUF file must say, key by key.
#include "engine/architectures/gguf_model.h"

#include <cmath>
#include <cstring>

#include "gmock/gmock.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

template <typename T>
GgufValue Number(GgufValueType type, T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return {type, GgufValueType::kU8, 0, std::move(bytes)};
}
GgufValue Int(int64_t value) { return Number(GgufValueType::kI64, value); }
GgufValue Float(float value) { return Number(GgufValueType::kF32, value); }
GgufValue Text(const std::string& text) {
  return {GgufValueType::kString, GgufValueType::kU8, 0, text};
}

template <typename T>
GgufValue List(GgufValueType type, const std::vector<T>& numbers) {
  std::string bytes;
  for (const T number : numbers) bytes += Number(type, number).bytes;
  return {GgufValueType::kArray, type, static_cast<int64_t>(numbers.size()), std::move(bytes)};
}
GgufValue Ints(const std::vector<int64_t>& numbers) { return List(GgufValueType::kI64, numbers); }
GgufValue Bool(bool value) { return Number<char>(GgufValueType::kBool, value ? '\1' : '\0'); }
GgufValue Texts(const std::vector<std::string>& texts) {
  GgufValue value{GgufValueType::kArray, GgufValueType::kString, static_cast<int64_t>(texts.size()),
                  ""};
  for (const std::string& text : texts)
    value.bytes += Number<uint64_t>(GgufValueType::kU64, text.size()).bytes + text;
  return value;
}

using Pairs = std::map<std::string, GgufValue>;

Pairs Qwen3Moe() {
  return {{"general.architecture", Text("qwen3moe")},
          {"qwen3moe.block_count", Int(2)},
          {"qwen3moe.context_length", Int(64)},
          {"qwen3moe.embedding_length", Int(32)},
          {"qwen3moe.feed_forward_length", Int(48)},
          {"qwen3moe.attention.head_count", Int(4)},
          {"qwen3moe.attention.head_count_kv", Int(2)},
          {"qwen3moe.attention.layer_norm_rms_epsilon", Float(1e-5f)},
          {"qwen3moe.rope.freq_base", Float(500.0f)},
          {"qwen3moe.expert_count", Int(6)},
          {"qwen3moe.expert_used_count", Int(2)},
          {"qwen3moe.expert_feed_forward_length", Int(16)}};
}

GgufTensor Tensor(const std::string& name, std::vector<int64_t> shape) {
  GgufTensor tensor;
  tensor.name = name;
  tensor.type = FindGgmlBlockType(0);
  tensor.shape = std::move(shape);
  return tensor;
}

absl::StatusOr<nlohmann::json> Config(const Pairs& pairs) {
  GgufContents contents;
  for (const auto& [key, value] : pairs) contents.metadata.Insert(key, value);
  contents.tensors.push_back(Tensor("token_embd.weight", {60, 32}));
  const auto family = FindGgufFamily(contents.metadata);
  if (!family.ok()) return family.status();
  return GgufConfig(contents, *family);
}

TEST(GgufConfig, SaysWhatTheKeysSay) {
  const auto config = Config(Qwen3Moe());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)["model_type"], "qwen3_moe");
  EXPECT_EQ((*config)["head_dim"], 8);
  EXPECT_EQ((*config)["vocab_size"], 60);
  EXPECT_EQ((*config)["moe_intermediate_size"], 16);
  EXPECT_EQ((*config)["norm_topk_prob"], true);
  EXPECT_EQ((*config)["tie_word_embeddings"], true);
}

TEST(GgufConfig, WrongKeysAreRefusedByName) {
  struct Wrong {
    std::string key;
    GgufValue value;
  };
  const Wrong all[] = {
      {"general.architecture", Text("nosuch")},
      {"general.architecture", Text("qwen\nmoe")},
      {"general.architecture", Int(3)},
      {"split.count", Int(2)},
      {"qwen3moe.block_count", Int(0)},
      {"qwen3moe.block_count", Int(1 << 30)},
      {"qwen3moe.context_length", Int(-1)},
      {"qwen3moe.embedding_length", Int(0)},
      {"qwen3moe.embedding_length", Float(32.0f)},
      {"qwen3moe.attention.head_count", Int(0)},
      {"qwen3moe.attention.head_count_kv", Text("2")},
      {"qwen3moe.attention.layer_norm_rms_epsilon", Text("1e-5")},
      {"qwen3moe.attention.key_length", Int(0)},
      {"qwen3moe.attention.value_length", Int(4)},
      {"qwen3moe.rope.dimension_count", Int(4)},
      {"qwen3moe.rope.scaling.type", Text("longrope")},
      {"qwen3moe.rope.scaling.attn_factor", Float(2.0f)},
      {"qwen3moe.rope.scaling.yarn_ext_factor", Float(1.0f)},  // without yarn
      {"qwen3moe.attention.head_count_kv", Ints({2, 1})},
      {"qwen3moe.attention.head_count_kv", Ints({2})},
      {"qwen3moe.attention.head_count_kv", Ints({2, 2, 2})},
      {"qwen3moe.attention.head_count_kv", Ints({0, 0})},
      {"qwen3moe.expert_count", Int(-1)},
      {"qwen3moe.expert_used_count", Int(0)},
      {"qwen3moe.expert_feed_forward_length", Int(0)},
      {"qwen3moe.expert_group_count", Int(4)},
      {"qwen3moe.attention.sliding_window", Int(4)},
      {"tokenizer.ggml.eos_token_id", Int(60)},
  };
  for (const Wrong& wrong : all) {
    SCOPED_TRACE(wrong.key);
    Pairs pairs = Qwen3Moe();
    pairs[wrong.key] = wrong.value;
    const auto config = Config(pairs);
    ASSERT_FALSE(config.ok());
    const std::string message(config.status().message());
    EXPECT_THAT(message, HasSubstr(wrong.key.substr(wrong.key.find('.') + 1)));
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

// The pairs of another architecture, with its own keys added.
Pairs As(const std::string& architecture, const Pairs& more, bool sparse) {
  Pairs pairs;
  for (const auto& [key, value] : Qwen3Moe()) {
    if (!sparse && key.find(".expert_") != std::string::npos) continue;
    const bool own = key.starts_with("qwen3moe");
    pairs[own ? architecture + key.substr(8) : key] = value;
  }
  pairs["general.architecture"] = Text(architecture);
  for (const auto& [key, value] : more) pairs[key] = value;
  return pairs;
}

TEST(GgufConfig, AListThatSaysTheSameOfEveryLayerIsOneNumber) {
  Pairs pairs = Qwen3Moe();
  pairs["qwen3moe.attention.head_count"] = Ints({4, 4});
  pairs["qwen3moe.attention.head_count_kv"] = Ints({2, 2});
  pairs["qwen3moe.feed_forward_length"] = Ints({48, 48});
  EXPECT_EQ(*Config(pairs), *Config(Qwen3Moe()));
}

TEST(GgufConfig, Yarn) {
  Pairs pairs = Qwen3Moe();
  pairs["qwen3moe.rope.scaling.type"] = Text("yarn");
  pairs["qwen3moe.rope.scaling.factor"] = Float(4.0f);
  pairs["qwen3moe.rope.scaling.yarn_beta_fast"] = Float(16.0f);
  pairs["qwen3moe.rope.scaling.yarn_beta_slow"] = Float(2.0f);
  pairs["qwen3moe.rope.scaling.yarn_ext_factor"] = Float(1.0f);
  pairs["qwen3moe.rope.scaling.yarn_attn_factor"] = Float(1.0f);
  pairs["qwen3moe.rope.scaling.attn_factor"] = Float(1.0f);
  const auto config = Config(pairs);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)["rope_scaling"],
            (nlohmann::json{
                {"rope_type", "yarn"}, {"factor", 4.0}, {"beta_fast", 16.0}, {"beta_slow", 2.0}}));
  pairs["qwen3moe.rope.scaling.attn_factor"] = Float(0.5f);
  const double amplitude = (*Config(pairs))["rope_scaling"]["attention_factor"];
  EXPECT_NEAR(amplitude, 0.5 * (0.1 * std::log(4.0) + 1.0), 1e-12);
  for (const char* key : {"yarn_ext_factor", "yarn_attn_factor"}) {
    Pairs other = pairs;
    other["qwen3moe.rope.scaling." + std::string(key)] = Float(0.5f);
    EXPECT_THAT(std::string(Config(other).status().message()), HasSubstr(key));
  }
}

TEST(GgufConfig, GraniteHasDefaultsAndMustRotate) {
  const auto config = Config(As("granite", {{"granite.logit_scale", Float(2.0f)}}, false));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)["embedding_multiplier"], 1.0);
  EXPECT_EQ((*config)["residual_multiplier"], 1.0);
  EXPECT_DOUBLE_EQ((*config)["attention_multiplier"].get<double>(), 1.0 / std::sqrt(8.0));
  for (const bool rotates : {true, false}) {
    const Pairs pairs = As(
        "granite",
        {{"granite.logit_scale", Float(2.0f)}, {"granite.rope.scaling.finetuned", Bool(rotates)}},
        false);
    EXPECT_EQ(Config(pairs).ok(), rotates);
    EXPECT_TRUE(Config(As("llama", {{"llama.rope.scaling.finetuned", Bool(rotates)}}, false)).ok());
  }
}

TEST(GgufConfig, OldQwenFilesGiveTheWidthOfAllExperts) {
  Pairs pairs = As("qwen2moe", {}, true);
  pairs.erase("qwen2moe.expert_feed_forward_length");
  const auto config = Config(pairs);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)["moe_intermediate_size"], 24);  // 48 / 2
  EXPECT_EQ((*config)["shared_expert_intermediate_size"], 48);
  pairs.erase("qwen2moe.feed_forward_length");
  EXPECT_THAT(std::string(Config(pairs).status().message()),
              HasSubstr("expert_feed_forward_length' is missing"));
}

TEST(GgufConfig, EndTokensAreFoundByIdAndByText) {
  Pairs pairs = Qwen3Moe();
  pairs["tokenizer.ggml.eos_token_id"] = Int(7);
  pairs["tokenizer.ggml.eot_token_id"] = Int(5);
  pairs["tokenizer.ggml.eom_token_id"] = Int(7);
  pairs["tokenizer.ggml.tokens"] =
      Texts({"<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|eot_id|>", "a"});
  pairs["tokenizer.ggml.token_type"] = Ints({3, 4, 3, 1, 1});
  EXPECT_EQ((*Config(pairs))["eos_token_id"], (nlohmann::json{0, 1, 5, 7}));
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    Pairs other = pairs;
    other[key] = Int(60);
    EXPECT_THAT(std::string(Config(other).status().message()), HasSubstr(key));
  }
  pairs["tokenizer.ggml.tokens"] = Texts(std::vector<std::string>(61, "x"));
  EXPECT_THAT(std::string(Config(pairs).status().message()), HasSubstr("at most 60"));
}

TEST(GgufConfig, EveryNeededKeyIsMissedByName) {
  const Pairs all = Qwen3Moe();
  for (const auto& [key, value] : all) {
    Pairs pairs = all;
    pairs.erase(key);
    const auto config = Config(pairs);
    // These have a default: of equal heads, of the usual base, of one hidden size.
    if (key == "qwen3moe.attention.head_count_kv" || key == "qwen3moe.rope.freq_base" ||
        key == "qwen3moe.feed_forward_length" || key == "qwen3moe.expert_feed_forward_length") {
      EXPECT_TRUE(config.ok()) << key << ": " << config.status();
      continue;
    }
    ASSERT_FALSE(config.ok()) << key;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(key));
  }
}

TEST(GgufNames, ExpertsStandUnderOneName) {
  const auto parts = NameGgufTensors({Tensor("blk.1.ffn_up_exps.weight", {3, 16, 32})},
                                     {.architecture = "qwen3moe", .model_type = "qwen3_moe"});
  ASSERT_TRUE(parts.ok()) << parts.status();
  ASSERT_EQ(parts->size(), 1u);
  EXPECT_EQ((*parts)[0].name, "model.layers.1.mlp.experts.{e}.up_proj.weight");
  EXPECT_EQ((*parts)[0].shape, (std::vector<int64_t>{3, 16, 32}));
}

TEST(GgufNames, TheFirstMixtralFilesHaveATensorForEachExpert) {
  const GgufFamily family = {.architecture = "llama", .model_type = "mixtral"};
  const auto parts = NameGgufTensors({Tensor("blk.1.ffn_gate.12.weight", {16, 32})}, family);
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ((*parts)[0].name, "model.layers.1.block_sparse_moe.experts.12.w1.weight");
  for (const char* name :
       {"blk.0.ffn_gate.01.weight", "blk.0.ffn_gate.-1.weight", "blk.0.ffn_gate.5000.weight",
        "blk.0.ffn_gate..weight", "blk.0.attn_q.1.weight", "ffn_gate.1.weight"})
    EXPECT_FALSE(NameGgufTensors({Tensor(name, {16, 32})}, family).ok()) << name;
}

TEST(GgufNames, NormsBehindBelongToOlmo2) {
  const GgufFamily llama = {.architecture = "llama", .model_type = "llama"};
  const GgufFamily olmo2 = {.architecture = "olmo2", .model_type = "olmo2"};
  for (const char* name : {"blk.0.post_attention_norm.weight", "blk.0.post_ffw_norm.weight"}) {
    EXPECT_FALSE(NameGgufTensors({Tensor(name, {4})}, llama).ok()) << name;
    EXPECT_TRUE(NameGgufTensors({Tensor(name, {4})}, olmo2).ok()) << name;
  }
  for (const char* name : {"blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"}) {
    EXPECT_TRUE(NameGgufTensors({Tensor(name, {4})}, llama).ok()) << name;
    EXPECT_FALSE(NameGgufTensors({Tensor(name, {4})}, olmo2).ok()) << name;
  }
}

TEST(GgufNames, UnknownAndRepeatedNamesAreRefused) {
  const GgufFamily family = {.architecture = "llama", .model_type = "llama"};
  for (const char* name :
       {"blk.0.nosuch.weight", "blk.x.attn_q.weight", "blk.-1.attn_q.weight", "blk.0attn_q.weight",
        "blk.99999999999.attn_q.weight", "blk.0.attn_q.scale", "attn_q.weight", "blk.0.", "", ".",
        "weight", "output", "blk.5000.attn_q.weight"}) {
    const auto parts = NameGgufTensors({Tensor(name, {4, 4})}, family);
    ASSERT_FALSE(parts.ok()) << name;
    EXPECT_THAT(std::string(parts.status().message()), HasSubstr("is not known"));
  }
  EXPECT_FALSE(
      NameGgufTensors({Tensor("blk.0.ffn_norm.weight", {4}), Tensor("blk.00.ffn_norm.weight", {4})},
                      family)
          .ok());
  EXPECT_FALSE(NameGgufTensors({Tensor("blk.0.ffn_up_exps.weight", {4, 4})}, family).ok());
}

}  // namespace
}  // namespace sluice
