#include "kernels/cuda/device_memory.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sluice::kernels::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kSmallestRing = size_t{4} << 20;
constexpr size_t kListsOfOneOp = 16;  // twice the most that an op has

// Of this process.
std::atomic<size_t> managed_bytes = 0;
std::atomic<size_t> list_bytes = 0;  // of rings

void FreeManaged(void* data, size_t bytes) {
  cudaFree(data);
  managed_bytes -= bytes;
}

}  // namespace

bool DeviceStatus::Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return true;
  if (status_.ok()) {
    status_ = absl::UnavailableError(absl::StrCat("the GPU failed in ", what, ": ",
                                                  cudaGetErrorName(error), ", ",
                                                  cudaGetErrorString(error)));
  }
  return false;
}

absl::Status MemoryPlan::Init(double fraction) {
  size_t free_bytes = 0, total = 0;
  if (const cudaError_t error = cudaMemGetInfo(&free_bytes, &total); error != cudaSuccess)
    return absl::UnavailableError(absl::StrCat("the GPU's memory: ", cudaGetErrorString(error)));
  total_ = total;
  limit_ = static_cast<size_t>(static_cast<double>(total) * fraction);
  of_others_ = total - std::min(total, free_bytes);
  return absl::OkStatus();
}

absl::StatusOr<Buffer> MemoryPlan::Allocate(size_t bytes) {
  const size_t size = std::max(bytes, kAlignment);  // so that every buffer has an address
  void* data = nullptr;
  // Managed memory could be more than the device has; then it would be read over the bus.
  const cudaError_t error = size > free_bytes()
                                ? cudaErrorMemoryAllocation
                                : cudaMallocManaged(&data, size, cudaMemAttachGlobal);
  if (error == cudaErrorMemoryAllocation) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "GPU memory: ", size >> 20, " MiB asked, ", free_bytes() >> 20, " MiB free of the ",
        limit_ >> 20,
        " MiB that --gpu-memory-fraction allows; use smaller weights or a smaller cache"));
  }
  if (error != cudaSuccess)
    return absl::UnavailableError(absl::StrCat("GPU memory: ", cudaGetErrorString(error)));
  std::memset(data, 0, size);
  managed_bytes += size;
  return Buffer(data, size, &FreeManaged);
}

size_t MemoryPlan::free_bytes() const {
  return limit_ - std::min(limit_, of_others_ + managed_bytes.load() + list_bytes.load());
}

DeviceMemory MemoryPlan::Count() const {
  return {.total = static_cast<int64_t>(total_),
          .others = static_cast<int64_t>(of_others_),
          .allocated = static_cast<int64_t>(managed_bytes.load()),
          .lists = static_cast<int64_t>(list_bytes.load()),
          .free = static_cast<int64_t>(free_bytes())};
}

ListRing::~ListRing() {
  retired_.push_back(ring_);
  FreeRetired();
}

void ListRing::FreeRetired() {
  for (const Ring& ring : retired_) {
    cudaFreeHost(ring.begin.host);
    cudaFree(ring.begin.device);
    list_bytes -= ring.bytes;
  }
  retired_.clear();
}

bool ListRing::Grow(size_t bytes) {
  size_t size = kSmallestRing;
  while (size < kListsOfOneOp * bytes) size *= 2;
  void *host = nullptr, *device = nullptr;
  if (!status_.Check(cudaMallocHost(&host, size), "a ring of lists")) return false;
  if (!status_.Check(cudaMalloc(&device, size), "a ring of lists")) {
    cudaFreeHost(host);
    return false;
  }
  retired_.push_back(ring_);
  ring_ = {{static_cast<unsigned char*>(host), static_cast<unsigned char*>(device)}, size};
  list_bytes += size;
  used_ = 0;
  return true;
}

ListRing::Place ListRing::Take(size_t bytes) {
  const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  // So large that the lists of one op never meet at the ring's seam.
  if (kListsOfOneOp * size > ring_.bytes && !Grow(size)) return {};
  if (used_ + size > ring_.bytes) {
    status_.Check(cudaStreamSynchronize(stream_), "a full ring of lists");
    used_ = 0;
  }
  const Place place{ring_.begin.host + used_, ring_.begin.device + used_};
  used_ += size;
  return place;
}

const void* ListRing::CopyBytes(const void* list, size_t bytes) {
  if (list == nullptr || bytes == 0) return nullptr;
  const Place place = Take(bytes);
  if (place.host == nullptr) return nullptr;
  std::memcpy(place.host, list, bytes);
  status_.Check(cudaMemcpyAsync(place.device, place.host, bytes, cudaMemcpyHostToDevice, stream_),
                "copying a list");
  return place.device;
}

void ListRing::Fetch(const void* device, void* host, size_t bytes) {
  const Place place = Take(bytes);
  if (place.host == nullptr) return;
  status_.Check(cudaMemcpyAsync(place.host, device, bytes, cudaMemcpyDeviceToHost, stream_),
                "fetching a list");
  if (status_.Check(cudaStreamSynchronize(stream_), "fetching a list"))
    std::memcpy(host, place.host, bytes);
}

}  // namespace sluice::kernels::cuda
