// Sixteen float or int lanes on any instruction set, written with compiler vectors. Included only
// by files that are compiled once per instruction set. Everything is in an anonymous namespace and
// such files include no header with inline functions: the linker must never replace portable code
// by a copy built with AVX.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sluice::kernels::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kNativeLanes = 16;
#elif defined(__AVX2__)
constexpr int kNativeLanes = 8;
#else
constexpr int kNativeLanes = 4;
#endif
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kNativeLanes;

#define SLUICE_INLINE inline __attribute__((always_inline))

typedef float VecF __attribute__((vector_size(kNativeLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kNativeLanes * 4)));
typedef uint16_t VecH __attribute__((vector_size(kNativeLanes * 2)));
typedef uint8_t VecB __attribute__((vector_size(kNativeLanes)));
typedef int16_t VecS __attribute__((vector_size(kNativeLanes * 4)));
typedef float VecFUnaligned __attribute__((vector_size(kNativeLanes * 4), aligned(4), may_alias));
typedef uint16_t VecHUnaligned
    __attribute__((vector_size(kNativeLanes * 2), aligned(2), may_alias));
typedef int32_t VecIUnaligned __attribute__((vector_size(kNativeLanes * 4), aligned(1), may_alias));
typedef uint8_t VecBUnaligned __attribute__((vector_size(kNativeLanes), aligned(1), may_alias));

struct F16 {
  VecF part[kParts];
};
struct I16 {
  VecI part[kParts];
};

SLUICE_INLINE F16 Set(float value) {
  F16 out;
  for (int p = 0; p < kParts; ++p) out.part[p] = value - VecF{};
  return out;
}

SLUICE_INLINE I16 SetInt(int32_t value) {
  I16 out;
  for (int p = 0; p < kParts; ++p) out.part[p] = value - VecI{};
  return out;
}

SLUICE_INLINE F16 Load(const float* from) {
  F16 out;
  for (int p = 0; p < kParts; ++p) {
    out.part[p] = *reinterpret_cast<const VecFUnaligned*>(from + p * kNativeLanes);
  }
  return out;
}

// Sixteen ints from anywhere.
SLUICE_INLINE I16 LoadInt(const void* from) {
  I16 out;
  for (int p = 0; p < kParts; ++p) {
    out.part[p] = static_cast<const VecIUnaligned*>(from)[p];
  }
  return out;
}

// Sixteen bytes with sign, widened. Said outright for the reason that WidenHalves has.
SLUICE_INLINE I16 LoadSignedBytes(const int8_t* from) {
  I16 out;
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  out.part[0] = reinterpret_cast<VecI>(_mm512_maskz_cvtepi8_epi32(0xFFFF, bytes));
#elif defined(__AVX2__)
  for (int p = 0; p < kParts; ++p) {
    const __m128i bytes =
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + p * kNativeLanes));
    out.part[p] = reinterpret_cast<VecI>(_mm256_cvtepi8_epi32(bytes));
  }
#else
  for (int p = 0; p < kParts; ++p) {
    for (int i = 0; i < kNativeLanes; ++i) out.part[p][i] = from[p * kNativeLanes + i];
  }
#endif
  return out;
}

SLUICE_INLINE F16 ToFloat(I16 value) {
  F16 out;
  for (int p = 0; p < kParts; ++p) out.part[p] = __builtin_convertvector(value.part[p], VecF);
  return out;
}

// The low bytes of the lanes.
SLUICE_INLINE void StoreBytes(I16 value, void* to) {
  for (int p = 0; p < kParts; ++p) {
    static_cast<VecBUnaligned*>(to)[p] = __builtin_convertvector(value.part[p], VecB);
  }
}

SLUICE_INLINE void Store(F16 value, float* to) {
  for (int p = 0; p < kParts; ++p) {
    *reinterpret_cast<VecFUnaligned*>(to + p * kNativeLanes) = value.part[p];
  }
}

// The first `count` (1..16) lanes from memory, the others zero.
SLUICE_INLINE F16 LoadPartial(const float* from, int64_t count) {
  alignas(64) float lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
  return Load(lanes);
}

SLUICE_INLINE void StorePartial(F16 value, float* to, int64_t count) {
  alignas(64) float lanes[kLanes];
  Store(value, lanes);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}

// Sixteen-bit lanes to 32 and back. Said outright: GCC 12 builds these conversions of wide vectors
// out of halves.
SLUICE_INLINE VecI WidenHalves(VecH half) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecI>(
      _mm512_maskz_cvtepu16_epi32(0xFFFF, reinterpret_cast<__m256i>(half)));
#elif defined(__AVX2__)
  return reinterpret_cast<VecI>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(half)));
#else
  return __builtin_convertvector(half, VecI);
#endif
}
SLUICE_INLINE VecH LowHalves(VecI wide) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecH>(
      _mm512_maskz_cvtepi32_epi16(0xFFFF, reinterpret_cast<__m512i>(wide)));
