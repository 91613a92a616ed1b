// The shipped models against their training code (tools/golden/tiny_models.py: bf16 weights, fp32
// arithmetic): the last logits of two prompts and, for tiny-mod, which rows each routed layer
// takes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/golden/golden_files.h"
#include "tests/golden/golden_run.h"
#include "tests/support/tensors.h"

namespace sluice {
namespace {

struct Variant {
  const char* name;
  const char* device;
  kernels::WeightFormat weights;
  Tolerance tolerance;
  float certain;  // a row this far from the threshold must be decided as the reference decides
};

void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

// With bf16 kernels the activations are rounded to 8 bits before each product.
const Variant kVariants[] = {
    {"reference_f32", "reference", kernels::WeightFormat::kF32, {2e-4f, 2e-5f}, 1e-3f},
    {"cpu_f32", "cpu", kernels::WeightFormat::kF32, {2e-4f, 2e-5f}, 1e-3f},
    {"cpu_bf16", "cpu", kernels::WeightFormat::kBF16, {0.35f, 0.0f}, 0.5f},
};

class TinyModelTest : public ::testing::TestWithParam<std::tuple<const char*, Variant>> {};

TEST_P(TinyModelTest, MatchesItsTrainingCode) {
  const auto& [model, variant] = GetParam();
  const std::string directory = absl::StrCat(SourceDirectory(), "/models/", model);
  const std::string golden = absl::StrCat(SourceDirectory(), "/tests/golden_shipped/", model);
  if (!std::filesystem::exists(directory + "/model.safetensors"))
    GTEST_SKIP() << directory << " is not there";
  const auto expected = ReadExpected(golden, "expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();
  EngineConfig config;
  config.device = variant.device;
  config.weights = variant.weights;
  config.threads = 2;
  config.max_sequences = 2;
  auto run = GoldenRun::Load(directory, config);
  ASSERT_TRUE(run.ok()) << run.status();

  for (int prompt = 0; expected->count(absl::StrCat("input_ids.", prompt)) > 0; ++prompt) {
    SCOPED_TRACE(absl::StrCat("prompt ", prompt));
    const std::vector<int32_t>& tokens = expected->at(absl::StrCat("input_ids.", prompt)).integers;
    const auto traces = run->Run({tokens}, OneShot({static_cast<int32_t>(tokens.size())}));
    ASSERT_TRUE(traces.ok()) << traces.status();
    for (const auto& [layer, taken] : traces->front().taken) {
      const std::string suffix = absl::StrCat(prompt, ".layer", layer);
      const auto& mask = expected->at("mask." + suffix).integers;
      const auto& scores = expected->at("router_logits." + suffix).floats;
      ASSERT_EQ(taken.size(), mask.size());
      for (size_t row = 0; row < mask.size(); ++row) {
        if (std::fabs(scores[row]) < variant.certain) continue;
        ASSERT_EQ(taken[row], mask[row])
            << "layer " << layer << " row " << row << " score " << scores[row];
      }
    }
    const std::vector<float>& logits = expected->at(absl::StrCat("logits.", prompt)).floats;
    const std::span<const float> last = std::span(traces->front().logits).last(logits.size());
    EXPECT_TRUE(AllNear(last, logits, variant.tolerance));
  }
}

INSTANTIATE_TEST_SUITE_P(Models,
                         TinyModelTest,
                         ::testing::Combine(::testing::Values("tiny-mod",
                                                              "tiny-dense",
                                                              "tiny-dense-5",
                                                              "tiny-moe",
                                                              "tiny-moeut",
                                                              "tiny-mor",
                                                              "tiny-mod-predictor",
                                                              "tiny-mode"),
                                            ::testing::ValuesIn(kVariants)),
                         [](const auto& param) {
                           std::string name = std::get<0>(param.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return absl::StrCat(name, "_", std::get<1>(param.param).name);
                         });

}  // namespace
}  // namespace sluice
