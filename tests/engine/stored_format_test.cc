// In which format a GGUF file is served when nobody names one.
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/architectures/gguf_model.h"
#include "engine/model/model_builder.h"
#include "gtest/gtest.h"
#include "kernels/backend_factory.h"

namespace sluice {
namespace {

using kernels::WeightFormat;

TEST(StoredFormat, BlocksOfFewBitsBecomeInt8) {
  struct {
    const char* folder;
    WeightFormat weights;
  } const cases[] = {
      {"qwen2", WeightFormat::kBF16},    // BF16
      {"olmoe", WeightFormat::kBF16},    // F16
      {"olmo2", WeightFormat::kInt8},    // Q8_0
      {"mixtral", WeightFormat::kInt8},  // Q4_0
  };
  const char* source = std::getenv("SLUICE_SOURCE_DIR");
  for (const auto& each : cases) {
    SCOPED_TRACE(each.folder);
    const std::string directory =
        absl::StrCat(source == nullptr ? "." : source, "/tests/golden_gguf/", each.folder);
    auto file = ModelFile::Open(directory, "model.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    auto gguf = LoadGgufModel(*std::move(file));
    ASSERT_TRUE(gguf.ok()) << gguf.status();
    auto backend = kernels::CreateBackend({.device = "reference"});
    ASSERT_TRUE(backend.ok()) << backend.status();
    auto model = BuildModel(gguf->spec, *gguf->weights, **backend, {});
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->weight_format(), each.weights);
  }
}

}  // namespace
}  // namespace sluice
