// The packed cache file: what is read is what was written, or the file is refused. No damage gives
// other bytes.
#include "engine/weights/packed_cache.h"

#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/weights/checksum.h"
#include "engine/weights/packed_cache_format.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

constexpr char kName[] = "model.packed";
const PackedCacheIdentity kIdentity = {{"model files", "a"}, {"--weights", "int8"}};

void InOrder(int64_t count, absl::FunctionRef<void(int64_t)> task) {
  for (int64_t i = 0; i < count; ++i) task(i);
}
// From the last one down and on another thread each: the bytes may not depend on it.
void OnThreads(int64_t count, absl::FunctionRef<void(int64_t)> task) {
  std::vector<std::thread> threads;
  for (int64_t i = count - 1; i >= 0; --i) threads.emplace_back([task, i] { task(i); });
  for (std::thread& thread : threads) thread.join();
}

std::vector<std::byte> Values(size_t count, uint64_t seed) {
  std::vector<std::byte> values(count);
  for (std::byte& value : values) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<std::byte>(seed >> 56);
  }
  return values;
}

struct Section {
  std::string key;
  std::vector<std::byte> bytes;
};
// Smaller than a line, longer than a chunk, not a multiple of anything, empty.
const std::vector<Section> kRuns = {{"small", Values(5, 1)},
                                    {"chunks", Values((1 << 20) + 12345, 2)},
                                    {"empty", {}},
                                    {"line", Values(64, 3)}};

