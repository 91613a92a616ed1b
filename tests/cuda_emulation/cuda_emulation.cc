#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/check.h"
#include "tests/cuda_emulation/block_threads.h"

namespace cuda_emulation {
namespace {

// Memory is one range of addresses, closed to the host while work is queued.
constexpr size_t kRange = size_t{64} << 30;
constexpr size_t kPage = 4096;
constexpr size_t kDefaultMemory = size_t{8} << 30;

struct Memory {
  unsigned char* base = nullptr;
  std::map<size_t, size_t> used;  // offset -> bytes
  size_t in_use = 0;
  size_t total = kDefaultMemory;
  bool open = true;
};
Memory memory;

std::vector<std::function<void()>> queue;
int64_t launches = 0;
int devices = 1;
int64_t calls_until_failure = -1;
cudaError_t injected = cudaSuccess;
cudaError_t sticky = cudaSuccess;

void Open(bool open) {
  if (open == memory.open) return;
  const int access = open ? PROT_READ | PROT_WRITE : PROT_NONE;
  for (const auto& [offset, bytes] : memory.used)
    SLUICE_CHECK(mprotect(memory.base + offset, bytes, access) == 0);
  memory.open = open;
}

cudaError_t Reach() {
  if (sticky == cudaSuccess && calls_until_failure > 0 && --calls_until_failure == 0)
    sticky = injected;
  return sticky;
}

void Drain() {
  Open(true);
  for (const auto& work : queue) work();
  queue.clear();
}

void Push(std::function<void()> work) {
  Open(false);
  queue.push_back(std::move(work));
}

}  // namespace

cudaError_t Enqueue(dim3 grid, dim3 size, size_t shared_bytes, std::function<void()> body) {
  if (Reach() != cudaSuccess) return sticky;
  ++launches;
  Push([=, body = std::move(body)] { RunGrid(grid, size, shared_bytes, body); });
  return cudaSuccess;
}

void FailAfter(int64_t count, cudaError_t error) {
  calls_until_failure = count;
  injected = error;
  sticky = cudaSuccess;
}
void SetDeviceCount(int count) { devices = count; }
void SetMemory(size_t bytes) { memory.total = bytes == 0 ? kDefaultMemory : bytes; }
int64_t NumLaunches() { return launches; }

}  // namespace cuda_emulation

using cuda_emulation::memory;

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  const auto* at = static_cast<const unsigned char*>(data);
  const bool inside =
      memory.base != nullptr && at >= memory.base && at < memory.base + cuda_emulation::kRange;
  attributes->type = inside ? cudaMemoryTypeManaged : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = cuda_emulation::devices;
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "emulated");
  properties->major = 9;
  properties->multiProcessorCount = 1;
  properties->managedMemory = properties->concurrentManagedAccess = 1;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = memory.total;
  *free_bytes = memory.total - std::min(memory.total, memory.in_use);
  return cudaSuccess;
}

cudaError_t cudaMallocManaged(void** data, size_t bytes, unsigned) {
  using namespace cuda_emulation;
  if (sticky != cudaSuccess) return sticky;
  if (memory.base == nullptr) {
    void* range =
        mmap(nullptr, kRange, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SLUICE_CHECK(range != MAP_FAILED);
    memory.base = static_cast<unsigned char*>(range);
  }
  // A page between two blocks stays closed: what runs over the end of one faults.
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  if (memory.in_use + size > memory.total) return cudaErrorMemoryAllocation;
  Open(true);
  size_t at = 0;
  for (const auto& [offset, taken] : memory.used) {
    if (offset >= at + size + kPage) break;
    at = offset + taken + kPage;
  }
  SLUICE_CHECK(at + size <= kRange);
  SLUICE_CHECK(mprotect(memory.base + at, size, PROT_READ | PROT_WRITE) == 0);
  memory.used[at] = size;
  memory.in_use += size;
  std::memset(memory.base + at, 0xFF, size);
  *data = memory.base + at;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, size_t bytes) { return cudaMallocManaged(data, bytes); }
cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  cuda_emulation::Drain();
  const auto at = static_cast<size_t>(static_cast<unsigned char*>(data) - memory.base);
  const auto found = memory.used.find(at);
  SLUICE_CHECK(found != memory.used.end()) << "freed twice, or never taken";
  madvise(data, found->second, MADV_DONTNEED);
  mprotect(data, found->second, PROT_NONE);  // used after it is freed: a fault
  memory.in_use -= found->second;
  memory.used.erase(found);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(
    void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (cuda_emulation::Reach() != cudaSuccess) return cuda_emulation::sticky;
  cuda_emulation::Push([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (cuda_emulation::Reach() != cudaSuccess) return cuda_emulation::sticky;
  cuda_emulation::Push([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  cuda_emulation::Drain();
  return cuda_emulation::Reach();
}
cudaError_t cudaGetLastError() { return cuda_emulation::sticky; }
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorIllegalAddress     ? "cudaErrorIllegalAddress"
         : error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
                                              : "cudaError";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
