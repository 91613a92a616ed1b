#include "engine/weights/weight_store.h"

#include <array>

#include "gmock/gmock.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One bf16 tensor of four values whose bytes are 0..7.
std::string Shard(const std::string& tensor) {
  return SafetensorsBytes(
      "{\"" + tensor + R"(":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}})", 8);
}

class WeightStoreTest : public DirectoryTest {
 protected:
  void WriteIndex(const std::string& map) {
    Write("model.safetensors.index.json",
          R"({"metadata":{"total_size":16},"weight_map":)" + map + "}");
  }
  std::string OpenError() {
    const auto store = WeightStore::Open(directory());
    EXPECT_EQ(store.status().code(), absl::StatusCode::kInvalidArgument) << store.status();
    return std::string(store.status().message());
  }
};

TEST_F(WeightStoreTest, ReadsPartsOfATensor) {
  Write("model.safetensors", Shard("w"));
  auto store = WeightStore::Open(directory());
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->Contains("w"));
  EXPECT_THAT((*store)->Find("w")->shape, ElementsAre(4));
  EXPECT_THAT((*store)->Unused(), ElementsAre("w"));
  std::array<std::byte, 4> part{};
  ASSERT_TRUE((*store)->Read("w", 1, part).ok());
  EXPECT_THAT(part, ElementsAre(std::byte{2}, std::byte{3}, std::byte{4}, std::byte{5}));
  EXPECT_TRUE((*store)->Unused().empty());
}

TEST_F(WeightStoreTest, RefusesReadsOutsideATensor) {
  Write("model.safetensors", Shard("w"));
  auto store = WeightStore::Open(directory());
  ASSERT_TRUE(store.ok());
  std::array<std::byte, 4> part{};
  for (const int64_t first : {int64_t{-1}, int64_t{3}, int64_t{4}, int64_t{1} << 62}) {
    EXPECT_EQ((*store)->Read("w", first, part).code(), absl::StatusCode::kOutOfRange) << first;
  }
  std::array<std::byte, 3> odd{};
  EXPECT_EQ((*store)->Read("w", 0, odd).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*store)->Read("v", 0, part).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ((*store)->Find("v").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(WeightStoreTest, FingerprintKnowsTheValuesOfEveryShard) {
  WriteIndex(R"({"a":"1.safetensors","b":"2.safetensors"})");
  const auto fingerprint = [&](const std::string& first, const std::string& second) {
    for (const auto& [name, bytes] :
         {std::pair("1.safetensors", first), std::pair("2.safetensors", second)}) {
      Write(name, bytes);
      std::filesystem::last_write_time(Path(name), std::filesystem::file_time_type());
    }
    const auto store = WeightStore::Open(directory());
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? (*store)->Fingerprint().value_or("") : "";
  };
  const std::string a = Shard("a"), b = Shard("b");
  const auto other = [](std::string shard) {
    shard[shard.size() - 4] = 99;
    return shard;
  };
  const std::string expected = fingerprint(a, b);
  EXPECT_NE(expected, "");
  EXPECT_EQ(expected, fingerprint(a, b));
  EXPECT_NE(expected, fingerprint(other(a), b));
  EXPECT_NE(expected, fingerprint(a, other(b)));
}

TEST_F(WeightStoreTest, AFileThatBecameShorterIsDataLoss) {
  Write("model.safetensors", Shard("w"));
  auto store = WeightStore::Open(directory());
  ASSERT_TRUE(store.ok());
  std::filesystem::resize_file(Path("model.safetensors"),
                               std::filesystem::file_size(Path("model.safetensors")) - 1);
  std::array<std::byte, 8> all{};
  EXPECT_EQ((*store)->Read("w", 0, all).code(), absl::StatusCode::kDataLoss);
}

TEST_F(WeightStoreTest, CountersAreListedButNotReadable) {
  Write("model.safetensors",
        SafetensorsBytes(R"({"n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8));
  auto store = WeightStore::Open(directory());
  ASSERT_TRUE(store.ok());
  EXPECT_TRUE((*store)->Contains("n"));
  EXPECT_THAT(std::string((*store)->Find("n").status().message()), HasSubstr("'n'"));
}

TEST_F(WeightStoreTest, ReadsShards) {
  Write("one.safetensors", Shard("a"));
  Write("two.safetensors", Shard("b"));
  WriteIndex(R"({"a":"one.safetensors","b":"two.safetensors"})");
  auto store = WeightStore::Open(directory());
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->total_bytes(), 16);
  std::array<std::byte, 8> all{};
  EXPECT_TRUE((*store)->Read("b", 0, all).ok());
  EXPECT_THAT((*store)->Unused(), ElementsAre("a"));
}

TEST_F(WeightStoreTest, ShardNamesStayInsideTheDirectory) {
  std::ofstream(root_ / "x.safetensors") << Shard("a");
  for (const char* shard :
       {"../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "", ".", "..", "x.bin"}) {
    WriteIndex(std::string(R"({"a":")") + shard + "\"}");
    EXPECT_THAT(OpenError(), HasSubstr("inside the model directory")) << shard;
  }
  WriteIndex(R"({"a":3})");
  EXPECT_THAT(OpenError(), HasSubstr("tensor 'a'"));
  WriteIndex(R"({"a":"x\u0000.safetensors"})");
  EXPECT_THAT(OpenError(), HasSubstr("inside the model directory"));
}

TEST_F(WeightStoreTest, TheIndexAndTheShardsMustAgree) {
  Write("one.safetensors", Shard("a"));
  Write("two.safetensors", Shard("b"));
  WriteIndex(R"({"a":"one.safetensors","b":"one.safetensors"})");
  EXPECT_THAT(OpenError(), HasSubstr("tensor 'b' is not in 'one.safetensors'"));
  WriteIndex(R"({"a":"two.safetensors","b":"one.safetensors"})");
  EXPECT_THAT(OpenError(), HasSubstr("in another shard by the index"));
  WriteIndex(R"({"a":"one.safetensors","c":"two.safetensors"})");
  EXPECT_THAT(OpenError(), HasSubstr("'b' is not in the index"));
  WriteIndex(R"({"a":"one.safetensors","b":"three.safetensors"})");
  EXPECT_EQ(WeightStore::Open(directory()).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(WeightStoreTest, AShardUnderTwoNamesIsRefused) {
  Write("one.safetensors", Shard("a"));
  std::filesystem::create_hard_link(Path("one.safetensors"), Path("two.safetensors"));
  WriteIndex(R"({"a":"one.safetensors","b":"two.safetensors"})");
  EXPECT_THAT(OpenError(), HasSubstr("the same file as"));
}

TEST_F(WeightStoreTest, MalformedIndexesAreRefused) {
  for (const char* map :
       {"[]", "null", "3", "{}", R"({"a":"x.safetensors","a":"y.safetensors"})"}) {
    WriteIndex(map);
    EXPECT_THAT(OpenError(), HasSubstr("index.json: ")) << map;
  }
  Write("model.safetensors.index.json", "{");
  EXPECT_THAT(OpenError(), HasSubstr("not valid JSON"));
  Write("model.safetensors.index.json", std::string(17 << 20, ' '));
  EXPECT_THAT(OpenError(), HasSubstr("larger than the limit"));
}

}  // namespace
}  // namespace sluice::testing
