// Memory of one GPU and the errors of its calls. Engine thread only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/buffer.h"

namespace sluice::kernels::cuda {

// The first call that failed: a stream of CUDA has no way back from most errors.
class DeviceStatus {
 public:
  // Keeps the first error, with what was being done; true when `error` is none.
  bool Check(cudaError_t error, const char* what);
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

// Managed memory, counted by ourselves: the device counts what has moved to it only. The host may
// read and write it while the device is idle. Zeroed. ResourceExhausted names what was asked, what
// is free and the limit.
class MemoryPlan {
 public:
  // At most `fraction` of the device's memory is taken.
  absl::Status Init(double fraction);
  absl::StatusOr<Buffer> Allocate(size_t bytes);
  // What Allocate could still give.
  size_t free_bytes() const;
  DeviceMemory Count() const;

 private:
  size_t total_ = 0;
  size_t limit_ = 0;
  size_t of_others_ = 0;  // in use before us
};

// Copies of lists of the host in memory of the device, good until the stream has done what was
// queued so far. A ring: when it is full, it waits for the stream.
class ListRing {
 public:
  ListRing(cudaStream_t stream, DeviceStatus& status) : stream_(stream), status_(status) {}
  ~ListRing();  // the stream is idle, or gone
  ListRing(const ListRing&) = delete;
  ListRing& operator=(const ListRing&) = delete;

  // Null for null or nothing. The host's list may change as soon as this returns.
  template <typename T>
  const T* Copy(const T* list, int64_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    return static_cast<const T*>(CopyBytes(list, static_cast<size_t>(count) * sizeof(T)));
  }
  // Room for the device to write to, and what it wrote, once the stream is done.
  void* Room(size_t bytes) { return Take(bytes).device; }
  // Waits for the stream.
  void Fetch(const void* device, void* host, size_t bytes);
  // Frees rings that have become too small. The stream is idle.
  void FreeRetired();

 private:
  struct Place {
    unsigned char* host = nullptr;
    unsigned char* device = nullptr;
  };
  struct Ring {
    Place begin;
    size_t bytes = 0;
  };
  const void* CopyBytes(const void* list, size_t bytes);
  Place Take(size_t bytes);
  bool Grow(size_t bytes);

  cudaStream_t stream_;
  DeviceStatus& status_;
  Ring ring_;
  std::vector<Ring> retired_;  // an op may still hold lists in them
  size_t used_ = 0;
};

}  // namespace sluice::kernels::cuda
