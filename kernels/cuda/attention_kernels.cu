#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"

namespace sluice::kernels::cuda {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTileSlots = 64;  // slots that are merged at a time, from multiples of it

__device__ inline int64_t KeyAt(const PageShape& shape, int32_t head, int32_t token) {
  return (int64_t{head} * shape.page_tokens + token) * shape.key_dim;
}
__device__ inline int64_t ValueAt(const PageShape& shape, int32_t head, int32_t token) {
  if (shape.value_in_key) return KeyAt(shape, head, token) + shape.key_dim - shape.value_dim;
  return KeyAt(shape, shape.num_kv_heads, 0) +
         (int64_t{head} * shape.page_tokens + token) * shape.value_dim;
}
__device__ inline float Load(const PageShape& shape, const unsigned char* page, int64_t at) {
  return shape.bf16 ? Bf16Value(reinterpret_cast<const uint16_t*>(page)[at])
                    : reinterpret_cast<const float*>(page)[at];
}

__global__ void AppendKernel(AppendCall call) {
  const PageShape& shape = call.shape;
  const int64_t per_head = shape.key_dim + (shape.value_in_key ? 0 : shape.value_dim);
  const int64_t element = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t i = element / (per_head * shape.num_kv_heads);
  if (i >= call.rows) return;
  const auto head = static_cast<int32_t>(element / per_head % shape.num_kv_heads);
  const int64_t d = element % per_head;
  const int32_t token = call.slots[i] % shape.page_tokens;
  const bool is_key = d < shape.key_dim;
  const float value = is_key
                          ? call.key.At(i)[int64_t{head} * shape.key_dim + d]
                          : call.value.At(i)[int64_t{head} * shape.value_dim + d - shape.key_dim];
  const int64_t at =
      is_key ? KeyAt(shape, head, token) + d : ValueAt(shape, head, token) + d - shape.key_dim;
  unsigned char* page = shape.pool + call.pages[i] * shape.page_bytes;
  if (shape.bf16) {
    reinterpret_cast<uint16_t*>(page)[at] = static_cast<uint16_t>(Bf16Bits(value));
  } else {
    reinterpret_cast<float*>(page)[at] = value;
  }
}

cudaError_t LaunchAppendKv(const AppendCall& call, cudaStream_t stream) {
  const int64_t per_head =
      call.shape.key_dim + (call.shape.value_in_key ? 0 : call.shape.value_dim);
  return Launch(AppendKernel, Blocks(call.rows * per_head * call.shape.num_kv_heads, kThreads),
                kThreads, 0, stream, call);
}

// What a block of threads works on: some of the query heads of one KV head, of one row.
struct HeadBlock {
  int32_t row, kv_head, first, count;
};

// Shared memory of a block: per head its query, its sum, the scores of a tile, and three numbers.
struct HeadState {
  float* query;    // [heads][key_dim]
  float* sum;      // [heads][value_dim]
  float* weights;  // [heads][kTileSlots]: scores, then their exponentials
  float* maximum;  // [heads]
  float* total;    // [heads]
  float* rescale;  // [heads]: what the tile makes of the sums before it
};

__device__ inline HeadState StateOf(float* shared, const AttentionCall& call, int32_t heads) {
  HeadState state;
  state.query = shared;
  state.sum = state.query + heads * call.shape.key_dim;
  state.weights = state.sum + heads * call.shape.value_dim;
  state.maximum = state.weights + heads * kTileSlots;
  state.total = state.maximum + heads;
  state.rescale = state.total + heads;
  return state;
}

__device__ inline const unsigned char* PageOf(const AttentionCall& call,
                                              int32_t row,
                                              int32_t slot) {
  const int64_t block = slot / call.shape.page_tokens;
  const int64_t page = call.table[int64_t{call.table_row[row]} * call.max_blocks + block];
  return call.shape.pool + page * call.shape.page_bytes;
}

// The logit that a key's distance adds.
__device__ inline float Relative(const AttentionCall& call,
                                 int32_t row,
                                 int32_t head,
                                 int32_t slot) {
  if (call.relative == nullptr) return 0.0f;
  const int32_t distance = call.slot[row] - slot + call.relative_zero;
  const int32_t most = call.relative_size - 1;
  const int32_t held = distance < 0 ? 0 : distance < most ? distance : most;
  const int64_t of_row = call.relative_shared ? head : int64_t{row} * call.num_heads + head;
  return call.relative[of_row * call.relative_size + held];
}

// Scores of the slots [first, first + count): a warp takes four slots at a time, eight lanes each.
__device__ inline void Score(const AttentionCall& call,
                             const HeadBlock& heads,
                             const HeadState& state,
                             int32_t first,
                             int32_t count) {
  constexpr int kLanes = 8;
  constexpr int kSlots = kThreads / kLanes;
  const PageShape& shape = call.shape;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int32_t begin = 0; begin < count; begin += kSlots) {
    const int32_t j = begin + static_cast<int32_t>(threadIdx.x) / kLanes;
    const bool there = j < count;  // the others take part in the sums only
    const int32_t slot = first + (there ? j : 0);
    const unsigned char* page = PageOf(call, heads.row, slot);
    const int64_t key = KeyAt(shape, heads.kv_head, slot % shape.page_tokens);
    for (int32_t h = 0; h < heads.count; ++h) {
      float dot = 0.0f;
      for (int32_t d = lane; there && d < shape.key_dim; d += kLanes)
        dot = fmaf(state.query[h * shape.key_dim + d], Load(shape, page, key + d), dot);
      for (int mask = kLanes / 2; mask > 0; mask /= 2) dot += __shfl_xor_sync(kAllLanes, dot, mask);
      if (lane != 0 || !there) continue;
      state.weights[h * kTileSlots + j] =
          dot * call.scale + Relative(call, heads.row, heads.first + h, slot);
    }
  }
}

