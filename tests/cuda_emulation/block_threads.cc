#include "tests/cuda_emulation/block_threads.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/check.h"
#include "tests/cuda_emulation/switch_stack.h"

namespace sluice::kernels::cuda {
// What `extern __shared__` of the kernels names.
alignas(128) unsigned char shared_bytes[227 * 1024];
}  // namespace sluice::kernels::cuda

namespace cuda_emulation {
namespace {

constexpr int kLanes = 32;
// Not a power of two: the tops of the stacks must not all fall into the same lines of a cache.
constexpr size_t kStackBytes = 64 * 1024 + 5 * 64;

// ---- Threads of one block: stacks that hand over to each other at barriers.

enum class State : uint8_t { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Thread {
  void* stack_pointer = nullptr;
  State state = State::kReady;
  dim3 index;
};

struct Warp {
  int arrived = 0;
  int parity = 0;  // two buffers, so that one barrier per exchange is enough
  unsigned char slots[2][kLanes][64];
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  const std::function<void()>* body = nullptr;
  void* scheduler = nullptr;
  size_t current = 0;
  size_t at_barrier = 0;
  size_t done = 0;
  dim3 index, size, grid;
};

Block block;
std::unique_ptr<unsigned char[]> stacks;
size_t num_stacks = 0;
bool backwards = false;  // whether threads run in descending order

void Yield(State state) {
  Thread& thread = block.threads[block.current];
  thread.state = state;
  SwitchStack(&thread.stack_pointer, block.scheduler);
}

// Goes on with another lane of the warp, which is cheaper than by way of the scheduler.
void YieldToWarp() {
  const size_t from = block.current;
  const size_t first = from / kLanes * kLanes;
  block.threads[from].state = State::kAtWarpBarrier;
  for (size_t i = 1; i < kLanes; ++i) {
    const size_t to = first + (from + (backwards ? kLanes - i : i)) % kLanes;
    if (block.threads[to].state != State::kReady) continue;
    block.current = to;
    SwitchStack(&block.threads[from].stack_pointer, block.threads[to].stack_pointer);
    return;
  }
  SwitchStack(&block.threads[from].stack_pointer, block.scheduler);
}

void ReleaseBlockBarrier() {
  if (block.at_barrier == 0 || block.at_barrier + block.done < block.threads.size()) return;
  block.at_barrier = 0;
  for (Thread& thread : block.threads) {
    if (thread.state == State::kAtBlockBarrier) thread.state = State::kReady;
  }
}

void ThreadMain() {
  (*block.body)();
  ++block.done;
  ReleaseBlockBarrier();
  Yield(State::kDone);
}

void RunThread(size_t i) {
  block.current = i;
  SwitchStack(&block.scheduler, block.threads[i].stack_pointer);
}

// Odd blocks run their threads backwards: a missing barrier shows in one of the two orders.
void RunBlock() {
  const size_t count = block.threads.size();
  while (block.done < count) {
    bool moved = false;
    for (size_t i = 0; i < count; ++i) {
      const size_t at = backwards ? count - 1 - i : i;
      if (block.threads[at].state != State::kReady) continue;
      RunThread(at);
      moved = true;
    }
    SLUICE_CHECK(moved) << "the threads of a block wait at barriers that do not meet";
  }
}

void StartThreads(dim3 size, const std::function<void()>& body) {
  const size_t count = size_t{size.x} * size.y * size.z;
  SLUICE_CHECK(count > 0 && count <= 1024 && count % kLanes == 0) << count;
  if (num_stacks < count) {
    stacks.reset(static_cast<unsigned char*>(std::malloc(count * kStackBytes)));
    num_stacks = count;
  }
  block.body = &body;
  block.size = size;
  block.done = block.at_barrier = 0;
  block.threads.assign(count, {});
  block.warps.resize(count / kLanes);
  for (Warp& warp : block.warps) warp.arrived = 0;
  for (size_t i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    const auto n = static_cast<unsigned>(i);
    thread.index = dim3(n % size.x, n / size.x % size.y, n / size.x / size.y);
    thread.stack_pointer = NewStack(stacks.get() + (i + 1) * kStackBytes, &ThreadMain);
  }
}

}  // namespace

void RunGrid(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& body) {
  SLUICE_CHECK(grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.y < 65536 && grid.z < 65536)
      << grid.x << " " << grid.y << " " << grid.z;
  SLUICE_CHECK(shared_bytes <= sizeof(sluice::kernels::cuda::shared_bytes)) << shared_bytes;
  block.grid = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block.index = dim3(x, y, z);
        std::memset(sluice::kernels::cuda::shared_bytes, 0xFF, shared_bytes + 64);  // NaN
        StartThreads(size, body);
        RunBlock();
        backwards = !backwards;
      }
    }
  }
}

