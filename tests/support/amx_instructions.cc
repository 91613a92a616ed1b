#include "tests/support/amx_instructions.h"

#include "kernels/cpu/cpu_features.h"

#if defined(__x86_64__)
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#endif

namespace sluice {

#if defined(__x86_64__)
namespace {

constexpr int kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kMaxRowBytes = 64;

struct Tile {
  int rows = 0;
  int row_bytes = 0;
  uint8_t data[kMaxRows][kMaxRowBytes] = {};

  void Clear() { std::memset(data, 0, sizeof(data)); }
  template <typename T>
  T At(int row, int i) const {
    T out;
    std::memcpy(&out, &data[row][i * static_cast<int>(sizeof(T))], sizeof(T));
    return out;
  }
  template <typename T>
  void Set(int row, int i, T value) {
    std::memcpy(&data[row][i * static_cast<int>(sizeof(T))], &value, sizeof(T));
  }
};

// What XSAVE component 17 and 18 hold.
struct TileState {
  bool configured = false;
  std::array<Tile, kTiles> tiles;
};
thread_local TileState state;

// Async-signal-safe.
[[noreturn]] void Refuse(const char* why) {
  const char prefix[] = "AMX instruction refused: ";
  (void)!write(STDERR_FILENO, prefix, sizeof(prefix) - 1);
  (void)!write(STDERR_FILENO, why, std::strlen(why));
  (void)!write(STDERR_FILENO, "\n", 1);
  _exit(134);
}

// Intel SDM vol. 2, 2.3 (VEX) and 2.1.5 (ModRM, SIB).
struct Instruction {
  int prefix = 0;  // VEX.pp: 0 none, 1 66, 2 F3, 3 F2
  int opcode = 0;
  int mod = 0, reg = 0, rm = 0, vvvv = 0;
  uint64_t address = 0;  // of a memory operand, without its index
  uint64_t index = 0;    // scaled
  bool has_sib = false;
  int length = 0;
};

uint64_t RegisterOf(const ucontext_t& context, int number) {
  constexpr int kPlaces[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                               REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                               REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(context.uc_mcontext.gregs[kPlaces[number]]);
}

int32_t ReadInt32(const uint8_t* from) {
  int32_t out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}

// False for anything but a three-byte VEX instruction of the map 0F38 with W and L of zero.
bool Decode(const ucontext_t& context, Instruction& out) {
  const auto start = static_cast<uint64_t>(context.uc_mcontext.gregs[REG_RIP]);
  const auto* code = reinterpret_cast<const uint8_t*>(start);
  if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return false;
  const int extend_index = (code[1] & 0x40) != 0 ? 0 : 8;
  const int extend_base = (code[1] & 0x20) != 0 ? 0 : 8;
  out.prefix = code[2] & 3;
  out.vvvv = ~(code[2] >> 3) & 15;
  out.opcode = code[3];
  const uint8_t modrm = code[4];
  out.mod = modrm >> 6;
  out.reg = (modrm >> 3 & 7) + ((code[1] & 0x80) != 0 ? 0 : 8);
  out.rm = modrm & 7;
  out.length = 5;
  if (out.mod == 3) return true;
  bool has_base = true;
  int base = out.rm + extend_base;
  if (out.rm == 4) {
    const uint8_t sib = code[out.length++];
    out.has_sib = true;
    const int index = (sib >> 3 & 7) + extend_index;
    if (index != 4) out.index = RegisterOf(context, index) << (sib >> 6);
    base = (sib & 7) + extend_base;
    has_base = out.mod != 0 || (sib & 7) != 5;
  } else if (out.mod == 0 && out.rm == 5) {
    out.length += 4;
    out.address = start + static_cast<uint64_t>(out.length) +
                  static_cast<uint64_t>(int64_t{ReadInt32(code + 5)});
    return true;
  }
  out.address = has_base ? RegisterOf(context, base) : 0;
  if (out.mod == 1) {
    out.address += static_cast<uint64_t>(int64_t{static_cast<int8_t>(code[out.length++])});
  } else if (out.mod == 2 || !has_base) {
    out.address += static_cast<uint64_t>(int64_t{ReadInt32(code + out.length)});
    out.length += 4;
  }
  return true;
}

Tile& TileAt(int number) {
  if (!state.configured) Refuse("tiles are not configured");
  if (number >= kTiles) Refuse("no such tile");
  Tile& tile = state.tiles[static_cast<size_t>(number)];
  if (tile.rows == 0 || tile.row_bytes == 0) Refuse("a tile without rows");
  return tile;
}

void LoadConfiguration(const uint8_t* from) {
  if (from[0] != 1) Refuse("LDTILECFG: palette");
  for (int i = 1; i < 16; ++i) {
    if (from[i] != 0) Refuse("LDTILECFG: start row, or a reserved byte");
  }
  for (int t = 0; t < 16; ++t) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, from + 16 + 2 * t, sizeof(row_bytes));
    const int rows = from[48 + t];
    if (t >= kTiles ? rows != 0 || row_bytes != 0 : rows > kMaxRows || row_bytes > kMaxRowBytes)
      Refuse("LDTILECFG: a tile's shape");
    if ((rows == 0) != (row_bytes == 0))
      Refuse("LDTILECFG: rows without bytes, or bytes without rows");
    if (t >= kTiles) continue;
    Tile& tile = state.tiles[static_cast<size_t>(t)];
    tile.rows = rows;
    tile.row_bytes = row_bytes;
    tile.Clear();
  }
  state.configured = true;
}

// Of TILELOADD and TILESTORED; the stride is the index of the operand.
uint8_t* RowAt(const Instruction& instruction, int row) {
  if (!instruction.has_sib) Refuse("TILELOADD, TILESTORED: an operand without SIB");
  return reinterpret_cast<uint8_t*>(instruction.address +
                                    instruction.index * static_cast<uint64_t>(row));
}

void Load(const Instruction& instruction) {
  Tile& tile = TileAt(instruction.reg);
  tile.Clear();
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(tile.data[row], RowAt(instruction, row), static_cast<size_t>(tile.row_bytes));
  }
}