// Scores to exponentials with the new maximum (online softmax: Milakov and Gimelshein 2018), a
// warp for a head.
__device__ inline void Weigh(const HeadBlock& heads, const HeadState& state, int32_t count) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int32_t h = static_cast<int32_t>(threadIdx.x) / kWarp; h < heads.count; h += kWarps) {
    float* weights = state.weights + h * kTileSlots;
    const float before = state.maximum[h];
    float largest = before;
    for (int32_t j = lane; j < count; j += kWarp) largest = fmaxf(largest, weights[j]);
    largest = WarpMax(largest);
    const float rescale = before == largest ? 1.0f : expf(before - largest);
    float sum = 0.0f;
    for (int32_t j = lane; j < count; j += kWarp) sum += weights[j] = expf(weights[j] - largest);
    sum = WarpSum(sum);
    __syncwarp();
    if (lane != 0) continue;
    state.maximum[h] = largest;
    state.total[h] = state.total[h] * rescale + sum;
    state.rescale[h] = rescale;
  }
}

// Adds the weighted values, a thread for an element of the sums.
__device__ inline void AddValues(const AttentionCall& call,
                                 const HeadBlock& heads,
                                 const HeadState& state,
                                 int32_t first,
                                 int32_t count) {
  const PageShape& shape = call.shape;
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < heads.count * shape.value_dim;
       e += kThreads) {
    const int32_t h = e / shape.value_dim, d = e % shape.value_dim;
    float sum = state.sum[e] * state.rescale[h];
    for (int32_t j = 0; j < count; ++j) {
      const int32_t slot = first + j;
      const int64_t at = ValueAt(shape, heads.kv_head, slot % shape.page_tokens) + d;
      sum = fmaf(state.weights[h * kTileSlots + j], Load(shape, PageOf(call, heads.row, slot), at),
                 sum);
    }
    state.sum[e] = sum;
  }
}

__global__ void AttentionKernel(AttentionCall call) {
  extern __shared__ unsigned char shared_bytes[];
  const PageShape& shape = call.shape;
  const int32_t group = call.num_heads / shape.num_kv_heads;
  const int32_t chunks = (group + call.heads_per_block - 1) / call.heads_per_block;
  const auto at = static_cast<int32_t>(blockIdx.y);
  HeadBlock heads{static_cast<int32_t>(blockIdx.x), at / chunks, 0, 0};
  const int32_t in_group = at % chunks * call.heads_per_block;
  heads.first = heads.kv_head * group + in_group;
  heads.count = group - in_group < call.heads_per_block ? group - in_group : call.heads_per_block;
  const HeadState state =
      StateOf(reinterpret_cast<float*>(shared_bytes), call, call.heads_per_block);

  const float* query = call.query.At(heads.row) + int64_t{heads.first} * shape.key_dim;
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < heads.count * shape.key_dim;
       e += kThreads)
    state.query[e] = query[e];
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < heads.count * shape.value_dim;
       e += kThreads)
    state.sum[e] = 0.0f;
  for (int32_t h = static_cast<int32_t>(threadIdx.x); h < heads.count; h += kThreads) {
    float sink = -Infinity();
    if (call.sinks != nullptr) sink = call.sinks[heads.first + h];
    if (call.row_sinks != nullptr) sink = call.row_sinks[heads.row];
    state.maximum[h] = sink;
    state.total[h] = sink == -Infinity() ? 0.0f : 1.0f;
  }
  __syncthreads();

  const bool has_spans = call.spans != nullptr;
  for (int32_t i = 0; i < (has_spans ? call.num_spans : 1); ++i) {
    KvSpan span{call.begin[heads.row], call.end[heads.row]};
    if (has_spans) {
      const int64_t of_head = call.span_heads == 1 ? 0 : heads.first;
      span = call.spans[(int64_t{heads.row} * call.span_heads + of_head) * call.num_spans + i];
    }
    for (int32_t first = span.begin; first < span.end;) {
      const int32_t border = (first / kTileSlots + 1) * kTileSlots;
      const int32_t last = border < span.end ? border : span.end;
      Score(call, heads, state, first, last - first);
      __syncthreads();
      Weigh(heads, state, last - first);
      __syncthreads();
      AddValues(call, heads, state, first, last - first);
      __syncthreads();
      first = last;
    }
  }

  float* out = call.out.At(heads.row) + int64_t{heads.first} * shape.value_dim;
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < heads.count * shape.value_dim;
       e += kThreads) {
    const float total = state.total[e / shape.value_dim];
    out[e] = total > 0.0f ? state.sum[e] / total : 0.0f;
  }
}

int64_t AttentionSharedBytes(const PageShape& shape, int32_t heads) {
  return int64_t{heads} * (shape.key_dim + shape.value_dim + kTileSlots + 3) * 4;
}

cudaError_t LaunchAttention(const AttentionCall& call, cudaStream_t stream) {
  const int32_t group = call.num_heads / call.shape.num_kv_heads;
  const auto chunks = Blocks(group, call.heads_per_block);
  const dim3 grid(static_cast<unsigned>(call.rows),
                  static_cast<unsigned>(call.shape.num_kv_heads) * chunks);
  return Launch(AttentionKernel, grid, kThreads,
                static_cast<size_t>(AttentionSharedBytes(call.shape, call.heads_per_block)), stream,
                call);
}

}  // namespace sluice::kernels::cuda
