// P2 of reliability.md for GGUF: every kind of broken file gives one clear line and no crash.
#include "engine/weights/gguf.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "engine/weights/gguf_store.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/weights/file_fixture.h"
#include "tests/weights/gguf_bytes.h"

namespace sluice::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint32_t kF32Type = 0, kQ8Type = 8;
const std::string kQ8Block = std::string("\x00\x3C", 2) + std::string(32, '\x03');  // d = 1, all 3

// A text, a number, a list, and two tensors: f32 [2, 3] and q8_0 [2, 32].
GgufParts Valid() {
  GgufParts parts;
  parts.num_pairs = 3;
  parts.pairs = GgufPair("general.architecture", 8, GgufText("llama")) +
                GgufPair("a.count", 4, LittleEndian<uint32_t>(7)) +
                GgufPair("a.list", 9,
                         LittleEndian<uint32_t>(8) + LittleEndian<uint64_t>(2) + GgufText("x") +
                             GgufText("yz"));
  parts.num_tensors = 2;
  parts.infos = GgufInfo("w", {3, 2}, kF32Type, 0) + GgufInfo("q", {32, 2}, kQ8Type, 32);
  for (int i = 0; i < 6; ++i) parts.values += LittleEndian(static_cast<float>(i));
  parts.values.resize(32);
  parts.values += kQ8Block + kQ8Block;
  return parts;
}

class GgufTest : public DirectoryTest {
 protected:
  absl::StatusOr<GgufContents> Read(std::string_view bytes) {
    Write("m.gguf", bytes);
    auto file = ModelFile::Open(directory(), "m.gguf");
    if (!file.ok()) return file.status();
    return ReadGguf(*file);
  }
  void ExpectRefused(const char* name, std::string_view bytes, const std::string& message) {
    SCOPED_TRACE(name);
    const absl::Status status = Read(bytes).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_THAT(std::string(status.message()), HasSubstr("m.gguf"));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("\n")));
  }
};

TEST_F(GgufTest, AValidFileIsReadInBothVersions) {
  for (const uint32_t version : {2u, 3u}) {
    GgufParts parts = Valid();
    parts.version = version;
    const auto contents = Read(parts.Bytes());
    ASSERT_TRUE(contents.ok()) << contents.status();
    EXPECT_EQ(*contents->metadata.String("general.architecture"), "llama");
    EXPECT_EQ(*contents->metadata.Int("a.count", 0, 10), 7);
    EXPECT_THAT(*contents->metadata.Strings("a.list", 10), ElementsAre("x", "yz"));
    ASSERT_EQ(contents->tensors.size(), 2u);
    EXPECT_THAT(contents->tensors[0].shape, ElementsAre(2, 3));
    EXPECT_EQ(contents->tensors[1].bytes, 68);
    EXPECT_EQ(contents->tensors[1].type->name, "Q8_0");
  }
}

TEST_F(GgufTest, ValuesComeUnderTheirNewNames) {
  Write("m.gguf", Valid().Bytes());
  auto file = ModelFile::Open(directory(), "m.gguf");
  ASSERT_TRUE(file.ok());
  auto contents = ReadGguf(*file);
  ASSERT_TRUE(contents.ok()) << contents.status();
  const auto store = MakeGgufStore(*std::move(file), contents->tensors,
                                   {{"plain", 0, {2, 3}}, {"row.{e}.w", 1, {2, 1, 32}}});
  EXPECT_TRUE(store->Contains("row.0.w"));
  for (const char* none : {"row.2.w", "row.01.w", "row.-1.w", "row.{e}.w", "row..w", "row.1", "w"})
    EXPECT_FALSE(store->Contains(none)) << none;
  std::vector<float> plain(2);
  ASSERT_TRUE(store->Read("plain", 3, std::as_writable_bytes(std::span(plain))).ok());
  EXPECT_THAT(plain, ElementsAre(3.0f, 4.0f));
  std::vector<float> part(5);  // from the middle of a block
  ASSERT_TRUE(store->Read("row.1.w", 27, std::as_writable_bytes(std::span(part))).ok());
  EXPECT_THAT(part, ElementsAre(3.0f, 3.0f, 3.0f, 3.0f, 3.0f));
  EXPECT_FALSE(store->Read("row.1.w", 28, std::as_writable_bytes(std::span(part))).ok());
  EXPECT_THAT(store->Unused(), ElementsAre("row.0.w"));
  ASSERT_NE(store->NeverFound(), nullptr);
  EXPECT_EQ(store->NeverFound()->name, "q");
  EXPECT_THAT(store->Find("row.0.w")->shape, ElementsAre(1, 32));
  EXPECT_EQ(store->NeverFound(), nullptr);
  EXPECT_EQ(store->total_bytes(), 24 + 256);
  EXPECT_TRUE(absl::IsNotFound(store->Find("w").status()));
}