const dim3& ThreadIndex() { return block.threads[block.current].index; }
const dim3& BlockIndex() { return block.index; }
const dim3& BlockSize() { return block.size; }
const dim3& GridSize() { return block.grid; }
int Lane() { return static_cast<int>(block.current % kLanes); }

void BlockBarrier() {
  ++block.at_barrier;
  block.threads[block.current].state = State::kAtBlockBarrier;
  ReleaseBlockBarrier();
  if (block.threads[block.current].state == State::kReady) return;
  Yield(State::kAtBlockBarrier);
}

namespace {

// Nearly always a number: a copy of a size that the compiler knows.
void Copy(void* to, const void* from, size_t bytes) {
  if (bytes == 4) {
    std::memcpy(to, from, 4);
  } else {
    std::memcpy(to, from, bytes);
  }
}

}  // namespace

void Exchange(const void* mine, void* theirs, size_t bytes, int source) {
  SLUICE_CHECK(bytes <= sizeof(Warp::slots[0][0]) && source >= 0 && source < kLanes);
  const size_t first = block.current / kLanes * kLanes;
  Warp& warp = block.warps[block.current / kLanes];
  const int parity = warp.parity;
  Copy(warp.slots[parity][Lane()], mine, bytes);
  if (++warp.arrived == kLanes) {
    warp.arrived = 0;
    warp.parity ^= 1;
    for (size_t i = first; i < first + kLanes; ++i) {
      if (block.threads[i].state == State::kAtWarpBarrier) block.threads[i].state = State::kReady;
    }
  } else {
    YieldToWarp();
  }
  Copy(theirs, warp.slots[parity][source], bytes);
}

namespace {

float Bf16At(uint32_t pair, int half) {
  return __uint_as_float(half == 0 ? pair << 16 : pair & 0xFFFF0000u);
}

struct Fragments {
  uint32_t a[4];
  uint32_t b[2];
};

// The fragments of all lanes of the warp.
void Collect(const uint32_t (&a)[4], const uint32_t (&b)[2], Fragments (&all)[kLanes]) {
  Fragments mine;
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  Fragments ignored;
  Exchange(&mine, &ignored, sizeof mine, Lane());
  Warp& warp = block.warps[block.current / kLanes];
  for (int lane = 0; lane < kLanes; ++lane)
    std::memcpy(&all[lane], warp.slots[warp.parity ^ 1][lane], sizeof(Fragments));
}

}  // namespace

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": lane = 4 g + t; a0: row g,
// columns 2t, 2t + 1; a1: row g + 8; a2, a3: columns + 8; b0: rows 2t, 2t + 1 of column g; b1:
// rows + 8; d0, d1: row g, columns 2t, 2t + 1; d2, d3: row g + 8.
void MultiplyBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments all[kLanes];
  Collect(a, b, all);
  const int g = Lane() / 4, t = Lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    double sum = static_cast<double>(d[i]);
    for (int k = 0; k < 16; ++k) {
      const Fragments& left = all[row % 8 * 4 + k % 8 / 2];
      const Fragments& right = all[column * 4 + k % 8 / 2];
      sum += static_cast<double>(Bf16At(left.a[row / 8 + k / 8 * 2], k % 2)) *
             static_cast<double>(Bf16At(right.b[k / 8], k % 2));
    }
    d[i] = static_cast<float>(sum);
  }
}

// "Matrix Fragments for mma.m16n8k32": four bytes to a register; a0: row g, columns 4t..4t + 3; a1:
// row g + 8; a2, a3: columns + 16; b0: rows 4t..4t + 3 of column g; b1: rows + 16.
void MultiplyInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments all[kLanes];
  Collect(a, b, all);
  const auto byte = [](uint32_t word, int i) {
    return static_cast<int32_t>(static_cast<int8_t>(word >> (8 * i)));
  };
  const int g = Lane() / 4, t = Lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 32; ++k) {
      const Fragments& left = all[row % 8 * 4 + k % 16 / 4];
      const Fragments& right = all[column * 4 + k % 16 / 4];
      d[i] += byte(left.a[row / 8 + k / 16 * 2], k % 4) * byte(right.b[k / 16], k % 4);
    }
  }
}

}  // namespace cuda_emulation

unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned out = 0;
  for (int lane = 0; lane < 32; ++lane)
    out |= static_cast<unsigned>(__shfl_sync(mask, predicate != 0 ? 1 : 0, lane)) << lane;
  return out;
}
