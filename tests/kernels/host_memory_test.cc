// Host buffers: zeros, aligned, apart from each other, whatever was freed before and on any thread.
#include "kernels/host_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <iterator>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace sluice::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// On both sides of every size at which a buffer comes from elsewhere.
size_t RandomSize(std::mt19937& random) {
  constexpr size_t kEdges[] = {1, 64, 16 << 10, 100 << 10, kHugePage, kHugePage + (64 << 10)};
  const size_t edge = kEdges[random() % std::size(kEdges)];
  return edge + random() % 64;
}

void TakeAndGiveBack(uint32_t seed) {
  struct Held {
    Buffer buffer;
    uint8_t mark = 0;
  };
  std::mt19937 random(seed);
  std::vector<Held> held;
  for (int turn = 0; turn < 100; ++turn) {
    if (held.size() > 20 || (!held.empty() && random() % 3 == 0)) {
      std::swap(held[random() % held.size()], held.back());
      const auto* bytes = static_cast<const uint8_t*>(held.back().buffer.data());
      for (size_t i = 0; i < held.back().buffer.bytes(); ++i) {
        ASSERT_EQ(bytes[i], held.back().mark) << "byte " << i << " belongs to two buffers";
      }
      held.pop_back();
      continue;
    }
    const size_t bytes = RandomSize(random);
    absl::StatusOr<Buffer> buffer = AllocateHost(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    ASSERT_GE(buffer->bytes(), bytes);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % (bytes < kHugePage ? 64 : kHugePage),
              0);
    auto* data = static_cast<uint8_t*>(buffer->data());
    for (size_t i = 0; i < buffer->bytes(); ++i) ASSERT_EQ(data[i], 0) << "byte " << i;
    const auto mark = static_cast<uint8_t>(1 + random() % 255);
    std::memset(data, mark, buffer->bytes());
    held.push_back({std::move(*buffer), mark});
  }
}

TEST(HostMemoryTest, BuffersAreZerosAndApart) { TakeAndGiveBack(1); }

TEST(HostMemoryTest, OnManyThreads) {
  std::vector<std::thread> threads;
  for (uint32_t seed = 2; seed < 6; ++seed) threads.emplace_back(TakeAndGiveBack, seed);
  for (std::thread& thread : threads) thread.join();
}

TEST(HostMemoryTest, TooMuchIsAnError) {
  for (size_t bytes : {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 4}) {
    EXPECT_EQ(AllocateHost(bytes).status().code(), absl::StatusCode::kResourceExhausted) << bytes;
  }
}

}  // namespace
}  // namespace sluice::kernels
