#include "kernels/cpu/cpu_features.h"

#include <atomic>
#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sluice::kernels::cpu {
namespace {

std::atomic<bool> amx_assumed = false;

#if defined(__x86_64__)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers CpuId(uint32_t leaf, uint32_t subleaf) {
  Registers out;
  if (__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) return {};
  return out;
}

// The register state that the operating system saves (XCR0).
uint64_t EnabledState() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool Bit(uint32_t value, int bit) { return ((value >> bit) & 1u) != 0; }

bool IsAmd() {
  const Registers vendor = CpuId(0, 0);
  return vendor.ebx == 0x68747541 && vendor.edx == 0x69746E65 &&
         vendor.ecx == 0x444D4163;  // AuthenticAMD
}

// Linux gives tile data only to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM,
// XFEATURE_XTILEDATA).
bool RequestTileData() {
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Intel SDM vol. 1, 13.1 (XCR0 bits) and vol. 2, CPUID leaves 1 and 7. `wanted` limits what is
// requested; `assume_amx` as of AssumeAmx.
CpuFeatures DetectMachine(Isa wanted, bool assume_amx) {
  CpuFeatures out;
  const Registers basic = CpuId(1, 0);
  const Registers extended = CpuId(7, 0);
  const uint64_t state = Bit(basic.ecx, 27) ? EnabledState() : 0;  // bit 27: OSXSAVE
  const bool fma = Bit(basic.ecx, 12);
  if (!fma || !Bit(extended.ebx, 5) || (state & 0x6) != 0x6) {
    out.reason = "no AVX2 and FMA";
    return out;
  }
  out.isa = Isa::kAvx2;
  const bool avx512 = Bit(extended.ebx, 16) && Bit(extended.ebx, 17) && Bit(extended.ebx, 30) &&
                      Bit(extended.ebx, 31);  // F, DQ, BW, VL
  if (!avx512 || (state & 0xE6) != 0xE6) {
    out.reason = "no AVX-512 F/DQ/BW/VL";
    return out;
  }
  out.isa = Isa::kAvx512;
  out.avx512_bf16 = Bit(CpuId(7, 1).eax, 5);
  out.fast_avx512_bf16 = out.avx512_bf16 && IsAmd();
  out.avx512_vnni = Bit(extended.ecx, 11);
  if (assume_amx && out.avx512_bf16) {
    out.isa = Isa::kAmx;
    out.amx_int8 = true;
    return out;
  }
  const bool amx = Bit(extended.edx, 22) && Bit(extended.edx, 24);  // AMX-BF16, AMX-TILE
  if (!amx || !out.avx512_bf16) {
    out.reason = "no AMX-BF16";
    return out;
  }
  if ((state & 0x60000) != 0x60000) {
    out.reason = "the system does not save AMX state";
    return out;
  }
  if (wanted < Isa::kAmx) return out;
  if (!RequestTileData()) {
    out.reason = "the system refused AMX tile data";
    return out;
  }
  out.isa = Isa::kAmx;
  out.amx_int8 = Bit(extended.edx, 25);
  return out;
}

#else

CpuFeatures DetectMachine(Isa /*wanted*/, bool /*assume_amx*/) {
  CpuFeatures out;
  out.reason = "not an x86-64 processor";
  return out;
}

#endif

}  // namespace

void AssumeAmx() { amx_assumed = true; }

absl::StatusOr<CpuFeatures> DetectCpuFeatures(std::string cap) {
  const char* environment = std::getenv("SLUICE_ISA");
  if (cap == "auto" && environment != nullptr && environment[0] != '\0') cap = environment;
  const bool any = cap == "auto";
  Isa wanted = Isa::kAmx;
  bool known = any;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (cap != Name(isa)) continue;
    wanted = isa;
    known = true;
  }
  if (!known) return absl::InvalidArgumentError(absl::StrCat("unknown instruction set: ", cap));
  CpuFeatures out = DetectMachine(wanted, amx_assumed && cap == Name(Isa::kAmx));
  if (!any && out.isa < wanted) {
    return absl::FailedPreconditionError(absl::StrCat("isa=", cap, ": ", out.reason));
  }
  if (out.isa > wanted) out.isa = wanted;
  if (!any) out.reason = absl::StrCat("asked for ", cap);
  if (out.isa < Isa::kAvx512) out.avx512_bf16 = out.fast_avx512_bf16 = out.avx512_vnni = false;
  if (out.isa < Isa::kAmx) out.amx_int8 = false;
  return out;
}

}  // namespace sluice::kernels::cpu