TEST_F(GgufTest, FingerprintKnowsTheValuesOfEveryTensor) {
  const auto fingerprint = [&](const std::string& bytes) {
    Write("m.gguf", bytes);
    std::filesystem::last_write_time(Path("m.gguf"), std::filesystem::file_time_type());
    auto file = ModelFile::Open(directory(), "m.gguf");
    EXPECT_TRUE(file.ok()) << file.status();
    auto contents = ReadGguf(*file);
    EXPECT_TRUE(contents.ok()) << contents.status();
    return MakeGgufStore(*std::move(file), contents->tensors,
                         {{"plain", 0, {2, 3}}, {"row.{e}.w", 1, {2, 1, 32}}})
        ->Fingerprint()
        .value_or("");
  };
  GgufParts parts = Valid();
  const std::string expected = fingerprint(parts.Bytes());
  EXPECT_NE(expected, "");
  EXPECT_EQ(expected, fingerprint(parts.Bytes()));
  for (const size_t at : {size_t{1}, size_t{32 + 40}}) {
    parts = Valid();
    parts.values[at] = 99;
    EXPECT_NE(expected, fingerprint(parts.Bytes())) << at;
  }
}

TEST_F(GgufTest, AFileCutAnywhereIsRefused) {
  const std::string bytes = Valid().Bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto contents = Read(std::string_view(bytes).substr(0, size));
    EXPECT_FALSE(contents.ok()) << size;
  }
}

TEST_F(GgufTest, BrokenHeadersAreRefused) {
  const auto with = [](auto change) {
    GgufParts parts = Valid();
    change(parts);
    return parts.Bytes();
  };
  const uint64_t huge = std::numeric_limits<uint64_t>::max();
  ExpectRefused("empty", "", "shorter than");
  ExpectRefused("magic", with([](auto& p) { p.magic = "GGML"; }), "does not start with");
  for (const uint32_t version : {0u, 1u, 4u, 0x03000000u}) {
    ExpectRefused("version", with([&](auto& p) { p.version = version; }), "GGUF version");
  }
  ExpectRefused("tensors", with([&](auto& p) { p.num_tensors = huge; }), "number of tensors");
  ExpectRefused("keys", with([&](auto& p) { p.num_pairs = huge; }), "number of keys");
  ExpectRefused("one key more", with([](auto& p) { ++p.num_pairs; }), "");
  ExpectRefused("one tensor more", with([](auto& p) { ++p.num_tensors; }), "");
}

TEST_F(GgufTest, BrokenPairsAreRefused) {
  const auto pair = [](const std::string& bytes) {
    GgufParts parts = Valid();
    ++parts.num_pairs;
    parts.pairs += bytes;
    return parts.Bytes();
  };
  const uint64_t huge = std::numeric_limits<uint64_t>::max();
  const std::string list = LittleEndian<uint32_t>(9);
  ExpectRefused("twice", pair(GgufPair("a.count", 0, "x")), "'a.count' stands twice");
  ExpectRefused("empty key", pair(GgufPair("", 0, "x")), "key is empty");
  ExpectRefused("bad key", pair(GgufPair("\xFF\xFE", 0, "x")), "not UTF-8");
  ExpectRefused("long key", pair(LittleEndian(huge)), "length of a key");
  ExpectRefused("type", pair(GgufPair("k", 13, "x")), "unknown type");
  ExpectRefused("long text", pair(GgufPair("k", 8, LittleEndian(huge))), "length of a text");
  ExpectRefused("list of lists", pair(GgufPair("k", 9, list + LittleEndian<uint64_t>(1))),
                "array of arrays");
  for (const uint32_t element : {0u, 5u, 7u, 8u, 12u}) {
    ExpectRefused("long list",
                  pair(GgufPair("k", 9, LittleEndian(element) + LittleEndian(huge / 8))),
                  "length of the array");
  }
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 30}) {
    ExpectRefused("alignment", pair(GgufPair("general.alignment", 4, LittleEndian(alignment))),
                  "general.alignment");
  }
  ExpectRefused("alignment's type", pair(GgufPair("general.alignment", 8, GgufText("32"))),
                "general.alignment");
}