void Store(const Instruction& instruction) {
  const Tile& tile = TileAt(instruction.reg);
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(RowAt(instruction, row), tile.data[row], static_cast<size_t>(tile.row_bytes));
  }
}

// A subnormal number is zero to a product of tiles.
float Flushed(float value) {
  return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}

float Bf16At(const Tile& tile, int row, int i) {
  const uint32_t bits = static_cast<uint32_t>(tile.At<uint16_t>(row, i)) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return Flushed(out);
}

// Products run over whole rows of sixteen columns, which compilers turn into vectors: those beyond
// the tile are zero and not stored.
constexpr int kColumns = kMaxRowBytes / 4;
#define SLUICE_VECTORS __attribute__((target("avx512f,fma")))

// TDPBF16PS: the even and the odd products of a row are summed apart, by fused multiply-adds.
SLUICE_VECTORS void DotBf16(Tile& sum, const Tile& a, const Tile& b) {
  float weights[2 * kMaxRows][kColumns] = {};
  for (int k = 0; k < 2 * b.rows; ++k) {
    for (int n = 0; n < sum.row_bytes / 4; ++n) weights[k][n] = Bf16At(b, k / 2, 2 * n + k % 2);
  }
  for (int m = 0; m < sum.rows; ++m) {
    float parts[2][kColumns] = {};
    for (int k = 0; k < a.row_bytes / 2; ++k) {
      const float x = Bf16At(a, m, k);
      float* part = parts[k % 2];
      for (int n = 0; n < kColumns; ++n) part[n] = Flushed(std::fma(x, weights[k][n], part[n]));
    }
    for (int n = 0; n < sum.row_bytes / 4; ++n) {
      sum.Set(m, n, Flushed(Flushed(sum.At<float>(m, n)) + Flushed(parts[0][n] + parts[1][n])));
    }
  }
}

