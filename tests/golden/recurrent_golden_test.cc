// Models whose rows run a layer group a varying number of times, against the outputs of the
// published code in ../shared/goldens: Huginn, Mixture-of-Recursions, Sparse Universal Transformer.
// Values first, then the same bits in chunks, token by token and beside another sequence.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/golden/golden_files.h"
#include "tests/golden/golden_run.h"
#include "tests/support/tensors.h"

namespace sluice {
namespace {

using nlohmann::json;

// The README of the fixtures: 1e-5, and 2e-5 for mor and sut.
constexpr Tolerance kTolerance{.absolute = 2e-5f, .relative = 2e-6f};

void WriteSafetensors(const ExpectedTensors& tensors, const std::string& path) {
  json header = json::object();
  size_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = end;
    end += 4 * tensor.floats.size();
    header[name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), 8) << text;
  for (const auto& [name, tensor] : tensors) {
    out.write(reinterpret_cast<const char*>(tensor.floats.data()),
              static_cast<std::streamsize>(4 * tensor.floats.size()));
  }
}

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

  // Serves `weights`, or the fixture's, with `config`.
  GoldenRun Serve(const json& config, const ExpectedTensors* weights = nullptr) {
    const ScratchDirectory served(absl::StrCat("recurrent-", GetParam()));
    std::ofstream(served.path() + "/config.json") << config.dump(1);
    const std::string file = served.path() + "/model.safetensors";
    if (weights == nullptr) {
      std::filesystem::copy_file(directory_ + "/weights.safetensors", file);
    } else {
      WriteSafetensors(*weights, file);
    }
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

json HuginnConfig(const json& golden, int32_t num_steps) {
  return {{"model_type", "huginn_raven"},
          {"vocab_size", golden["vocab"]},
          {"n_embd", golden["d_model"]},
          {"n_heads", golden["n_heads"]},
          {"intermediate_size", golden["d_ff"]},
          {"n_layers_in_prelude", golden["prelude_layers"]},
          {"n_layers_in_recurrent_block", golden["core_layers"]},
          {"n_layers_in_coda", golden["coda_layers"]},
          {"block_size", golden["block_size"]},
          {"rope_base", golden["rope_base"]},
          {"mean_recurrence", num_steps},
          {"init_values", {{"embed_scale", golden["embed_scale"]}}},
          {"tie_embeddings", golden["tied_head"]}};
}

TEST_P(RecurrentGoldenTest, HuginnMatchesLayerByLayer) {
  if (!Open("huginn")) GTEST_SKIP() << directory_ << " is not there";
  const int32_t steps = golden_["num_steps"];
  GoldenRun run = Serve(HuginnConfig(golden_, steps));
  EXPECT_EQ(run.unused_weights(), (std::vector<std::string>{"freqs_cis", "lm_head.weight"}));
  const auto tokens = Tokens();
  const auto traces = Run(run, tokens, OneShot({24, 24}));
  for (size_t s = 0; s < tokens.size(); ++s) {
    const auto layer = [&](int32_t instance) { return traces[s].hidden.at(instance); };
    for (int32_t i = 0; i < 2; ++i)
      ASSERT_TRUE(AllNear(layer(i), Part(absl::StrCat("prelude.", i), s), kTolerance)) << i;
    for (int32_t r = 0; r < steps; ++r) {
      ASSERT_TRUE(AllNear(layer(2 + 4 * r + 3), Part(absl::StrCat("latent.", r), s), kTolerance))
          << "recurrence " << r;
    }
    for (int32_t i = 0; i < 2; ++i) {
      ASSERT_TRUE(AllNear(layer(2 + 4 * steps + i), Part(absl::StrCat("coda.", i), s), kTolerance))
          << i;
    }
    EXPECT_TRUE(AllNear(traces[s].logits, Part("logits", s), kTolerance));
  }
  ExpectSameBitsInEveryWayOfRunning(run, tokens);
}

TEST_P(RecurrentGoldenTest, HuginnAtOtherNumbersOfSteps) {
  if (!Open("huginn")) GTEST_SKIP() << directory_ << " is not there";
  for (const int32_t steps : golden_["other_steps"]) {
    json config = HuginnConfig(golden_, golden_["num_steps"]);
    config["num_steps"] = steps;
    GoldenRun run = Serve(config);
    const auto traces = Run(run, Tokens(), Together({24, 24}, 24));
    for (size_t s = 0; s < traces.size(); ++s) {
      const std::string name = absl::StrCat("steps", steps, ".logits");
      EXPECT_TRUE(AllNear(traces[s].logits, Part(name, s), kTolerance)) << steps << " steps";
    }
  }
}

json RecursionConfig(const json& golden) {
  return {{"model_type", "mor"},
          {"vocab_size", golden["vocab"]},
          {"hidden_size", golden["d_model"]},
          {"num_attention_heads", golden["n_heads"]},
          {"num_key_value_heads", golden["n_kv_heads"]},
          {"intermediate_size", golden["d_ff"]},
          {"num_hidden_layers", golden["n_layers"]},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", golden["rope_theta"]},
          {"tie_word_embeddings", golden["tied_head"]},
          {"mor",
           {{"type", golden["mor_type"]},
            {"num_recursion", golden["num_recursion"]},
            {"router_type", golden["router_type"]},
            {"router_func", golden["router_func"]},
            {"alpha", golden["alpha"]},
            {"temp", golden["temp"]}}}};
}

TEST_P(RecurrentGoldenTest, RecursionsByTokenChoice) {
  if (!Open("mor-token")) GTEST_SKIP() << directory_ << " is not there";
  GoldenRun run = Serve(RecursionConfig(golden_));
  const auto tokens = Tokens();
  const auto length = static_cast<int32_t>(tokens[0].size());
  const SequenceTrace trace = Run(run, tokens, OneShot({length}))[0];
  ASSERT_TRUE(AllNear(trace.embed, Part("hidden.embed", 0), kTolerance)) << "embedding";
  ASSERT_TRUE(AllNear(trace.hidden.at(0), Part("hidden.0", 0), kTolerance)) << "first layer";
  // Rows of the second layer of each recursion: who went that deep.
  const auto& depth = expected_.at("route.depth").integers;
  const auto dim = static_cast<size_t>(golden_["d_model"]);
  for (int32_t r = 0; r < 3; ++r) {
    const std::vector<float>& hidden = trace.hidden.at(1 + 2 * r + 1);
    for (size_t t = 0; t < depth.size(); ++t) {
      const bool ran = hidden.size() >= (t + 1) * dim && hidden[t * dim] != 0.0f;
      EXPECT_EQ(ran, depth[t] >= r) << "recursion " << r << " token " << t;
    }
  }
  EXPECT_TRUE(AllNear(trace.hidden.at(7), Part("hidden.2", 0), kTolerance)) << "last layer";
  EXPECT_TRUE(AllNear(trace.logits, Part("logits", 0), kTolerance));
  const std::vector<int32_t> prefix(tokens[0].begin(), tokens[0].begin() + 17);
  EXPECT_TRUE(
      AllNear(Run(run, {prefix}, OneShot({17}))[0].logits, Part("short.logits", 0), kTolerance));
  ExpectSameBitsInEveryWayOfRunning(run, {tokens[0], prefix});
}

TEST_P(RecurrentGoldenTest, RecursionsByExpertChoice) {
  if (!Open("mor-expert")) GTEST_SKIP() << directory_ << " is not there";
  json config = RecursionConfig(golden_);
  config["mor"]["capacity"] = golden_["capacity"];
  config["mor"]["prefill_decide"] = "router_topk";  // what the published code does
  GoldenRun run = Serve(config);
  const std::vector<int32_t> tokens = Tokens()[0];
  for (const auto& [prefix, length] : {std::pair("", 30), std::pair("short.", 17)}) {
    SCOPED_TRACE(length);
    const std::vector<int32_t> prompt(tokens.begin(), tokens.begin() + length);
    const SequenceTrace trace = Run(run, {prompt}, OneShot({length}))[0];
    for (int32_t r = 0; r < 3; ++r) {
      EXPECT_EQ(trace.taken.at(1 + r),
                expected_.at(absl::StrCat(prefix, "route.", r, ".mask")).integers)
          << "recursion " << r;
    }
    for (int32_t layer = 0; layer < 5; ++layer) {
      const std::string name = absl::StrCat(prefix, "hidden.", layer);
      ASSERT_TRUE(AllNear(trace.hidden.at(layer), Part(name, 0), kTolerance)) << layer;
    }
    EXPECT_TRUE(AllNear(trace.logits, Part(absl::StrCat(prefix, "logits"), 0), kTolerance));
  }
  const SequenceTrace single = Run(run, {{tokens[0]}}, OneShot({1}))[0];
  EXPECT_TRUE(AllNear(single.logits, Part("single.logits", 0), kTolerance));
}

// By threshold the same weights are causal: any split and any company give the same bits.
TEST_P(RecurrentGoldenTest, RecursionsByThreshold) {
  if (!Open("mor-expert")) GTEST_SKIP() << directory_ << " is not there";
  GoldenRun run = Serve(RecursionConfig(golden_));
  const std::vector<int32_t> tokens = Tokens()[0];
  const SequenceTrace trace = Run(run, {tokens}, OneShot({30}))[0];
  for (size_t t = 0; t < tokens.size(); ++t) {
    EXPECT_LE(trace.taken.at(2)[t], trace.taken.at(1)[t]) << "deeper rows come from the others";
    EXPECT_LE(trace.taken.at(3)[t], trace.taken.at(2)[t]);
  }
  ExpectSameBitsInEveryWayOfRunning(run, {tokens, {tokens.rbegin(), tokens.rend()}});
}

json SparseUniversalConfig(const json& golden) {
  return {{"model_type", "sut"},
          {"vocab_size", golden["vocab"]},
          {"hidden_size", golden["d_model"]},
          {"num_hidden_layers", golden["n_steps"]},
          {"head_dim", golden["d_head"]},
          {"attention_expert_size", golden["att_expert_dim"]},
          {"num_attention_experts", golden["att_n_experts"]},
          {"num_attention_experts_per_tok", golden["att_k"]},
          {"num_experts", golden["ff_n_experts"]},
          {"num_experts_per_tok", golden["ff_k"]},
          {"moe_intermediate_size", golden["ff_expert_size"]},
          {"max_relative_positions", golden["max_relative_positions"]},
          {"pre_norm", golden["preln"]},
          {"norm_input", golden["norm_input"]},
          {"embedding_scale", golden["embedding_scale"]},
          {"halting_threshold", golden["halt_threshold"]},
          {"layer_norm_eps", golden["ln_eps"]}};
}

// Who ran step `i`, with which experts, and the state of everybody after it.
void ExpectSteps(const SequenceTrace& trace,
                 const std::function<std::span<const float>(const std::string&)>& part,
                 const ExpectedTensors& expected,
                 size_t sequence,
                 int32_t steps) {
  for (int32_t i = 0; i < steps; ++i) {
    for (const auto& [kind, ours] : {std::pair("att", "att_q"), std::pair("ffn", "ffn")}) {
      const ExpectedTensor& ids = expected.at(absl::StrCat("route.", i, ".", kind, ".idx"));
      const auto found = trace.experts.find(absl::StrCat(i, ".", ours));
      const size_t size = ids.integers.size() / static_cast<size_t>(ids.shape[0]);
      for (size_t j = 0; j < size; ++j) {
        const int32_t id = ids.integers[sequence * size + j];
        if (id < 0) continue;  // halted: routed nowhere
        ASSERT_TRUE(found != trace.experts.end() && j < found->second.size()) << kind << " " << i;
        ASSERT_EQ(found->second[j], id) << kind << " of step " << i << ", choice " << j;
      }
    }
    ASSERT_TRUE(AllNear(trace.hidden.at(i), part(absl::StrCat("S.", i)), kTolerance))
        << "state after step " << i;
  }
}

TEST_P(RecurrentGoldenTest, RowsHaltInTheSparseUniversalTransformer) {
  for (const char* folder : {"sut-act", "sut-act-preln"}) {
    SCOPED_TRACE(folder);
    if (!Open(folder)) GTEST_SKIP() << directory_ << " is not there";
    GoldenRun run = Serve(SparseUniversalConfig(golden_));
    EXPECT_EQ(run.unused_weights(), std::vector<std::string>());
    const auto tokens = Tokens();
    const auto traces = Run(run, tokens, OneShot({24, 24}));
    for (size_t s = 0; s < tokens.size(); ++s) {
      const auto part = [&](const std::string& name) { return Part(name, s); };
      ASSERT_TRUE(AllNear(traces[s].embed, part("hidden.embed"), kTolerance)) << "embedding";
      ASSERT_NO_FATAL_FAILURE(ExpectSteps(traces[s], part, expected_, s, golden_["n_steps"]));
      EXPECT_TRUE(AllNear(traces[s].logits, part("logits"), kTolerance)) << "logits";
    }
    ExpectSameBitsInEveryWayOfRunning(run, tokens);
  }
}

// The layer of shawntan/SUT on given rows: the rows become the embedding of as many tokens.
TEST_P(RecurrentGoldenTest, RowsHaltInTheOriginalSparseUniversalLayer) {
  if (!Open("sut-orig-layer")) GTEST_SKIP() << directory_ << " is not there";
  auto read = ReadExpected(directory_, "weights.safetensors");
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectedTensors weights;
  for (auto& [name, tensor] : *read) weights["unique_layers.0." + name] = std::move(tensor);
  const ExpectedTensor& x = expected_.at("x");
  const int64_t rows = x.shape[0] * x.shape[1];
  weights["embedding.weight"] = {.shape = {rows, x.shape[2]}, .floats = x.floats};
  weights["output.weight"] = weights["embedding.weight"];
  weights["output.bias"] = {.shape = {rows}, .floats = std::vector<float>(48, 0.0f)};
  for (const char* key : {"vocab", "norm_input", "embedding_scale"}) golden_[key] = 1;
  json config = SparseUniversalConfig(golden_);
  config["vocab_size"] = rows;
  config["norm_input"] = false;
  config["scale_query_only"] = true;
  GoldenRun run = Serve(config, &weights);
  std::vector<std::vector<int32_t>> tokens(2);
  for (int32_t row = 0; row < rows; ++row) tokens[row < rows / 2 ? 0 : 1].push_back(row);
  const auto traces = Run(run, tokens, OneShot({24, 24}));
  for (size_t s = 0; s < tokens.size(); ++s) {
    const auto part = [&](const std::string& name) { return Part(name, s); };
    ASSERT_NO_FATAL_FAILURE(ExpectSteps(traces[s], part, expected_, s, golden_["n_steps"]));
  }
  ExpectSameBitsInEveryWayOfRunning(run, tokens);
}

INSTANTIATE_TEST_SUITE_P(Backends,
                         RecurrentGoldenTest,
                         ::testing::Values("reference", "cpu"),
                         [](const auto& backend) { return std::string(backend.param); });

}  // namespace
}  // namespace sluice
