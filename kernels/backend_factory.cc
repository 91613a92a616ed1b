#include "kernels/backend_factory.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_backend.h"

namespace sluice::kernels {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const DeviceSpec& spec) {
  if (spec.device == "cpu") return cpu::CpuBackend::Create(spec);
  if (spec.device == "reference") return std::make_unique<ReferenceBackend>();
  return absl::InvalidArgumentError(absl::StrCat("unknown device: ", spec.device));
}

}  // namespace sluice::kernels