// TDPBSSD, TDPBSUD, TDPBUSD, TDPBUUD: A and B are the types of their bytes.
template <typename A, typename B>
SLUICE_VECTORS void DotInt8(Tile& sum, const Tile& a, const Tile& b) {
  int32_t weights[4 * kMaxRows][kColumns] = {};
  for (int k = 0; k < 4 * b.rows; ++k) {
    for (int n = 0; n < sum.row_bytes / 4; ++n) weights[k][n] = b.At<B>(k / 4, 4 * n + k % 4);
  }
  for (int m = 0; m < sum.rows; ++m) {
    int32_t total[kColumns] = {};
    for (int k = 0; k < a.row_bytes; ++k) {
      const int32_t x = a.At<A>(m, k);
      for (int n = 0; n < kColumns; ++n) total[n] += x * weights[k][n];
    }
    for (int n = 0; n < sum.row_bytes / 4; ++n) sum.Set(m, n, sum.At<int32_t>(m, n) + total[n]);
  }
}
#undef SLUICE_VECTORS

void Dot(const Instruction& instruction) {
  if (instruction.mod != 3) Refuse("a product of memory");
  if (instruction.reg == instruction.rm || instruction.reg == instruction.vvvv ||
      instruction.rm == instruction.vvvv)
    Refuse("a product that names a tile twice");
  Tile& sum = TileAt(instruction.reg);
  const Tile& a = TileAt(instruction.rm);
  const Tile& b = TileAt(instruction.vvvv);
  if (sum.rows != a.rows || sum.row_bytes != b.row_bytes || a.row_bytes != 4 * b.rows)
    Refuse("a product of shapes that do not fit");
  if (instruction.opcode == 0x5C) {
    if (instruction.prefix != 2) Refuse("an unknown product");
    return DotBf16(sum, a, b);
  }
  switch (instruction.prefix) {
    case 0:
      return DotInt8<uint8_t, uint8_t>(sum, a, b);
    case 1:
      return DotInt8<uint8_t, int8_t>(sum, a, b);
    case 2:
      return DotInt8<int8_t, uint8_t>(sum, a, b);
    default:
      return DotInt8<int8_t, int8_t>(sum, a, b);
  }
}

// Opcode 49: LDTILECFG, TILERELEASE, TILEZERO. False for others.
bool Configure(const Instruction& instruction) {
  if (instruction.mod != 3 && instruction.prefix == 0) {
    LoadConfiguration(reinterpret_cast<const uint8_t*>(instruction.address + instruction.index));
  } else if (instruction.mod == 3 && instruction.prefix == 0) {
    state.configured = false;
  } else if (instruction.mod == 3 && instruction.prefix == 3) {
    TileAt(instruction.reg).Clear();
  } else {
    return false;
  }
  return true;
}

bool Execute(const Instruction& instruction) {
  switch (instruction.opcode) {
    case 0x49:
      return Configure(instruction);
    case 0x4B:
      if (instruction.mod == 3 || instruction.prefix == 0) return false;
      instruction.prefix == 2 ? Store(instruction) : Load(instruction);
      return true;
    case 0x5C:
    case 0x5E:
      Dot(instruction);
      return true;
    default:
      return false;
  }
}

void OnIllegalInstruction(int, siginfo_t*, void* pointer) {
  auto& context = *static_cast<ucontext_t*>(pointer);
  bool any = false;
  for (;; any = true) {  // Those behind it as well: a signal costs more than an instruction.
    Instruction instruction;
    if (!Decode(context, instruction) || !Execute(instruction)) break;
    context.uc_mcontext.gregs[REG_RIP] += instruction.length;
  }
  if (!any) signal(SIGILL, SIG_DFL);  // The instruction runs again and ends the process.
}

}  // namespace

bool RunAmxInstructions() {
  const kernels::cpu::CpuFeatures features = *kernels::cpu::DetectCpuFeatures("auto");
  if (features.isa < kernels::cpu::Isa::kAvx512) return false;
  if (features.isa == kernels::cpu::Isa::kAmx && features.amx_int8) return true;
  struct sigaction action = {};
  action.sa_sigaction = &OnIllegalInstruction;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGILL, &action, nullptr) != 0) return false;
  kernels::cpu::AssumeAmx();
  return true;
}

#else

bool RunAmxInstructions() { return false; }

#endif

}  // namespace sluice
