#include "kernels/backend_factory.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_backend.h"

namespace sluice::kernels {
namespace {

CudaFactory cuda_factory = nullptr;

}  // namespace

void SetCudaFactory(CudaFactory factory) { cuda_factory = factory; }
bool HasCuda() { return cuda_factory != nullptr; }
absl::Status WithoutCuda() {
  return absl::FailedPreconditionError(
      "this program is built without CUDA: build it with cmake --preset cuda");
}

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const DeviceSpec& spec) {
  if (spec.device == "cpu") return cpu::CpuBackend::Create(spec);
  if (spec.device == "reference") return std::make_unique<ReferenceBackend>();
  if (spec.device == "cuda" || absl::StartsWith(spec.device, "cuda:")) {
    if (cuda_factory != nullptr) return cuda_factory(spec);
    return WithoutCuda();
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown device: ", spec.device));
}

}  // namespace sluice::kernels
