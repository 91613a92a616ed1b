// Golden parity: the reference outputs of every folder of tests/golden and ../shared/goldens
// against ours, on every CPU backend and in every way of running.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "server/commands/spec_summary.h"
#include "tests/golden/golden_check.h"

namespace sluice {
namespace {

struct Variant {
  const char* name;
  CheckOptions options;
};

const Variant kVariants[] = {
    {"reference", {"reference", kernels::WeightFormat::kF32}},
    {"cpu", {"cpu", kernels::WeightFormat::kF32}},
    {"cpu_bf16", {"cpu", kernels::WeightFormat::kBF16}},
    {"cpu_int8", {"cpu", kernels::WeightFormat::kInt8}},
    {"cpu_int4", {"cpu", kernels::WeightFormat::kInt4}},
};

struct Folder {
  std::string name;
  std::string path;
};

// The folders that hold a model and expected values, in the order of their names.
std::vector<Folder> FoldersOf(const std::string& directory) {
  std::vector<Folder> folders;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const bool has_model = std::filesystem::exists(entry.path() / "config.json") ||
                           std::filesystem::exists(entry.path() / "model.gguf");
    if (!has_model || !std::filesystem::exists(entry.path() / "expected.safetensors")) continue;
    folders.push_back({entry.path().filename().string(), entry.path().string()});
  }
  std::sort(folders.begin(), folders.end(),
            [](const Folder& a, const Folder& b) { return a.name < b.name; });
  return folders;
}

std::vector<Folder> OwnFolders() { return FoldersOf(SourceDirectory() + "/tests/golden"); }
std::vector<Folder> GgufFolders() { return FoldersOf(SourceDirectory() + "/tests/golden_gguf"); }
std::vector<Folder> SharedFolders() { return FoldersOf(SharedDirectory() + "/goldens"); }

class GoldenTest : public ::testing::Test {
 public:
  GoldenTest(Folder folder, CheckOptions options, bool own)
      : folder_(std::move(folder)), options_(std::move(options)), own_(own) {}

  void TestBody() override {
    const absl::StatusOr<GoldenReport> report = CheckGolden(folder_.path, options_);
    if (!own_ && absl::IsUnimplemented(report.status())) GTEST_SKIP() << report.status();
    ASSERT_TRUE(report.ok()) << report.status();
    // With 4 bits the first choice may be another one: then only the ways of running are compared.
    const bool may_be_none =
        report->chooses_otherwise && options_.weights == kernels::WeightFormat::kInt4;
    EXPECT_GE(report->tensors.size(), may_be_none ? 0u : report->chooses_otherwise ? 1u : 3u);
    for (const TensorResult& tensor : report->tensors) {
      ASSERT_TRUE(tensor.ok()) << "first wrong is " << tensor.name << ": error " << tensor.worst
                               << ", allowed " << tensor.allowed;
    }
    EXPECT_EQ(report->wrong_ways, std::vector<std::string>()) << "must give the bits of one shot";
    for (const NotCompared& tensor : report->not_compared)
      EXPECT_FALSE(tensor.why.empty()) << tensor.name << " is not compared";
    if (!own_) return;
    EXPECT_EQ(report->unused_weights, std::vector<std::string>());
  }

 private:
  Folder folder_;
  CheckOptions options_;
  bool own_;
};

TEST(GoldenFolders, AreFound) {
  EXPECT_GE(OwnFolders().size(), 20u) << "in " << SourceDirectory();
  EXPECT_GE(GgufFolders().size(), 9u) << "in " << SourceDirectory();
  if (SharedFolders().empty()) GTEST_SKIP() << SharedDirectory() << "/goldens is not there";
}

// Choices that fall the other way must not hollow out the check of rounded weights.
TEST(GoldenFolders, MostAreComparedWholeWithInt8) {
  int whole = 0, cut = 0;
  for (const Folder& folder : OwnFolders()) {
    const auto report = CheckGolden(folder.path, {"cpu", kernels::WeightFormat::kInt8});
    ASSERT_TRUE(report.ok()) << report.status();
    (report->chooses_otherwise ? cut : whole) += 1;
  }
  EXPECT_GT(whole, 2 * cut);
}

// A prompt that is routed by top-k must not be cut: nothing that could be computed would be right.
TEST(GoldenDeathTest, APartOfAPromptUnderTopKOrItsMeanIsRefused) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  for (const char* folder : {"mod-topk", "router_tuning"}) {
    auto golden = OpenGoldenFolder(SourceDirectory() + "/tests/golden/" + folder,
                                   {"reference", kernels::WeightFormat::kF32});
    ASSERT_TRUE(golden.ok()) << golden.status();
    const auto tokens = GoldenTokens(golden->expected, "");
    const auto length = static_cast<int32_t>(tokens.at(0).size());
    EXPECT_DEATH(golden->run->Run(tokens, InChunks({length}, 7)).IgnoreError(), "part of a prompt");
  }
}

