// What this processor and its kernel permit, capped by configuration. Asked once, when a backend is
// made.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace sluice::kernels::cpu {

enum class Isa : uint8_t { kScalar, kAvx2, kAvx512, kAmx };

constexpr const char* Name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "?";
}

struct CpuFeatures {
  Isa isa = Isa::kScalar;
  bool avx512_bf16 = false;
  // VDPBF16PS beats widening to f32 and two FMAs (AMD). On Intel it issues every other cycle, half
  // the rate.
  bool fast_avx512_bf16 = false;
  bool avx512_vnni = false;
  bool amx_int8 = false;
  std::string reason;  // why not more
};

// `cap` is "auto", "scalar", "avx2", "avx512" or "amx"; the environment variable SLUICE_ISA
// replaces "auto". FailedPrecondition when the machine lacks a set that was asked for by name,
// InvalidArgument for others.
absl::StatusOr<CpuFeatures> DetectCpuFeatures(std::string cap);

// For tests that execute AMX instructions by other means (tests/support/amx_instructions.h): from
// now on "amx" asked for by name is there wherever the code around it runs (AVX-512 with bf16);
// "auto" stays what the machine has.
void AssumeAmx();

}  // namespace sluice::kernels::cpu
