#include "kernels/host_memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "absl/base/const_init.h"
#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace sluice::kernels {
namespace {

constexpr size_t kLineBytes = 64;
std::atomic<int64_t> buffers_made{0};
constexpr size_t kHugePageBytes = size_t{2} << 20;

void FreeSmall(void* data, size_t /*bytes*/) { std::free(data); }
void FreeMapped(void* data, size_t bytes) { munmap(data, bytes); }

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

absl::Status Exhausted(size_t bytes) {
  return absl::ResourceExhaustedError("cannot allocate " + std::to_string(bytes) + " bytes");
}

// Maps `alignment`, a multiple of a huge page, too much and gives back both ends.
absl::StatusOr<void*> MapHuge(size_t bytes, size_t alignment) {
  const size_t mapped = bytes + alignment;
  void* raw =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, 0);
  if (raw == MAP_FAILED) return Exhausted(bytes);
  char* begin = static_cast<char*>(raw);
  const size_t misaligned = reinterpret_cast<uintptr_t>(raw) % alignment;
  const size_t head = misaligned == 0 ? 0 : alignment - misaligned;
  if (head > 0) munmap(begin, head);
  if (alignment > head) munmap(begin + head + bytes, alignment - head);
  madvise(begin + head, bytes, MADV_HUGEPAGE);  // Only advice: failure costs speed, nothing else.
  return begin + head;
}

// A buffer smaller than a huge page would lie on pages of 4 KiB, whose addresses are looked up once
// for every 4 KiB read: value and output experts of MoEUT-244M took a sixth to a third longer. So
// buffers of this size and more share regions of huge pages. A region is given back with its last
// buffer; room inside it is not used again, since a buffer is zeros. Not under AddressSanitizer,
// which would not see where in a region a buffer ends.
#if defined(__SANITIZE_ADDRESS__)
#define SLUICE_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLUICE_ADDRESS_SANITIZER
#endif
#endif
#if defined(SLUICE_ADDRESS_SANITIZER)
constexpr size_t kSharedBytes = kHugePageBytes;
#else
constexpr size_t kSharedBytes = size_t{16} << 10;
#endif
constexpr size_t kRegionBytes = size_t{16} << 20;  // and its alignment

// At the start of its memory.
struct Region {
  size_t used = 0;  // bytes
  size_t live = 0;  // buffers
};

constexpr size_t kFirstInRegion = RoundUp(sizeof(Region), kLineBytes);

absl::Mutex regions_mutex(absl::kConstInit);
Region* open_region ABSL_GUARDED_BY(regions_mutex) = nullptr;

void FreeShared(void* data, size_t /*bytes*/) {
  auto* region =
      reinterpret_cast<Region*>(reinterpret_cast<uintptr_t>(data) / kRegionBytes * kRegionBytes);
  absl::MutexLock lock(&regions_mutex);
  if (--region->live > 0) return;
  if (region == open_region) open_region = nullptr;
  munmap(region, kRegionBytes);
}

absl::StatusOr<Buffer> AllocateShared(size_t bytes) {
  const size_t rounded = RoundUp(bytes, kLineBytes);
  absl::MutexLock lock(&regions_mutex);
  if (open_region == nullptr || kRegionBytes - open_region->used < rounded) {
    absl::StatusOr<void*> memory = MapHuge(kRegionBytes, kRegionBytes);
    if (!memory.ok()) return Exhausted(bytes);
    open_region = new (*memory) Region{.used = kFirstInRegion};
  }
  char* data = reinterpret_cast<char*>(open_region) + open_region->used;
  open_region->used += rounded;
  ++open_region->live;
  return Buffer(data, rounded, &FreeShared);
}

}  // namespace

absl::StatusOr<Buffer> AllocateHost(size_t bytes) {
  if (bytes > std::numeric_limits<size_t>::max() / 2) return Exhausted(bytes);
  if (bytes == 0) return Buffer();
  buffers_made.fetch_add(1, std::memory_order_relaxed);
  if (bytes >= kHugePageBytes) {
    const size_t whole = RoundUp(bytes, kHugePageBytes);
    absl::StatusOr<void*> memory = MapHuge(whole, kHugePageBytes);
    if (!memory.ok()) return memory.status();
    return Buffer(*memory, whole, &FreeMapped);
  }
  if (bytes >= kSharedBytes) return AllocateShared(bytes);
  const size_t rounded = RoundUp(bytes, kLineBytes);
  void* data = std::aligned_alloc(kLineBytes, rounded);
  if (data == nullptr) return Exhausted(bytes);
  std::memset(data, 0, rounded);
  return Buffer(data, rounded, &FreeSmall);
}

int64_t HostBuffersMade() { return buffers_made.load(std::memory_order_relaxed); }

}  // namespace sluice::kernels