TEST_F(GgufTest, BrokenTensorsAreRefused) {
  const auto tensor = [](const std::string& info, size_t value_bytes = 512) {
    GgufParts parts;
    parts.num_tensors = 1;
    parts.infos = info;
    parts.values = std::string(value_bytes, '\0');
    return parts.Bytes();
  };
  const uint64_t huge = uint64_t{1} << 63;
  ExpectRefused("no name", tensor(GgufInfo("", {4}, 0, 0)), "name is empty");
  ExpectRefused("long name", tensor(GgufInfo(std::string(1025, 'n'), {4}, 0, 0)), "tensor name");
  ExpectRefused("no dimension", tensor(GgufInfo("w", {}, 0, 0)), "1 to 4 dimensions");
  ExpectRefused("five", tensor(GgufInfo("w", {1, 1, 1, 1, 4}, 0, 0)), "1 to 4 dimensions");
  ExpectRefused("zero", tensor(GgufInfo("w", {0}, 0, 0)), "size out of range");
  ExpectRefused("huge", tensor(GgufInfo("w", {huge}, 0, 0)), "size out of range");
  ExpectRefused("product", tensor(GgufInfo("w", {1u << 31, 1u << 31, 4}, 0, 0)), "larger than");
  ExpectRefused("product2", tensor(GgufInfo("w", {4, 1ull << 61, 8}, 0, 0)), "larger than");
  for (const uint32_t type : {4u, 5u, 9u, 15u, 24u, 26u, 99u}) {
    ExpectRefused("type", tensor(GgufInfo("w", {256}, type, 0)), "are not supported");
  }
  ExpectRefused("half a block", tensor(GgufInfo("w", {48}, kQ8Type, 0)), "whole blocks of 32");
  ExpectRefused("offset", tensor(GgufInfo("w", {4}, 0, huge)), "behind the end");
  ExpectRefused("hole", tensor(GgufInfo("w", {4}, 0, 32)), "does not follow");
  ExpectRefused("odd offset", tensor(GgufInfo("w", {4}, 0, 8)), "does not follow");
  ExpectRefused("too short", tensor(GgufInfo("w", {130}, 0, 0)), "file ends inside");
  ExpectRefused("rest", tensor(GgufInfo("w", {4}, 0, 0)), "bytes behind the last");
  GgufParts parts = Valid();
  parts.infos = GgufInfo("w", {3, 2}, kF32Type, 0) + GgufInfo("w", {32, 2}, kQ8Type, 32);
  ExpectRefused("twice", parts.Bytes(), "'w': stands twice");
  parts.infos = GgufInfo("w", {3, 2}, kF32Type, 0) + GgufInfo("q", {32, 2}, kQ8Type, 0);
  ExpectRefused("overlap", parts.Bytes(), "overlaps");
}

TEST_F(GgufTest, AccessorsCheckTypeAndRange) {
  GgufMetadata metadata;
  const auto insert = [&](const char* key, GgufValueType type, std::string bytes) {
    ASSERT_TRUE(metadata.Insert(key, {type, GgufValueType::kU8, 0, std::move(bytes)}));
  };
  insert("negative", GgufValueType::kI8, "\xFF");
  insert("most", GgufValueType::kU64, LittleEndian<uint64_t>(~0ull));
  insert("nan", GgufValueType::kF32, LittleEndian(NAN));
  insert("half", GgufValueType::kF64, LittleEndian(0.5));
  insert("two", GgufValueType::kBool, "\x02");
  insert("broken", GgufValueType::kString, "\xC3");
  EXPECT_EQ(*metadata.Int("negative", -5, 5), -1);
  EXPECT_EQ(*metadata.Number("half"), 0.5);
  EXPECT_EQ(*metadata.Int("none", 0, 5, 3), 3);
  EXPECT_FALSE(metadata.Int("none", 0, 5).ok());
  EXPECT_FALSE(metadata.Int("negative", 0, 5).ok());
  EXPECT_FALSE(metadata.Int("most", 0, std::numeric_limits<int64_t>::max()).ok());
  EXPECT_FALSE(metadata.Int("half", 0, 5).ok());
  EXPECT_FALSE(metadata.Number("nan").ok());
  EXPECT_FALSE(metadata.Number("negative").ok());
  EXPECT_FALSE(metadata.Bool("two").ok());
  EXPECT_FALSE(metadata.Bool("negative").ok());
  EXPECT_FALSE(metadata.String("broken").ok());
  EXPECT_FALSE(metadata.Strings("half", 5).ok());
  GgufValue list{GgufValueType::kArray, GgufValueType::kF32, 2,
                 LittleEndian(1.0f) + LittleEndian(INFINITY)};
  ASSERT_TRUE(metadata.Insert("list", std::move(list)));
  EXPECT_FALSE(metadata.Floats("list", 5).ok());
  EXPECT_FALSE(metadata.Floats("list", 1).ok());
  EXPECT_FALSE(metadata.Ints("list", 5).ok());
  EXPECT_FALSE(metadata.Strings("list", 5).ok());
}

