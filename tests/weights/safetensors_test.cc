// P2 of reliability.md: hand-made bad files. Each gives one clear line and no crash, whatever the
// header says.
#include "engine/weights/safetensors.h"

#include <sys/stat.h>

#include <chrono>
#include <cstring>

#include "engine/weights/weight_store.h"
#include "gmock/gmock.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kValid[] =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
constexpr size_t kValidBytes = 32;

TEST(SafetensorsHeader, AcceptsAValidFile) {
  const auto entries = ParseSafetensorsHeader(kValid, kValidBytes);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ((*entries)[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*entries)[0].dtype, kernels::DType::kF32);
  EXPECT_EQ((*entries)[1].offset, 24);
  EXPECT_EQ((*entries)[1].bytes, 8);
}

TEST(SafetensorsHeader, AcceptsAnEmptyModelAndScalarsAndPadding) {
  EXPECT_TRUE(ParseSafetensorsHeader("{}", 0).ok());
  EXPECT_TRUE(
      ParseSafetensorsHeader(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )", 4)
          .ok());
}

TEST(SafetensorsHeader, ListsCountersWithoutADtype) {
  const auto entries =
      ParseSafetensorsHeader(R"({"n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8);
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_FALSE(entries->front().dtype.has_value());
}

struct BadHeader {
  const char* name;
  std::string header;
  int64_t value_bytes;
  const char* message;
};

std::string One(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

const BadHeader kBadHeaders[] = {
    {"Empty", "", 0, "does not start with '{'"},
    {"List", "[]", 0, "does not start with '{'"},
    {"LeadingSpace", " {}", 0, "does not start with '{'"},
    {"NotJson", "{x", 0, "not valid JSON"},
    {"TrailingText", "{} {}", 0, "not valid JSON"},
    {"InvalidUtf8", "{\"\xFF\":1}", 0, "UTF-8"},
    {"TooDeep", R"({"w":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4,
     "nested too deeply"},
    {"DuplicateTensor",
     R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
     8, "duplicate key"},
    {"DuplicateField", R"({"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
     "duplicate key"},
    {"TensorIsNumber", R"({"w":3})", 0, "tensor 'w': must be an object"},
    {"MetadataIsList", R"({"__metadata__":[]})", 0, "'__metadata__' must be an object"},
    {"MetadataValueIsNumber", R"({"__metadata__":{"n":1}})", 0, "must be a string"},
    {"UnknownField", R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4,
     "nothing else"},
    {"MissingField", R"({"w":{"dtype":"F32","shape":[1]}})", 4,
     "must have dtype, shape and data_offsets"},
    {"MissingDtype", R"({"w":{"type":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
     "'dtype' is missing"},
    {"DtypeIsNumber", R"({"w":{"dtype":4,"shape":[1],"data_offsets":[0,4]}})", 4,
     "'dtype' must be a string"},
    {"UnknownDtype", One("F8_E4M3", "[4]", "[0,4]"), 4, "dtype 'F8_E4M3' is not supported"},
    {"WideDtype", One("F64", "[1]", "[0,8]"), 8, "dtype 'F64' is not supported"},
    {"BooleanDtype", One("BOOL", "[1]", "[0,1]"), 1, "tensor 'w'"},
    {"ShapeIsNumber", One("F32", "1", "[0,4]"), 4, "'shape' must be a list"},
    {"ShapeNegative", One("F32", "[-1]", "[0,4]"), 4, "'shape'"},
    {"ShapeFraction", One("F32", "[1.0]", "[0,4]"), 4, "'shape'"},
    {"ShapeString", One("F32", "[\"1\"]", "[0,4]"), 4, "'shape'"},
    {"ShapeZero", One("F32", "[0]", "[0,0]"), 0, "dimension of zero"},
    {"ShapeTooManyDimensions", One("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "more than 8"},
    {"ShapeOverflows", One("F32", "[4294967296,4294967296]", "[0,4]"), 4, "larger than the file"},
    {"ShapeOverflowsInThree", One("F32", "[2097152,2097152,4194304]", "[0,0]"), 0,
     "larger than the file"},
    {"ShapeAbove64Bits", One("F32", "[18446744073709551615]", "[0,4]"), 4, "'shape'"},
    {"ShapeIsTooLargeForTheFile", One("F32", "[2]", "[0,4]"), 4, "larger than the file"},
    {"ShapeIsTooSmall", One("F32", "[1]", "[0,8]"), 8, "need 4 bytes"},
    {"OffsetsOne", One("F32", "[1]", "[4]"), 4, "'data_offsets'"},
    {"OffsetsThree", One("F32", "[1]", "[0,4,8]"), 8, "'data_offsets'"},
    {"OffsetsBackwards", One("F32", "[1]", "[4,0]"), 4, "begin <= end"},
    {"OffsetsNegative", One("F32", "[1]", "[-4,0]"), 4, "'data_offsets'"},
    {"OffsetsBeyondTheFile", One("F32", "[2]", "[0,8]"), 4, "'data_offsets'"},
    {"OffsetsHuge", One("F32", "[1]", "[9223372036854775804,9223372036854775807]"), 4,
     "'data_offsets'"},
    {"HoleAtTheStart", One("F32", "[1]", "[1,5]"), 5, "hole"},
    {"HoleOfOneByte",
     R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}})",
     9, "tensor 'b': leaves a hole"},
    {"Overlap",
     R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
     8, "overlaps"},
    {"SameBytesTwice",
     R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
     4, "tensor 'b': overlaps"},
    {"TrailingBytes", One("F32", "[1]", "[0,4]"), 5, "the file at 5"},
    {"ValuesWithoutTensors", "{}", 1, "the file at 1"},
};

