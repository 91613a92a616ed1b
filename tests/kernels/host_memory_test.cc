// Host buffers: zeros, aligned, apart from each other, whatever was freed before and on any thread.
#include "kernels/host_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace sluice::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMostHeld = size_t{64} << 20;  // several regions

// On both sides of every size at which a buffer comes from elsewhere, and large parts of a region.
size_t RandomSize(std::mt19937& random) {
  constexpr size_t kEdges[] = {64, 16 << 10, 100 << 10, 700 << 10, kHugePage - 4096, kHugePage};
  return kEdges[random() % std::size(kEdges)] - 32 + random() % 64;
}

// The first and last bytes of a buffer, and some between.
template <typename Check>
void ForSomeBytes(const Buffer& buffer, const Check& check) {
  auto* bytes = static_cast<uint8_t*>(buffer.data());
  for (size_t i = 0; i < buffer.bytes(); i += 509) check(bytes[i]);
  check(bytes[buffer.bytes() - 1]);
}

void TakeAndGiveBack(uint32_t seed) {
  struct Held {
    Buffer buffer;
    uint8_t mark = 0;
  };
  std::mt19937 random(seed);
  std::vector<Held> held;
  size_t total = 0;
  for (int turn = 0; turn < 400; ++turn) {
    if (total > kMostHeld || (!held.empty() && random() % 4 == 0)) {
      std::swap(held[random() % held.size()], held.back());
      const uint8_t mark = held.back().mark;
      ForSomeBytes(held.back().buffer,
                   [&](uint8_t byte) { ASSERT_EQ(byte, mark) << "belongs to two buffers"; });
      total -= held.back().buffer.bytes();
      held.pop_back();
      continue;
    }
    const size_t bytes = RandomSize(random);
    absl::StatusOr<Buffer> buffer = AllocateHost(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    ASSERT_GE(buffer->bytes(), bytes);
    const size_t alignment = bytes < kHugePage ? 64 : kHugePage;
    ASSERT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % alignment, 0);
    ForSomeBytes(*buffer, [](uint8_t byte) { ASSERT_EQ(byte, 0); });
    const auto mark = static_cast<uint8_t>(1 + random() % 255);
    std::memset(buffer->data(), mark, buffer->bytes());
    total += buffer->bytes();
    held.push_back({std::move(*buffer), mark});
  }
}

// Of this process, in memory.
int64_t ResidentBytes() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

TEST(HostMemoryTest, BuffersAreZerosAndApart) { TakeAndGiveBack(1); }

TEST(HostMemoryTest, OnManyThreads) {
  std::vector<std::thread> threads;
  for (uint32_t seed = 2; seed < 6; ++seed) threads.emplace_back(TakeAndGiveBack, seed);
  for (std::thread& thread : threads) thread.join();
}

// Buffers that fill regions to their ends, again and again: the memory is given back.
TEST(HostMemoryTest, EmptyRegionsAreGivenBack) {
#if defined(__SANITIZE_ADDRESS__) || defined(SLUICE_CLANG_SANITIZER)
  GTEST_SKIP() << "a sanitizer keeps freed memory";
#endif
  constexpr size_t kBytes = kHugePage - 64;
  const int64_t before = ResidentBytes();
  for (int turn = 0; turn < 10; ++turn) {
    std::vector<Buffer> held;
    for (int i = 0; i < 20; ++i) {
      absl::StatusOr<Buffer> buffer = AllocateHost(kBytes);
      ASSERT_TRUE(buffer.ok()) << buffer.status();
      std::memset(buffer->data(), 1, kBytes);
      held.push_back(std::move(*buffer));
    }
    EXPECT_GT(ResidentBytes() - before, static_cast<int64_t>(19 * kBytes));
  }
  EXPECT_LT(ResidentBytes() - before, static_cast<int64_t>(10 * kBytes));
}

TEST(HostMemoryTest, TooMuchIsAnError) {
  for (size_t bytes : {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 4}) {
    EXPECT_EQ(AllocateHost(bytes).status().code(), absl::StatusCode::kResourceExhausted) << bytes;
  }
}

}  // namespace
}  // namespace sluice::kernels