// Every block type gives the reference's numbers, to the bit.
TEST(GgmlBlocks, DecodeAsTheReference) {
  const char* root = std::getenv("SLUICE_SOURCE_DIR");
  std::ifstream in(std::string(root == nullptr ? "." : root) +
                   "/tests/weights/fixtures/ggml_blocks.json");
  const auto blocks = nlohmann::json::parse(in);
  int count = 0;
  for (const auto& [name, block] : blocks.items()) {
    SCOPED_TRACE(name);
    const GgmlBlockType* type = FindGgmlBlockType(block["id"].get<uint32_t>());
    ASSERT_NE(type, nullptr);
    const auto bytes = block["bytes"].get<std::vector<uint8_t>>();
    const auto expected = block["values"].get<std::vector<float>>();
    ASSERT_EQ(type->name, name);
    ASSERT_EQ(type->bytes, static_cast<int64_t>(bytes.size()));
    ASSERT_EQ(type->elements, static_cast<int64_t>(expected.size()));
    std::vector<float> values(expected.size());
    type->decode(reinterpret_cast<const std::byte*>(bytes.data()), 1, values.data());
    EXPECT_EQ(values, expected);
    ++count;
  }
  EXPECT_EQ(count, 8);
}

// Blocks of every type, many of them, read from anywhere to anywhere.
TEST_F(GgufTest, BlocksAreReadAsTheyAreDecodedOneByOne) {
  for (const uint32_t id : {8u, 2u, 3u, 6u, 7u, 12u, 13u, 14u}) {
    const GgmlBlockType& type = *FindGgmlBlockType(id);
    SCOPED_TRACE(type.name);
    const int64_t count = 300'000 / type.elements;  // more bytes than are read at a time
    GgufParts parts;
    parts.num_tensors = 1;
    parts.infos = GgufInfo("w", {static_cast<uint64_t>(count * type.elements)}, id, 0);
    uint32_t seed = id;
    // Without that bit no scale is infinite or not a number.
    for (int64_t i = 0; i < count * type.bytes; ++i)
      parts.values += static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24 & 0xEF);
    std::vector<float> expected(static_cast<size_t>(count * type.elements));
    for (int64_t i = 0; i < count; ++i) {
      const char* block = parts.values.data() + i * type.bytes;
      type.decode(reinterpret_cast<const std::byte*>(block), 1,
                  expected.data() + i * type.elements);
    }
    parts.values.resize((parts.values.size() + 31) / 32 * 32);
    Write("m.gguf", parts.Bytes());
    auto file = ModelFile::Open(directory(), "m.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    const auto contents = ReadGguf(*file);
    ASSERT_TRUE(contents.ok()) << contents.status();
    const auto store =
        MakeGgufStore(*std::move(file), contents->tensors, {{"w", 0, {count * type.elements}}});
    const int64_t end = count * type.elements;
    const std::pair<int64_t, int64_t> ranges[] = {
        {0, end}, {1, end - 1}, {type.elements, 2 * type.elements},
        {5, 9},   {30, 300},    {end - 1, end}};
    for (const auto& [first, last] : ranges) {
      std::vector<float> values(static_cast<size_t>(last - first));
      ASSERT_TRUE(store->Read("w", first, std::as_writable_bytes(std::span(values))).ok());
      EXPECT_EQ(0,
                std::memcmp(values.data(), expected.data() + first, values.size() * sizeof(float)))
          << first << " to " << last;
    }
  }
}

}  // namespace
}  // namespace sluice::testing
