// Creates a backend by name. The only header that knows which backends exist.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace sluice::kernels {

struct DeviceSpec {
  std::string device = "cpu";  // "cpu", "reference", "cuda" or "cuda:N"
  int threads = 0;             // 0: one per core
  // Highest instruction set to use: "auto", "scalar", "avx2", "avx512", "amx". For tests and
  // valgrind.
  std::string isa = "auto";
  // GEMM family: "auto" (our own kernels), "onednn" (constant row tile; where it is built in) or
  // "amx-emulation" (for tests: the AMX loop on tiles in plain C++, for formats that AMX has).
  std::string gemm = "auto";
  // Of cuda: how much of the device's memory may be taken, and whether every op is waited for (to
  // find which one fails, or how long it takes).
  double gpu_memory_fraction = 0.9;
  bool synchronous = false;
  // Of cpu, for kernels that prefetch (Backend::Prefetches): how far ahead of its use a weight is
  // asked for, 0: never. None: Backend::Tune chooses. Changes no bit.
  std::optional<int64_t> prefetch_bytes;
};

// InvalidArgument for unknown names, FailedPrecondition when the machine lacks the instruction set,
// the device or, in this build, CUDA.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const DeviceSpec& spec);

// What makes "cuda", set before the first CreateBackend by a program that has it: this library has
// no CUDA in it.
using CudaFactory = absl::StatusOr<std::unique_ptr<Backend>> (*)(const DeviceSpec& spec);
void SetCudaFactory(CudaFactory factory);
bool HasCuda();
// What asking for "cuda" gets without it.
absl::Status WithoutCuda();

}  // namespace sluice::kernels
