// The paged KV cache on the device. A page holds the keys [kv_heads][page_tokens][key_dim], behind
// them the values [kv_heads][page_tokens][value_dim], or no values where they end the keys. All
// pointers are memory of the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/row_kernels.h"
#include "kernels/kv_span.h"

namespace sluice::kernels::cuda {

struct PageShape {
  unsigned char* pool;
  int64_t page_bytes;
  int32_t num_kv_heads;
  int32_t key_dim;
  int32_t value_dim;
  int32_t page_tokens;
  bool bf16;  // else f32
  bool value_in_key;
};

struct AppendCall {
  PageShape shape;
  const int32_t* pages;  // [rows] that the row is written to
  const int32_t* slots;  // [rows]
  DeviceRows key, value;
  int32_t rows;
};
cudaError_t LaunchAppendKv(const AppendCall& call, cudaStream_t stream);

struct AttentionCall {
  PageShape shape;
  const int32_t* table;  // [sequences of the call][max_blocks] pages
  int32_t max_blocks;
  const int32_t* table_row;  // [rows]
  const int32_t* slot;
  const int32_t* begin;
  const int32_t* end;
  int32_t rows;
  DeviceRows query, out;
  int32_t num_heads;
  int32_t heads_per_block;  // of one KV head's; divides nothing, the last block may have fewer
  float scale;
  const float* sinks;
  const float* row_sinks;
  const float* relative;
  int32_t relative_size;
  int32_t relative_zero;
  bool relative_shared;
  const KvSpan* spans;
  int32_t num_spans;
  int32_t span_heads;
};
// Shared memory of a block with this many heads, in bytes.
int64_t AttentionSharedBytes(const PageShape& shape, int32_t heads);
cudaError_t LaunchAttention(const AttentionCall& call, cudaStream_t stream);

}  // namespace sluice::kernels::cuda