#else
  return __builtin_convertvector(wide, VecH);
#endif
}

// Sixteen bf16 values, widened.
SLUICE_INLINE F16 LoadBf16(const uint16_t* from) {
  F16 out;
  for (int p = 0; p < kParts; ++p) {
    const VecH half = *reinterpret_cast<const VecHUnaligned*>(from + p * kNativeLanes);
    const VecI wide = WidenHalves(half) << 16;
    out.part[p] = reinterpret_cast<VecF>(wide);
  }
  return out;
}

// Rounds to nearest even; NaN stays a quiet NaN. Same bits as ToBF16 of dtype.h.
SLUICE_INLINE void StoreBf16(F16 value, uint16_t* to) {
  for (int p = 0; p < kParts; ++p) {
    const VecI bits = reinterpret_cast<VecI>(value.part[p]);
    const VecI odd = (bits >> 16) & 1;
    const VecI rounded = bits + 0x7FFF + odd;
    const VecI nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    const VecI chosen = (nan & (bits | 0x400000)) | (~nan & rounded);
    const VecI high = (chosen >> 16) & 0xFFFF;
    *reinterpret_cast<VecHUnaligned*>(to + p * kNativeLanes) = LowHalves(high);
  }
}

SLUICE_INLINE F16 operator+(F16 a, F16 b) {
  for (int p = 0; p < kParts; ++p) a.part[p] += b.part[p];
  return a;
}
SLUICE_INLINE F16 operator-(F16 a, F16 b) {
  for (int p = 0; p < kParts; ++p) a.part[p] -= b.part[p];
  return a;
}
SLUICE_INLINE F16 operator*(F16 a, F16 b) {
  for (int p = 0; p < kParts; ++p) a.part[p] *= b.part[p];
  return a;
}
SLUICE_INLINE F16 operator/(F16 a, F16 b) {
  for (int p = 0; p < kParts; ++p) a.part[p] /= b.part[p];
  return a;
}

// a * b + c: fused where the instruction set has it. Whether it does is fixed per file, so bits are
// too.
SLUICE_INLINE F16 MulAdd(F16 a, F16 b, F16 c) {
  for (int p = 0; p < kParts; ++p) {
#if defined(__AVX512F__)
    c.part[p] = reinterpret_cast<VecF>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a.part[p]),
                                                       reinterpret_cast<__m512>(b.part[p]),
                                                       reinterpret_cast<__m512>(c.part[p])));
#elif defined(__FMA__)
    c.part[p] = reinterpret_cast<VecF>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a.part[p]),
                                                       reinterpret_cast<__m256>(b.part[p]),
                                                       reinterpret_cast<__m256>(c.part[p])));
#else
    c.part[p] = a.part[p] * b.part[p] + c.part[p];
#endif
  }
  return c;
}

// Lanes are all ones (true) or zero.
SLUICE_INLINE I16 Less(F16 a, F16 b) {
  I16 out;
  for (int p = 0; p < kParts; ++p) out.part[p] = reinterpret_cast<VecI>(a.part[p] < b.part[p]);
  return out;
}
SLUICE_INLINE I16 LessInt(I16 a, I16 b) {
  I16 out;
  for (int p = 0; p < kParts; ++p) out.part[p] = a.part[p] < b.part[p];
  return out;
}
SLUICE_INLINE I16 MaxInt(I16 a, I16 b) {
  for (int p = 0; p < kParts; ++p) {
    const VecI less = a.part[p] < b.part[p];
    a.part[p] = (less & b.part[p]) | (~less & a.part[p]);
  }
  return a;
}

