// Row-wise kernels that exist once per instruction set: one table of functions, chosen at start-up.
// Plain structs only: included by files with ISA flags. Threads and row lists are the caller's
// business.
#pragma once

#include <cstdint>

#include "kernels/kv_span.h"

namespace sluice::kernels::cpu {

// The values of kernels::Activation, repeated because files with ISA flags do not see backend.h.
enum class VectorActivation : uint8_t {
  kNone,
  kSilu,
  kRelu,
  kGelu,
  kGeluTanh,
  kTanh,
  kClampedSwiglu
};

// out = act(acc + bias), or out += scale * act(acc + bias).
struct EpilogueRow {
  const float* acc = nullptr;  // 64 readable elements
  float* out = nullptr;
  int64_t columns = 0;          // 1..64
  const float* bias = nullptr;  // may be null
  VectorActivation activation = VectorActivation::kNone;
  bool accumulate = false;
  float scale = 1.0f;
};

struct NormRow {
  bool center = false;  // layer norm
  float epsilon = 0.0f;
  const float* weight = nullptr;  // may be null
  const float* bias = nullptr;    // may be null
  const float* x = nullptr;
  float* out = nullptr;
  int64_t columns = 0;
};

// out = act(x), times `gate` where set.
struct ActivateRow {
  VectorActivation activation = VectorActivation::kNone;
  const float* x = nullptr;
  const float* gate = nullptr;
  float* out = nullptr;
  int64_t columns = 0;
  float alpha = 0.0f;  // of kClampedSwiglu, as kernels::SwigluClamp
  float limit = 0.0f;
};

// A row rounded to int8, as kernels/int8.h says, plus `offset` (0 or 128).
struct Int8Row {
  const float* x = nullptr;
  int64_t columns = 0;
  int64_t padded = 0;  // a multiple of 16; what lies behind `columns` is never read with a weight
  int32_t offset = 0;
  void* out = nullptr;     // [padded] bytes
  float* scale = nullptr;  // [1]
};

// Rows of weights that become int8 outputs of one block of 64 (packed_layout.h), rounded as
// kernels/int8.h says.
struct Int8Weights {
  const void* x = nullptr;
  bool bf16 = false;   // else f32
  int64_t stride = 0;  // elements from row to row
  int64_t rows = 0;    // 1..64
  int64_t columns = 0;
  int8_t* out = nullptr;    // of the first row; written up to a multiple of 16 columns
  float* scales = nullptr;  // [rows]
  int32_t* sums = nullptr;  // [rows], as PackedMatrix::sums
};

// Query heads are attended in groups of at most this many, all of one sequence and one KV head.
constexpr int kMaxQueries = 8;

struct AttendQuery {
  const float* query = nullptr;
  int32_t begin = 0;  // visible slots
  int32_t end = 0;
  const KvSpan* spans = nullptr;  // [num_spans] of the task, instead; may be null
  bool has_sink = false;
  float sink = 0.0f;
  const float* relative = nullptr;  // added to the scores, by distance from `slot`; may be null
  int32_t relative_size = 0;
  int32_t slot = 0;
  float* out = nullptr;
};

// One KV head inside the pages: keys [key_dim][page_tokens], values [page_tokens][value_stride].
struct AttendTask {
  const char* pool = nullptr;
  int64_t page_bytes = 0;
  const int32_t* page_table = nullptr;  // of this sequence
  int64_t block_stride = 0;
  int64_t key_offset = 0;  // bytes from the start of a page
  int64_t value_offset = 0;
  int32_t key_dim = 0;
  int32_t value_dim = 0;
  int32_t value_stride = 0;  // value_dim rounded up to 16
  int32_t page_tokens = 0;   // a multiple of 16
  bool bf16 = false;
  bool value_in_key = false;  // the value offset points into the keys: [value_dim][page_tokens]
  float scale = 1.0f;
  AttendQuery queries[kMaxQueries];
  int32_t num_queries = 0;
  int32_t num_spans = 1;
  float* scratch = nullptr;  // [num_queries, value_stride]
};

struct VectorKernels {
  const char* name = "";
  void (*epilogue)(const EpilogueRow& row) = nullptr;
  // Rounds `columns` values to bf16 and fills up to `padded` with zeros.
  void (*to_bf16)(const float* x, int64_t columns, int64_t padded, uint16_t* out) = nullptr;
  // The same as f32 values.
  void (*round_bf16)(const float* x, int64_t columns, int64_t padded, float* out) = nullptr;
  void (*to_int8)(const Int8Row& row) = nullptr;
  void (*pack_int8)(const Int8Weights& weights) = nullptr;
  void (*norm)(const NormRow& row) = nullptr;
  void (*activate)(const ActivateRow& row) = nullptr;
  void (*add_scaled)(const float* y, float scale, int64_t columns, float* x) = nullptr;
  // x = softmax(x) and x = sigmoid(x).
  void (*softmax)(float* x, int64_t columns) = nullptr;
  void (*sigmoid)(float* x, int64_t columns) = nullptr;
  void (*attend)(const AttendTask& task) = nullptr;
  // A block of 64 outputs of int4 weights as the int8 that they stand for (packed_layout.h).
  void (*expand_int4)(const void* block, int64_t k_padded, int8_t* out) = nullptr;
};

extern const VectorKernels kVectorScalar;
extern const VectorKernels kVectorAvx2;
extern const VectorKernels kVectorAvx512;

}  // namespace sluice::kernels::cpu
