#include "engine/weights/checksum.h"

#include <array>
#include <bit>
#include <cstring>

namespace sluice {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kBlockBytes = kLanes * sizeof(uint64_t);
// 2^64 over the golden ratio, odd (Knuth, The Art of Computer Programming 3, sec. 6.4).
constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;

// One to one in `state` and in `word`: what differs once stays different.
uint64_t Mix(uint64_t state, uint64_t word) { return std::rotl(state ^ word, 29) * kMultiplier; }

using Lanes = std::array<uint64_t, kLanes>;

// Lanes do not wait for each other, so that the products of a block overlap.
void AddBlock(const std::byte* block, Lanes& lanes) {
  for (size_t i = 0; i < kLanes; ++i) {
    uint64_t word = 0;
    std::memcpy(&word, block + i * sizeof(word), sizeof(word));
    lanes[i] = Mix(lanes[i], word);
  }
}

}  // namespace

uint64_t Checksum64(std::span<const std::byte> bytes, uint64_t seed) {
  Lanes lanes{};
  for (size_t i = 0; i < kLanes; ++i) lanes[i] = Mix(seed, i + 1);
  size_t at = 0;
  for (; bytes.size() - at >= kBlockBytes; at += kBlockBytes) AddBlock(bytes.data() + at, lanes);
  if (at < bytes.size()) {
    std::array<std::byte, kBlockBytes> last{};
    std::memcpy(last.data(), bytes.data() + at, bytes.size() - at);
    AddBlock(last.data(), lanes);
  }
  uint64_t sum = Mix(seed, bytes.size());
  for (const uint64_t lane : lanes) sum = Mix(sum, lane);
  return sum ^ (sum >> 32);
}

}  // namespace sluice