// In each lane the products of the low and of the high halves, which are s16, added.
SLUICE_INLINE VecI PairDot(VecI a, VecI b) {
#if defined(__AVX512BW__)
  return reinterpret_cast<VecI>(
      _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<VecI>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<VecI>(
      _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

SLUICE_INLINE I16 operator&(I16 a, I16 b) {
  for (int p = 0; p < kParts; ++p) a.part[p] &= b.part[p];
  return a;
}
SLUICE_INLINE F16 Select(I16 mask, F16 yes, F16 no) {
  for (int p = 0; p < kParts; ++p) {
    const VecI y = reinterpret_cast<VecI>(yes.part[p]);
    const VecI n = reinterpret_cast<VecI>(no.part[p]);
    no.part[p] = reinterpret_cast<VecF>((mask.part[p] & y) | (~mask.part[p] & n));
  }
  return no;
}
SLUICE_INLINE F16 Max(F16 a, F16 b) { return Select(Less(a, b), b, a); }
SLUICE_INLINE F16 Min(F16 a, F16 b) { return Select(Less(b, a), b, a); }

// Sum and maximum over the lanes by halving: one fixed order for every instruction set. Lane i
// meets lane i + 8 of 16, then i + 4, i + 2, i + 1.
typedef float VecF4 __attribute__((vector_size(16)));
typedef float VecF8 __attribute__((vector_size(32)));

template <typename Combine>
SLUICE_INLINE float Halve(F16 value, const Combine& combine) {
#if defined(__AVX512F__)
  const VecF all = value.part[0];
  const VecF8 eight = combine(__builtin_shufflevector(all, all, 0, 1, 2, 3, 4, 5, 6, 7),
                              __builtin_shufflevector(all, all, 8, 9, 10, 11, 12, 13, 14, 15));
  VecF4 four = combine(__builtin_shufflevector(eight, eight, 0, 1, 2, 3),
                       __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
#elif defined(__AVX2__)
  const VecF8 eight = combine(value.part[0], value.part[1]);
  VecF4 four = combine(__builtin_shufflevector(eight, eight, 0, 1, 2, 3),
                       __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
#else
  VecF4 four =
      combine(combine(value.part[0], value.part[2]), combine(value.part[1], value.part[3]));
#endif
  four = combine(four, __builtin_shufflevector(four, four, 2, 3, 2, 3));
  four = combine(four, __builtin_shufflevector(four, four, 1, 1, 1, 1));
  return four[0];
}

struct AddLanes {
  template <typename V>
  SLUICE_INLINE V operator()(V a, V b) const {
    return a + b;
  }
};
struct LargerLanes {
  template <typename V>
  SLUICE_INLINE V operator()(V a, V b) const {
    return a < b ? b : a;
  }
};

SLUICE_INLINE float Sum(F16 value) { return Halve(value, AddLanes()); }
SLUICE_INLINE float MaxLane(F16 value) { return Halve(value, LargerLanes()); }

SLUICE_INLINE I16 LaneIndex() {
  alignas(64) constexpr int32_t kIndex[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                  8, 9, 10, 11, 12, 13, 14, 15};
  I16 out;
  for (int p = 0; p < kParts; ++p) {
    out.part[p] = *reinterpret_cast<const VecI*>(kIndex + p * kNativeLanes);
  }
  return out;
}

// 2^n for n in [-126, 127].
SLUICE_INLINE F16 PowerOfTwo(I16 n) {
  F16 out;
  for (int p = 0; p < kParts; ++p) out.part[p] = reinterpret_cast<VecF>((n.part[p] + 127) << 23);
  return out;
}

// e^x within 2 ulp. Zero below -87.3 (also for -inf), inf above 88.7, NaN stays NaN.
// Range reduction and polynomial: Cephes expf (Moshier), netlib.
SLUICE_INLINE F16 Exp(F16 x) {
  const F16 low = Set(-87.33654f);
  const F16 high = Set(88.72283f);
  const F16 clamped = Min(Max(x, low), high);
  const F16 magic = Set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const F16 rounded = clamped * Set(1.44269504f) + magic;
  const F16 n = rounded - magic;
  F16 r = MulAdd(n, Set(-0.693359375f), clamped);
  r = MulAdd(n, Set(2.12194440e-4f), r);
  F16 p = Set(1.9875691500e-4f);
  p = MulAdd(p, r, Set(1.3981999507e-3f));
  p = MulAdd(p, r, Set(8.3334519073e-3f));
  p = MulAdd(p, r, Set(4.1665795894e-2f));
  p = MulAdd(p, r, Set(1.6666665459e-1f));
  p = MulAdd(p, r, Set(5.0000001201e-1f));
  p = MulAdd(p, r * r, r) + Set(1.0f);
  I16 half;
  I16 rest;
  for (int i = 0; i < kParts; ++i) {
    const VecI exponent = reinterpret_cast<VecI>(rounded.part[i]) - 0x4B400000;
    half.part[i] = exponent >> 1;
    rest.part[i] = exponent - half.part[i];
  }
  F16 out = p * PowerOfTwo(half) * PowerOfTwo(rest);
  out = Select(Less(x, low), Set(0.0f), out);
  out = Select(Less(high, x), Set(__builtin_inff()), out);
  I16 nan;
  for (int i = 0; i < kParts; ++i) nan.part[i] = reinterpret_cast<VecI>(x.part[i] != x.part[i]);
  return Select(nan, x, out);
}

// Calls body(column, count) for every run of 16 columns; count < 16 only in the last.
template <typename Body>
SLUICE_INLINE void ForLanes(int64_t columns, const Body& body) {
  int64_t column = 0;
  for (; column + kLanes <= columns; column += kLanes) body(column, int64_t{kLanes});
  if (column < columns) body(column, columns - column);
}

SLUICE_INLINE F16 LoadUpTo(const float* from, int64_t count) {
  return count == kLanes ? Load(from) : LoadPartial(from, count);
}

SLUICE_INLINE void StoreUpTo(F16 value, float* to, int64_t count) {
  if (count == kLanes) {
    Store(value, to);
  } else {
    StorePartial(value, to, count);
  }
}

}  // namespace
}  // namespace sluice::kernels::cpu