class PackedCacheTest : public DirectoryTest {
 protected:
  absl::StatusOr<int64_t> WriteAll() {
    auto writer = PackedCacheWriter::Create(directory(), kName);
    if (!writer.ok()) return writer.status();
    for (const Section& run : kRuns) (*writer)->Write(run.key, run.bytes, InOrder);
    return (*writer)->Finish(kIdentity);
  }
  // The error of opening and reading, or of wrong bytes.
  absl::Status ReadAll(const PackedCacheIdentity& identity = kIdentity) {
    auto reader = PackedCacheReader::Open(directory(), kName, identity);
    if (!reader.ok()) return reader.status();
    for (const Section& run : kRuns) {
      std::vector<std::byte> read(run.bytes.size(), std::byte{0xEE});
      const absl::Status status = (*reader)->Read(run.key, read, OnThreads);
      if (!status.ok()) return status;
      if (read != run.bytes) return absl::InternalError("other bytes than were written");
    }
    return absl::OkStatus();
  }
  std::string Bytes() {
    std::ifstream file(Path(kName), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

TEST_F(PackedCacheTest, GivesBackWhatWasWritten) {
  const absl::StatusOr<int64_t> bytes = WriteAll();
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, static_cast<int64_t>(std::filesystem::file_size(Path(kName))));
  EXPECT_FALSE(std::filesystem::exists(Path("model.packed.tmp")));
  EXPECT_EQ(ReadAll(), absl::OkStatus());
}

TEST_F(PackedCacheTest, NamesThePartThatDiffers) {
  ASSERT_TRUE(WriteAll().ok());
  EXPECT_EQ(ReadAll({{"model files", "b"}, {"--weights", "int8"}}),
            absl::FailedPreconditionError("was made for other model files"));
  EXPECT_EQ(ReadAll({{"model files", "a"}, {"--weights", "bf16"}}),
            absl::FailedPreconditionError("was made for other --weights"));
  EXPECT_TRUE(absl::IsDataLoss(ReadAll({{"model files", "a"}})));
}

TEST_F(PackedCacheTest, RefusesAnotherVersionAndAnotherFile) {
  EXPECT_TRUE(absl::IsNotFound(ReadAll()));
  ASSERT_TRUE(WriteAll().ok());
  std::string bytes = Bytes();
  ++bytes[offsetof(PackedCacheHeader, version)];
  Write(kName, bytes);
  EXPECT_EQ(ReadAll(), absl::FailedPreconditionError(
                           absl::StrCat("has version ", kPackedCacheVersion + 1,
                                        "; this server reads version ", kPackedCacheVersion)));
  Write(kName, std::string(10000, 'x'));
  EXPECT_TRUE(absl::IsDataLoss(ReadAll()));
}

TEST_F(PackedCacheTest, NoticesAMissingRunAndAnotherSize) {
  ASSERT_TRUE(WriteAll().ok());
  const auto reader = std::move(*PackedCacheReader::Open(directory(), kName, kIdentity));
  std::vector<std::byte> into(64);
  EXPECT_TRUE(absl::IsDataLoss(reader->Read("other", into, InOrder)));
  EXPECT_TRUE(absl::IsDataLoss(reader->Read("small", into, InOrder)));
  EXPECT_TRUE(reader->Read("line", into, InOrder).ok());
}

TEST_F(PackedCacheTest, NoticesEveryTruncation) {
  ASSERT_TRUE(WriteAll().ok());
  const std::string whole = Bytes();
  for (size_t size = 0; size < whole.size(); size += size < 6000 ? 61 : 33333) {
    Write(kName, whole.substr(0, size));
    EXPECT_TRUE(absl::IsDataLoss(ReadAll())) << size << " of " << whole.size();
  }
  Write(kName, whole + "x");
  EXPECT_TRUE(absl::IsDataLoss(ReadAll()));
}

// Of the bytes that mean nothing (between header and runs, between runs) a change may pass.
TEST_F(PackedCacheTest, NoFlippedBitGivesOtherBytes) {
  ASSERT_TRUE(WriteAll().ok());
  const std::string whole = Bytes();
  int noticed = 0, passed = 0;
  const size_t index = whole.size() - kRuns.size() * sizeof(PackedCacheEntry);
  for (size_t at = 0; at < whole.size();
       at += at < sizeof(PackedCacheHeader) || at >= index ? 1 : 7919) {
    std::string bent = whole;
    bent[at] = static_cast<char>(bent[at] ^ (1 << (at % 8)));
    Write(kName, bent);
    const absl::Status status = ReadAll();
    EXPECT_FALSE(absl::IsInternal(status)) << at;
    const bool counts = at < sizeof(PackedCacheHeader) || at >= index;
    if (counts) {
      EXPECT_FALSE(status.ok()) << at;
    }
    ++(status.ok() ? passed : noticed);
  }
  EXPECT_GT(noticed, 500);
  EXPECT_LT(passed, 5);
}

// Numbers that would lead out of the file, with all checksums right.
TEST_F(PackedCacheTest, RefusesPlacesOutsideOfTheFile) {
  ASSERT_TRUE(WriteAll().ok());
  const std::string whole = Bytes();
  const auto bend = [&](const std::function<void(PackedCacheHeader&, PackedCacheEntry&)>& change) {
    std::string bytes = whole;
    PackedCacheHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    std::vector<PackedCacheEntry> entries(kRuns.size());
    const size_t index = header.index_offset;
    std::memcpy(entries.data(), bytes.data() + index, header.index_bytes);
    change(header, entries[1]);
    std::memcpy(bytes.data() + index, entries.data(), kRuns.size() * sizeof(PackedCacheEntry));
    header.index_checksum = Checksum64(std::as_bytes(std::span(entries)), kPackedCacheVersion);
    header.checksum = ChecksumOf(header);
    std::memcpy(bytes.data(), &header, sizeof(header));
    Write(kName, bytes);
    EXPECT_TRUE(absl::IsDataLoss(ReadAll())) << ReadAll();
  };
  const uint64_t huge = ~uint64_t{0};
  for (const uint64_t value : {huge, huge - 31, huge / 2, uint64_t{1} << 40, uint64_t{0}}) {
    bend([&](auto&, auto& entry) { entry.offset = value; });
    bend([&](auto&, auto& entry) { entry.bytes = value; });
    bend([&](auto& header, auto&) { header.index_offset = value; });
    bend([&](auto& header, auto&) { header.index_bytes = value; });
    bend([&](auto& header, auto&) { header.file_bytes = value; });
  }
  bend([&](auto& header, auto&) { header.num_parts = 1u << 31; });
}

TEST_F(PackedCacheTest, AFailedWriteLeavesTheOldFileAndNothingElse) {
  ASSERT_TRUE(WriteAll().ok());
  const std::string before = Bytes();
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit full = old;
  full.rlim_cur = 500'000;  // where a full disk would end the file
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
  const absl::StatusOr<int64_t> written = WriteAll();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(absl::IsUnavailable(written.status())) << written.status();
  EXPECT_FALSE(std::filesystem::exists(Path("model.packed.tmp")));
  EXPECT_EQ(Bytes(), before);
  EXPECT_EQ(ReadAll(), absl::OkStatus());
}

TEST_F(PackedCacheTest, OneProcessWritesAtATimeAndAKilledOneIsNoObstacle) {
  Write("model.packed.tmp", "what a killed process left");
  {
    const auto first = PackedCacheWriter::Create(directory(), kName);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_TRUE(absl::IsUnavailable(PackedCacheWriter::Create(directory(), kName).status()));
    EXPECT_TRUE(std::filesystem::exists(Path("model.packed.tmp")));
  }
  EXPECT_FALSE(std::filesystem::exists(Path("model.packed.tmp")));
  EXPECT_TRUE(WriteAll().ok());
}

TEST_F(PackedCacheTest, RemovesWhatKilledProcessesLeftOfOtherFiles) {
  Write("other.f32.0123456789ab.packed.tmp", "of a killed process");
  Write("other.packed", "somebody's");
  for (const char* name : {"notes.tmp", "notes.packed.tmp"}) Write(name, "somebody's");
  const auto running = PackedCacheWriter::Create(directory(), "running.packed");
  ASSERT_TRUE(running.ok()) << running.status();
  EXPECT_FALSE(std::filesystem::exists(Path("other.f32.0123456789ab.packed.tmp")));
  EXPECT_TRUE(WriteAll().ok());
  for (const char* kept : {"running.packed.tmp", "other.packed", "notes.tmp", "notes.packed.tmp"})
    EXPECT_TRUE(std::filesystem::exists(Path(kept))) << kept;
}

TEST_F(PackedCacheTest, SaysWhenADirectoryCannotBeWritten) {
  Write("file", "");
  // Nobody makes files in /proc, not even root.
  for (const std::string& place :
       {Path("missing").string(), Path("file").string(), std::string("/proc")}) {
    const absl::Status status = PackedCacheWriter::Create(place, kName).status();
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << place << ": " << status;
  }
}

TEST_F(PackedCacheTest, WhatIsWrongWithOneFileIsNoFaultOfTheDirectory) {
  std::filesystem::create_directories(Path("model.packed.tmp"));
  absl::Status status = PackedCacheWriter::Create(directory(), kName).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find("Is a directory"), std::string::npos) << status;
  for (const std::string& name : {std::string(), std::string("a/b"), std::string(252, 'x')}) {
    status = PackedCacheWriter::Create(directory(), name).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name << ": " << status;
  }
}

TEST(Checksum64Test, ChangesWithEveryByteWithTheLengthAndWithTheSeed) {
  for (const size_t size : {0, 1, 8, 63, 64, 65, 200}) {
    std::vector<std::byte> bytes = Values(size, size);
    const uint64_t sum = Checksum64(bytes, 1);
    EXPECT_EQ(sum, Checksum64(bytes, 1));
    EXPECT_NE(sum, Checksum64(bytes, 2));
    for (size_t i = 0; i < size; ++i) {
      bytes[i] ^= std::byte{0x10};
      EXPECT_NE(sum, Checksum64(bytes, 1)) << size << " " << i;
      bytes[i] ^= std::byte{0x10};
    }
    bytes.push_back(std::byte{0});
    EXPECT_NE(sum, Checksum64(bytes, 1)) << size;
  }
}

}  // namespace
}  // namespace sluice::testing