void PrintTo(const BadHeader& bad, std::ostream* out) { *out << bad.name; }

class BadHeaderTest : public ::testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaderTest, IsRefusedWithOneClearLine) {
  const auto entries = ParseSafetensorsHeader(GetParam().header, GetParam().value_bytes);
  ASSERT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument) << entries.status();
  const std::string message(entries.status().message());
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
}

INSTANTIATE_TEST_SUITE_P(HandMade,
                         BadHeaderTest,
                         ::testing::ValuesIn(kBadHeaders),
                         [](const auto& bad) { return std::string(bad.param.name); });

TEST(SafetensorsHeader, RefusesMoreThanTheAllowedTensors) {
  std::string header = "{";
  for (int64_t i = 0; i <= kMaxSafetensorsTensors; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
  }
  header += "}";
  EXPECT_THAT(std::string(ParseSafetensorsHeader(header, 0).status().message()),
              HasSubstr("more than 100000"));
}

TEST(SafetensorsHeader, RefusesAMillionValuesBeforeBuildingThem) {
  std::string header = "{\"w\":[0";
  for (int i = 0; i < 4'000'000; ++i) header += ",0";
  header += "]}";
  EXPECT_THAT(std::string(ParseSafetensorsHeader(header, 0).status().message()),
              HasSubstr("too many values"));
}

TEST(SafetensorsHeader, MessagesHaveNoControlCharactersFromTheFile) {
  const std::string header =
      R"({"a\n\u001b[31m":{"dtype":"X\n","shape":[1],"data_offsets":[0,4]}})";
  const std::string message(ParseSafetensorsHeader(header, 4).status().message());
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  EXPECT_THAT(message, Not(HasSubstr("\x1b")));
}

using SafetensorsFile = DirectoryTest;

absl::Status OpenStatus(const std::string& directory) {
  return WeightStore::Open(directory).status();
}

TEST_F(SafetensorsFile, LengthFieldLies) {
  for (const uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{16777217},
                                uint64_t{100'000'001}, uint64_t{1000}, uint64_t{0}}) {
    std::string bytes = SafetensorsBytes(kValid, kValidBytes);
    for (int i = 0; i < 8; ++i)
      bytes[static_cast<size_t>(i)] = static_cast<char>((length >> (8 * i)) & 0xFF);
    Write("model.safetensors", bytes);
    const absl::Status status = OpenStatus(directory());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << length << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors: ")) << length;
  }
}

