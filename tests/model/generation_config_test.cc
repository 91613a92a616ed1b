// What generation_config.json may say about sampling.
#include "engine/architectures/generation_config.h"

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "server/request_validation.h"
#include "tests/support/fake_engine.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class GenerationConfigTest : public DirectoryTest {
 protected:
  absl::StatusOr<SamplingDefaults> Read(const std::string& text) {
    Write("generation_config.json", text);
    return ReadSamplingDefaults(directory());
  }
};

TEST_F(GenerationConfigTest, WithoutAWordOfTheModelTheApisDefaultsHold) {
  EXPECT_EQ(*ReadSamplingDefaults(directory()), SamplingDefaults());
  for (const char* text :
       {"{}", R"({"eos_token_id": [2, 7], "max_new_tokens": 5, "typical_p": 0.5, "what": {}})",
        R"({"temperature": null, "top_p": null, "top_k": null, "min_p": null,
            "repetition_penalty": null})"}) {
    const auto defaults = Read(text);
    ASSERT_TRUE(defaults.ok()) << defaults.status();
    EXPECT_EQ(*defaults, SamplingDefaults()) << text;
  }
}

TEST_F(GenerationConfigTest, EveryValueArrives) {
  const auto defaults = Read(R"({"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05,
                                 "repetition_penalty": 1.05, "do_sample": true})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(*defaults, (SamplingDefaults{.temperature = 0.7,
                                         .top_p = 0.8,
                                         .top_k = 20,
                                         .min_p = 0.05,
                                         .repetition_penalty = 1.05,
                                         .gives_temperature = true}));
  const SamplingParams params = defaults->Params();
  EXPECT_EQ(params.temperature, 0.7f);
  EXPECT_EQ(params.top_p, 0.8f);
  EXPECT_EQ(params.top_k, 20);
  EXPECT_EQ(params.min_p, 0.05f);
  EXPECT_EQ(params.repetition_penalty, 1.05f);
}

TEST_F(GenerationConfigTest, AnIntegerIsANumberAndTheNeutralTemperatureIsSaidToo) {
  const auto defaults = Read(R"({"temperature": 1})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->temperature, 1.0);
  EXPECT_TRUE(defaults->gives_temperature);
}

// As in vLLM, which takes the named values only.
TEST_F(GenerationConfigTest, DoSampleSaysNothing) {
  EXPECT_EQ(*Read(R"({"do_sample": false})"), SamplingDefaults());
  EXPECT_EQ(Read(R"({"do_sample": false, "temperature": 0.6})")->temperature, 0.6);
}

TEST_F(GenerationConfigTest, ABadValueIsRefusedByFileAndName) {
  for (const char* key : {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}) {
    for (const char* value : {"\"0.5\"", "true", "[1]", "{}", "-2", "1e30", "1e300"}) {
      const auto defaults = Read(absl::StrCat("{\"", key, "\": ", value, "}"));
      ASSERT_FALSE(defaults.ok()) << key << " " << value;
      EXPECT_EQ(defaults.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(defaults.status().message()),
                  AllOf(HasSubstr(directory() + "/generation_config.json: '" + key + "'"),
                        HasSubstr("must be")))
          << value;
    }
  }
  EXPECT_FALSE(Read(R"({"top_k": 1.5})").ok());
  EXPECT_FALSE(Read("[]").ok());
  EXPECT_FALSE(Read(R"({"top_p": NaN})").ok());
}

// A default that validation would refuse makes every request fail that leaves the field out.
TEST_F(GenerationConfigTest, TheRangesAreThoseOfRequests) {
  struct Key {
    const char* name;
    std::function<void(SamplingDefaults&, double)> set;
  };
  const std::vector<Key> keys = {
      {"temperature", [](SamplingDefaults& d, double v) { d.temperature = v; }},
      {"top_p", [](SamplingDefaults& d, double v) { d.top_p = v; }},
      {"top_k", [](SamplingDefaults& d, double v) { d.top_k = static_cast<int32_t>(v); }},
      {"min_p", [](SamplingDefaults& d, double v) { d.min_p = v; }},
      {"repetition_penalty", [](SamplingDefaults& d, double v) { d.repetition_penalty = v; }},
  };
  for (const Key& key : keys) {
    int refused = 0;
    for (const double value : {-2.0, -1.0, -0.125, 0.0, 1e-60, 0.25, 0.9999999999999, 1.0, 1.125,
                               2.0, 2.125, 10.0, 10.125, 50.0, 2147483647.0}) {
      const bool is_integer = value == static_cast<double>(static_cast<int32_t>(value));
      if (std::string(key.name) == "top_k" && !is_integer) continue;
      SamplingDefaults defaults;
      key.set(defaults, value);
      Request request;
      request.sampling = defaults.Params();
      const bool valid = server::ValidateParameters(request, FakeModelCard()).ok();
      const std::string text =
          is_integer ? absl::StrCat(static_cast<int32_t>(value)) : nlohmann::json(value).dump();
      EXPECT_EQ(Read(absl::StrCat("{\"", key.name, "\": ", text, "}")).ok(), valid)
          << key.name << " " << text;
      refused += valid ? 0 : 1;
    }
    EXPECT_GT(refused, 0) << key.name;
  }
}

}  // namespace
}  // namespace sluice::testing