TEST(GoldenDeathTest, APartOfAnEncodersSequenceIsRefused) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  auto golden = OpenGoldenFolder(SourceDirectory() + "/tests/golden/big_bird",
                                 {"reference", kernels::WeightFormat::kF32});
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto tokens = GoldenTokens(golden->expected, "");
  EXPECT_DEATH(golden->run->Run(tokens, InChunks({45}, 20)).IgnoreError(), "part of a sequence");
}

// Tensors that layers share, as the table of relative positions of a Switch Transformer, count
// once.
TEST(GoldenParameters, EveryTensorIsCountedOnce) {
  for (const Folder& folder : OwnFolders()) {
    if (folder.name == "gpt_oss-mxfp4") continue;  // two numbers and a shared scale in a byte
    auto golden = OpenGoldenFolder(folder.path, {"cpu", kernels::WeightFormat::kF32});
    ASSERT_TRUE(golden.ok()) << golden.status();
    auto weights = ReadExpected(folder.path, "model.safetensors");
    ASSERT_TRUE(weights.ok()) << weights.status();
    int64_t numbers = 0;
    for (const auto& [name, tensor] : *weights)
      numbers += static_cast<int64_t>(tensor.floats.size());
    const EmbeddingSpec& embedding = golden->run->spec().decoder().embedding;
    // Every token is of type 0: the other rows are not loaded.
    if (!embedding.token_type_weight.empty())
      numbers -= (embedding.num_token_types - 1) * embedding.dim;
    EXPECT_EQ(golden->run->facts().parameters_total, numbers) << folder.name;
    const server::SpecSummary summary = server::SummarizeSpec(golden->run->spec());
    EXPECT_EQ(summary.parameters_total, numbers) << folder.name;
    EXPECT_EQ(static_cast<int64_t>(summary.parameters_active),
              golden->run->facts().parameters_active)
        << folder.name;
  }
}

TEST(GoldenCheck, ABrokenFolderIsOneLine) {
  const ScratchDirectory empty("golden-empty");
  for (const std::string& folder : {empty.path(), empty.path() + "/nothing"}) {
    const auto report = CheckGolden(folder, {});
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(std::string(report.status().message()).find('\n'), std::string::npos);
    EXPECT_NE(std::string(report.status().message()).find(folder), std::string::npos)
        << report.status();
  }
}

TEST(GoldenCheck, IdsThatDoNotFitTheLogitsAreNoSequences) {
  const auto tokens = [](ExpectedTensor ids, std::vector<int64_t> logits) {
    return GoldenTokens({{"input_ids", std::move(ids)}, {"logits", {std::move(logits), {}, {}}}},
                        "");
  };
  EXPECT_EQ(tokens({{2, 2}, {}, {1, 2, 3, 4}}, {2, 1, 9}),
            (std::vector<std::vector<int32_t>>{{1}, {3}}));
  EXPECT_EQ(tokens({{3}, {}, {1, 2, 3}}, {3, 9}), (std::vector<std::vector<int32_t>>{{1, 2, 3}}));
  EXPECT_TRUE(tokens({{}, {}, {1}}, {1, 9}).empty());
  EXPECT_TRUE(tokens({{0}, {}, {}}, {0, 9}).empty());
  EXPECT_TRUE(tokens({{3}, {}, {1, 2, 3}}, {4, 9}).empty());
  EXPECT_TRUE(tokens({{3}, {}, {1, 2, 3}}, {2, 3, 9}).empty());
  EXPECT_TRUE(tokens({{3}, {}, {1, 2, 3}}, {9}).empty());
}

void Register(const char* suite, const std::vector<Folder>& folders, bool own) {
  for (const Folder& folder : folders) {
    for (const Variant& variant : kVariants) {
      std::string name = folder.name + "_" + variant.name;
      std::replace(name.begin(), name.end(), '-', '_');
      ::testing::RegisterTest(
          suite, name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
          [=]() -> GoldenTest* { return new GoldenTest(folder, variant.options, own); });
    }
  }
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  sluice::Register("Golden", sluice::OwnFolders(), true);
  sluice::Register("GgufGolden", sluice::GgufFolders(), true);
  sluice::Register("SharedGolden", sluice::SharedFolders(), false);
  return RUN_ALL_TESTS();
}
