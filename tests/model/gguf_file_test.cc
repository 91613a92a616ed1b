// Whole GGUF files: every tensor is read by the model or refused by its name.
#include <functional>

#include "engine/architectures/gguf_model.h"
#include "gmock/gmock.h"
#include "tests/weights/file_fixture.h"
#include "tests/weights/gguf_bytes.h"

namespace sluice::testing {
namespace {

using ::testing::HasSubstr;

using Tensors = std::map<std::string, std::vector<uint64_t>>;  // sizes innermost first

std::string Int(const std::string& key, uint32_t value) {
  return GgufPair(key, 4, LittleEndian(value));
}

// A llama of one layer, 4 experts when asked.
struct SmallModel {
  std::vector<std::string> pairs;
  Tensors tensors;

  explicit SmallModel(uint32_t experts = 0) {
    pairs = {GgufPair("general.architecture", 8, GgufText("llama")),
             GgufPair("llama.attention.layer_norm_rms_epsilon", 6, LittleEndian(1e-5f)),
             Int("llama.block_count", 1),
             Int("llama.context_length", 64),
             Int("llama.embedding_length", 8),
             Int("llama.feed_forward_length", 16),
             Int("llama.attention.head_count", 2)};
    tensors = {{"token_embd.weight", {8, 12}},  {"output_norm.weight", {8}},
               {"output.weight", {8, 12}},      {"blk.0.attn_norm.weight", {8}},
               {"blk.0.attn_q.weight", {8, 8}}, {"blk.0.attn_k.weight", {8, 8}},
               {"blk.0.attn_v.weight", {8, 8}}, {"blk.0.attn_output.weight", {8, 8}},
               {"blk.0.ffn_norm.weight", {8}}};
    const Tensors dense = {{"gate", {8, 16}}, {"up", {8, 16}}, {"down", {16, 8}}};
    for (const auto& [name, sizes] : dense) {
      std::vector<uint64_t> stacked = sizes;
      stacked.push_back(experts);
      if (experts == 0) tensors["blk.0.ffn_" + name + ".weight"] = sizes;
      if (experts > 0) tensors["blk.0.ffn_" + name + "_exps.weight"] = stacked;
    }
    if (experts == 0) return;
    tensors["blk.0.ffn_gate_inp.weight"] = {8, experts};
    pairs.push_back(Int("llama.expert_count", experts));
    pairs.push_back(Int("llama.expert_used_count", 2));
  }

  std::string Bytes() const {
    GgufParts parts;
    parts.num_pairs = pairs.size();
    for (const std::string& pair : pairs) parts.pairs += pair;
    parts.num_tensors = tensors.size();
    for (const auto& [name, sizes] : tensors) {
      parts.infos += GgufInfo(name, sizes, /*type=*/0, parts.values.size());
      size_t bytes = sizeof(float);
      for (const uint64_t size : sizes) bytes *= size;
      parts.values += std::string((bytes + 31) / 32 * 32, '\0');
    }
    return parts.Bytes();
  }
};

class GgufFileTest : public DirectoryTest {
 protected:
  absl::StatusOr<GgufModel> Load(const SmallModel& model) {
    Write("m.gguf", model.Bytes());
    auto file = ModelFile::Open(directory(), "m.gguf");
    if (!file.ok()) return file.status();
    return LoadGgufModel(*std::move(file));
  }
  void ExpectRefused(const SmallModel& model, const std::string& message) {
    const absl::Status status = Load(model).status();
    EXPECT_FALSE(status.ok()) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_THAT(std::string(status.message()), HasSubstr("m.gguf"));
  }
};

TEST_F(GgufFileTest, ATensorThatTheModelDoesNotReadIsRefused) {
  for (const uint32_t experts : {0u, 4u}) {
    ASSERT_TRUE(Load(SmallModel(experts)).ok()) << Load(SmallModel(experts)).status();
    const Tensors left = {{"output.bias", {12}},
                          {"output_norm.bias", {8}},
                          {"rope_freqs.bias", {2}},
                          {"blk.0.attn_q_norm.weight", {4}},
                          {"blk.0.attn_norm.bias", {8}},
                          {"blk.0.ffn_gate_inp_shexp.weight", {8}},
                          {"blk.0.ffn_up_shexp.weight", {8, 16}},
                          {"blk.1.attn_q.weight", {8, 8}}};
    for (const auto& [name, sizes] : left) {
      SmallModel model(experts);
      model.tensors[name] = sizes;
      ExpectRefused(model, "'" + name + "' is not read by this llama model");
    }
  }
  SmallModel dense, sparse(4);
  dense.tensors["blk.0.ffn_gate_inp.weight"] = {8, 4};
  ExpectRefused(dense, "'blk.0.ffn_gate_inp.weight' is not read");
  sparse.tensors["blk.0.ffn_up.weight"] = {8, 16};
  ExpectRefused(sparse, "'blk.0.ffn_up.weight' is not read");
}

TEST_F(GgufFileTest, BiasesOfProjectionsAreTaken) {
  SmallModel model;
  model.tensors["blk.0.attn_q.bias"] = {8};
  model.tensors["blk.0.attn_v.bias"] = {8};
  model.tensors["blk.0.ffn_down.bias"] = {8};
  const auto loaded = Load(model);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto& sublayers = loaded->spec.decoder().groups[0].layers[0].sublayers;
  const auto& attention = std::get<AttentionSpec>(sublayers[0].block);
  EXPECT_EQ(attention.q.bias, "model.layers.0.self_attn.q_proj.bias");
  EXPECT_EQ(attention.k.bias, "");
  EXPECT_NE(attention.v.bias, "");
  EXPECT_EQ(attention.o.bias, "");
  EXPECT_NE(std::get<DenseFfnSpec>(sublayers[1].block).down.bias, "");
  model.tensors["blk.0.attn_k.bias"] = {4};
  ExpectRefused(model, "k_proj.bias' has shape [4], expected [8]");
}

TEST_F(GgufFileTest, ExpertsAreAsManyAsTheKeySays) {
  for (const uint64_t experts : {3u, 5u}) {
    SmallModel model(4);
    model.tensors["blk.0.ffn_up_exps.weight"] = {8, 16, experts};
    ExpectRefused(model, "'blk.0.ffn_up_exps.weight' has " + std::to_string(experts) + " experts");
  }
}

TEST_F(GgufFileTest, OneTensorForEachExpertIsTheSame) {
  SmallModel model(4);
  for (const char* name : {"gate", "up", "down"}) {
    const auto stacked = model.tensors.extract("blk.0.ffn_" + std::string(name) + "_exps.weight");
    for (int e = 0; e < 4; ++e) {
      model.tensors["blk.0.ffn_" + std::string(name) + "." + std::to_string(e) + ".weight"] = {
          stacked.mapped()[0], stacked.mapped()[1]};
    }
  }
  ASSERT_TRUE(Load(model).ok()) << Load(model).status();
  model.tensors["blk.0.ffn_up.4.weight"] = {8, 16};
  ExpectRefused(model, "'blk.0.ffn_up.4.weight' is not read");
}

}  // namespace
}  // namespace sluice::testing
