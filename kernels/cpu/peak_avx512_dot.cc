// Dot-product units of AVX-512: bf16 pairs into f32, and unsigned by signed bytes into int32.
#include <immintrin.h>

#include "kernels/cpu/peak_loops.h"

namespace sluice::kernels::cpu {
namespace {

constexpr int kChains = 16;

float RunBf16(int64_t rounds) {
  __m512 sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = _mm512_set1_ps(static_cast<float>(c));
  __m512i x = _mm512_set1_epi32(0x3F803F80);  // 1, 1
  for (int64_t i = 0; i < rounds; ++i) {
    __asm__ volatile("" : "+v"(x));
    const auto pair = reinterpret_cast<__m512bh>(x);
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbf16_ps(sum[c], pair, pair);
  }
  __m512 total = sum[0];
  for (int c = 1; c < kChains; ++c) total = _mm512_add_ps(total, sum[c]);
  float lanes[16];
  _mm512_storeu_ps(lanes, total);
  return lanes[0];
}

float RunInt8(int64_t rounds) {
  __m512i sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = _mm512_set1_epi32(c);
  __m512i x = _mm512_set1_epi8(1);
  for (int64_t i = 0; i < rounds; ++i) {
    __asm__ volatile("" : "+v"(x));
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], x, x);
  }
  __m512i total = sum[0];
  for (int c = 1; c < kChains; ++c) total = _mm512_add_epi32(total, sum[c]);
  int32_t lanes[16];
  _mm512_storeu_si512(lanes, total);
  return static_cast<float>(lanes[0]);
}

}  // namespace

const PeakLoop kPeakBf16Avx512{"bf16 dot, avx512_bf16", &RunBf16, kChains * 16 * 4.0};
const PeakLoop kPeakInt8Avx512{"int8 dot, avx512_vnni", &RunInt8, kChains * 16 * 8.0};

}  // namespace sluice::kernels::cpu
