// Creates a backend by name. The only header that knows which backends exist.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace sluice::kernels {

struct DeviceSpec {
  std::string device = "cpu";  // "cpu" or "reference"
  int threads = 0;             // 0: one per core
  // Highest instruction set to use: "auto", "scalar", "avx2", "avx512", "amx". For tests and
  // valgrind.
  std::string isa = "auto";
  // GEMM family: "auto" (our own kernels) or "onednn" (constant row tile; where it is built in).
  std::string gemm = "auto";
};

// InvalidArgument for unknown names, FailedPrecondition when the machine lacks the instruction set.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const DeviceSpec& spec);

}  // namespace sluice::kernels
