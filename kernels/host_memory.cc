#include "kernels/host_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "absl/status/status.h"

namespace sluice::kernels {
namespace {

constexpr size_t kLineBytes = 64;
constexpr size_t kHugePageBytes = size_t{2} << 20;

void FreeSmall(void* data, size_t /*bytes*/) { std::free(data); }
void FreeMapped(void* data, size_t bytes) { munmap(data, bytes); }

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

absl::Status Exhausted(size_t bytes) {
  return absl::ResourceExhaustedError("cannot allocate " + std::to_string(bytes) + " bytes");
}

// Maps one huge page too much and gives back both ends, so that the rest starts on a 2 MiB border.
absl::StatusOr<Buffer> MapHuge(size_t bytes) {
  const size_t wanted = RoundUp(bytes, kHugePageBytes);
  const size_t mapped = wanted + kHugePageBytes;
  void* raw =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, 0);
  if (raw == MAP_FAILED) return Exhausted(bytes);
  char* begin = static_cast<char*>(raw);
  const size_t misaligned = reinterpret_cast<uintptr_t>(raw) % kHugePageBytes;
  const size_t head = misaligned == 0 ? 0 : kHugePageBytes - misaligned;
  if (head > 0) munmap(begin, head);
  if (kHugePageBytes > head) munmap(begin + head + wanted, kHugePageBytes - head);
  madvise(begin + head, wanted, MADV_HUGEPAGE);  // Only advice: failure costs speed, nothing else.
  return Buffer(begin + head, wanted, &FreeMapped);
}

}  // namespace

absl::StatusOr<Buffer> AllocateHost(size_t bytes) {
  if (bytes > std::numeric_limits<size_t>::max() / 2) return Exhausted(bytes);
  if (bytes == 0) return Buffer();
  if (bytes >= kHugePageBytes) return MapHuge(bytes);
  const size_t rounded = RoundUp(bytes, kLineBytes);
  void* data = std::aligned_alloc(kLineBytes, rounded);
  if (data == nullptr) return Exhausted(bytes);
  std::memset(data, 0, rounded);
  return Buffer(data, rounded, &FreeSmall);
}

}  // namespace sluice::kernels