TEST_F(SafetensorsFile, EveryTruncationOfTheFirst4KiBIsRefused) {
  // A header of more than 4 KiB, so that every cut falls into the length, the header, or just
  // behind it.
  std::string header = "{";
  for (int i = 0; i < 64; ++i) {
    header += (i == 0 ? "\"tensor." : ",\"tensor.") + std::to_string(i) +
              R"(":{"dtype":"F32","shape":[2],"data_offsets":[)" + std::to_string(8 * i) + "," +
              std::to_string(8 * i + 8) + "]}";
  }
  header += "}";
  const std::string whole = SafetensorsBytes(header, 512);
  ASSERT_GT(whole.size(), 4096u);
  Write("model.safetensors", whole);
  ASSERT_TRUE(OpenStatus(directory()).ok());
  const auto start = std::chrono::steady_clock::now();
  for (size_t size = 4096; size-- > 0;) {
    std::filesystem::resize_file(Path("model.safetensors"), size);
    ASSERT_EQ(OpenStatus(directory()).code(), absl::StatusCode::kInvalidArgument)
        << "cut at " << size;
  }
  // 50 ms each is the promise; this is far below and catches something quadratic.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST_F(SafetensorsFile, EveryFlippedHeaderBitIsRefusedOrHarmless) {
  const std::string whole = SafetensorsBytes(kValid, kValidBytes);
  for (size_t byte = 0; byte < whole.size() - kValidBytes; ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = whole;
      changed[byte] = static_cast<char>(changed[byte] ^ (1 << bit));
      Write("model.safetensors", changed);
      const auto store = WeightStore::Open(directory());
      if (!store.ok()) {
        ASSERT_EQ(store.status().code(), absl::StatusCode::kInvalidArgument) << store.status();
        continue;
      }
      EXPECT_EQ((*store)->total_bytes(), static_cast<int64_t>(kValidBytes));
    }
  }
}

TEST_F(SafetensorsFile, OnlyRegularFilesInsideTheDirectoryAreOpened) {
  EXPECT_EQ(OpenStatus(directory()).code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(::mkfifo(Path("model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(std::string(OpenStatus(directory()).message()), HasSubstr("not a regular file"));
  std::filesystem::remove(Path("model.safetensors"));
  std::filesystem::create_directory(Path("model.safetensors"));
  EXPECT_THAT(std::string(OpenStatus(directory()).message()), HasSubstr("not a regular file"));
  std::filesystem::remove(Path("model.safetensors"));

  std::ofstream(root_ / "outside") << SafetensorsBytes(kValid, kValidBytes);
  std::filesystem::create_symlink(root_ / "outside", Path("model.safetensors"));
  EXPECT_THAT(std::string(OpenStatus(directory()).message()), HasSubstr("symbolic link"));
  std::filesystem::remove(Path("model.safetensors"));
  std::filesystem::create_symlink("../outside", Path("model.safetensors"));
  EXPECT_THAT(std::string(OpenStatus(directory()).message()), HasSubstr("symbolic link"));
}

TEST_F(SafetensorsFile, EmptyAndSparseGiantFilesAreRefusedAtOnce) {
  Write("model.safetensors", "");
  EXPECT_EQ(OpenStatus(directory()).code(), absl::StatusCode::kInvalidArgument);
  Write("model.safetensors", SafetensorsBytes(kValid, kValidBytes));
  std::error_code error;
  std::filesystem::resize_file(Path("model.safetensors"), uintmax_t{1} << 40, error);
  if (error) GTEST_SKIP() << "no sparse files here: " << error.message();
  EXPECT_THAT(std::string(OpenStatus(directory()).message()),
              HasSubstr("the tensors end at byte 32"));
}

TEST(QuotedTensorName, CutsBetweenCharacters) {
  EXPECT_EQ(QuotedTensorName("a\nb"), "'a?b'");
  EXPECT_EQ(QuotedTensorName(std::string(120, 'x')), "'" + std::string(120, 'x') + "'");
  std::string accents;
  for (int i = 0; i < 100; ++i) accents += "\xC3\xA9";
  EXPECT_EQ(QuotedTensorName("x" + accents), "'x" + accents.substr(0, 118) + "...'");
}

}  // namespace
}  // namespace sluice::testing
