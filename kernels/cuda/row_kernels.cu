#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_kernels.h"

namespace sluice::kernels::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// One warp for a group of columns of a row; lane l sums the columns l, l + 32, ...
__global__ void NormKernel(NormCall call) {
  const int64_t task = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  if (task >= call.count * call.groups) return;
  const int64_t first = task % call.groups * call.group;
  const float* x = call.x.At(task / call.groups) + first;
  float* out = call.out.At(task / call.groups) + first;
  const auto size = static_cast<float>(call.group);
  float mean = 0.0f;
  if (call.kind == NormKind::kLayer) {
    for (int64_t c = lane; c < call.group; c += kWarp) mean += x[c];
    mean = WarpSum(mean) / size;
  }
  float square = 0.0f;
  for (int64_t c = lane; c < call.group; c += kWarp) {
    const float difference = x[c] - mean;
    square = fmaf(difference, difference, square);
  }
  const float inverse = 1.0f / sqrtf(WarpSum(square) / size + call.epsilon);
  for (int64_t c = lane; c < call.group; c += kWarp) {
    const float weight = call.weight == nullptr ? 1.0f : call.weight[c];
    const float bias = call.bias == nullptr ? 0.0f : call.bias[c];
    out[c] = (x[c] - mean) * inverse * weight + bias;
  }
}

cudaError_t LaunchNorm(const NormCall& call, cudaStream_t stream) {
  return Launch(NormKernel, Blocks(call.count * call.groups, kWarps), kThreads, 0, stream, call);
}

// Of the elements of `rows` rows of `cols` columns the one of this thread; false beyond the last.
__device__ inline bool FindElement(int64_t rows, int64_t cols, int64_t& row, int64_t& column) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  row = i / cols;
  column = i % cols;
  return row < rows;
}

__global__ void RopeTableKernel(RopeTableCall call) {
  int64_t i, f;
  if (!FindElement(call.count, call.num_frequencies, i, f)) return;
  const double angle = static_cast<double>(call.positions[i]) * call.inverse_frequencies[f];
  float* row = call.out.At(i);
  row[f] = static_cast<float>(call.factor * cos(angle));
  row[call.num_frequencies + f] = static_cast<float>(call.factor * sin(angle));
}

cudaError_t LaunchRopeTable(const RopeTableCall& call, cudaStream_t stream) {
  return Launch(RopeTableKernel, Blocks(int64_t{call.count} * call.num_frequencies, kThreads),
                kThreads, 0, stream, call);
}

__global__ void RopeKernel(RopeCall call) {
  int64_t i, at;
  if (!FindElement(call.count, int64_t{call.num_heads} * call.half, i, at)) return;
  const int64_t f = at % call.half;
  const float* table = call.table.At(i);
  float* head = call.x.At(i) + at / call.half * call.head_dim;
  const bool halves = call.style == RopeStyle::kHalf;
  float& a = halves ? head[f] : head[2 * f];
  float& b = halves ? head[f + call.half] : head[2 * f + 1];
  const float x = a, y = b, cosine = table[f], sine = table[call.half + f];
  a = x * cosine - y * sine;
  b = y * cosine + x * sine;
}

cudaError_t LaunchRope(const RopeCall& call, cudaStream_t stream) {
  const int64_t pairs = int64_t{call.count} * call.num_heads * call.half;
  return Launch(RopeKernel, Blocks(pairs, kThreads), kThreads, 0, stream, call);
}

__global__ void ActivateKernel(ActivateCall call) {
  int64_t i, c;
  if (!FindElement(call.rows, call.width, i, c)) return;
  const float* x = call.x.At(i);
  float y = Activated(call.activation, x[c]);
  if (call.activation == Activation::kClampedSwiglu) {
    y = ClampedSwiglu(call.clamp, y, x[call.width + c]);
  } else if (call.gated) {
    y *= x[call.width + c];
  }
  call.out.At(i)[c] = y;
}

cudaError_t LaunchActivate(const ActivateCall& call, cudaStream_t stream) {
  return Launch(ActivateKernel, Blocks(call.rows * call.width, kThreads), kThreads, 0, stream,
                call);
}

__global__ void CopyKernel(CopyCall call) {
  int64_t i, c;
  if (!FindElement(call.rows, call.cols, i, c)) return;
  float& to = call.to.At(i)[c];
  const float from = call.from.At(i)[c];
  to = call.add ? to + call.scale * from : from;
}

cudaError_t LaunchCopy(const CopyCall& call, cudaStream_t stream) {
  return Launch(CopyKernel, Blocks(call.rows * call.cols, kThreads), kThreads, 0, stream, call);
}

__global__ void FillKernel(DeviceRows x, int32_t rows, int64_t cols, float value) {
  int64_t i, c;
  if (FindElement(rows, cols, i, c)) x.At(i)[c] = value;
}

cudaError_t LaunchFill(
    const DeviceRows& x, int32_t rows, int64_t cols, float value, cudaStream_t stream) {
  return Launch(FillKernel, Blocks(rows * cols, kThreads), kThreads, 0, stream, x, rows, cols,
                value);
}

__global__ void CombineKernel(CombineCall call) {
  int64_t i, c;
  if (!FindElement(call.rows, call.cols, i, c)) return;
  float gate = 1.0f;
  if (call.gate == GateFunction::kIdentity) gate = call.scores[i];
  if (call.gate == GateFunction::kSigmoid) gate = Sigmoid(call.scores[i]);
  if (call.gate == GateFunction::kTanh) gate = tanhf(call.scores[i]);
  float& x = call.x.At(i)[c];
  const float y = call.y.At(i)[c];
  switch (call.combine) {
    case DepthCombine::kScaledUpdate:
      x = x + gate * (y - x);
      break;
    case DepthCombine::kPlusBlock:
      x = x + gate * y;
      break;
    case DepthCombine::kOnlyBlock:
      x = gate * y;
      break;
  }
}

cudaError_t LaunchCombineDepth(const CombineCall& call, cudaStream_t stream) {
  return Launch(CombineKernel, Blocks(call.rows * call.cols, kThreads), kThreads, 0, stream, call);
}

// One warp walks over the rows, 32 at a time: the selected ones stay in order.
__global__ void SelectKernel(SelectCall call) {
  const int lane = static_cast<int>(threadIdx.x);
  int32_t taken = 0;
  for (int32_t first = 0; first < call.rows; first += kWarp) {
    const int32_t i = first + lane;
    bool wanted = false;
    if (i < call.rows) {
      const float threshold = call.thresholds[i];
      wanted = threshold == -Infinity() || call.scores[i] > threshold;
    }
    const unsigned all = __ballot_sync(kAllLanes, wanted);
    if (wanted) call.selected[taken + __popc(all & ((1u << lane) - 1u))] = i;
    taken += __popc(all);
  }
  if (lane == 0) call.selected[call.rows] = taken;
}

cudaError_t LaunchSelectAbove(const SelectCall& call, cudaStream_t stream) {
  return Launch(SelectKernel, 1, kWarp, 0, stream, call);
}

// What ranks below everything: so that a broken row still selects in a fixed order.
__device__ inline float Rankable(float value) { return IsNan(value) ? -Infinity() : value; }

struct Best {
  float key;
  int32_t index;
};

// The largest key of the warp, of equal ones that with the lowest index; -1 where nothing is left.
__device__ inline Best WarpBest(Best best) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const Best other{__shfl_xor_sync(kAllLanes, best.key, mask),
                     __shfl_xor_sync(kAllLanes, best.index, mask)};
    const bool better = best.index < 0 ||
                        (other.index >= 0 && (other.key > best.key ||
                                              (other.key == best.key && other.index < best.index)));
    if (better) best = other;
  }
  return best;
}

// The best of keys[first, last) that `open` still offers.
__device__ inline Best FindBest(const float* keys,
                                const int32_t* open,
                                int32_t first,
                                int32_t last) {
  Best best{0.0f, -1};
  for (int32_t e = first + static_cast<int32_t>(threadIdx.x); e < last; e += kWarp) {
    if (open[e] != 0 && (best.index < 0 || keys[e] > best.key)) best = {keys[e], e};
  }
  return WarpBest(best);
}

// Experts outside of the best groups are closed.
__device__ inline void CloseGroups(const RouteCall& call,
                                   const float* keys,
                                   int32_t* open,
                                   float* group_keys,
                                   int32_t* group_open) {
  const int32_t size = call.num_experts / call.num_groups;
  const bool leader = threadIdx.x == 0;
  for (int32_t g = 0; g < call.num_groups; ++g) {
    const Best first = FindBest(keys, open, g * size, (g + 1) * size);
    float score = first.key;
    if (call.group_score == GroupScore::kTopTwoSum && size > 1) {
      if (leader) open[first.index] = 0;
      __syncwarp();
      score += FindBest(keys, open, g * size, (g + 1) * size).key;
      __syncwarp();
      if (leader) open[first.index] = 1;
    }
    if (leader) {
      group_keys[g] = score;
      group_open[g] = 1;
    }
    __syncwarp();
  }
  for (int32_t j = 0; j < call.top_groups; ++j) {
    const Best best = FindBest(group_keys, group_open, 0, call.num_groups);
    __syncwarp();
    if (leader) group_open[best.index] = 0;  // closed here means chosen
    __syncwarp();
  }
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < call.num_experts; e += kWarp)
    open[e] = group_open[e / size] == 0 ? 1 : 0;
  __syncwarp();
}

// A warp for a row. Shared: keys, scores, open of the experts; keys, open of the groups.
__global__ void RouteKernel(RouteCall call) {
  extern __shared__ unsigned char shared_bytes[];
  const int32_t experts = call.num_experts;
  float* keys = reinterpret_cast<float*>(shared_bytes);
  float* scores = keys + experts;
  int32_t* open = reinterpret_cast<int32_t*>(scores + experts);
  float* group_keys = reinterpret_cast<float*>(open + experts);
  int32_t* group_open = reinterpret_cast<int32_t*>(group_keys + call.num_groups);
  const int32_t row = static_cast<int32_t>(blockIdx.x);
  const int32_t lane = static_cast<int32_t>(threadIdx.x);
  const float* logits = call.logits.At(row);
  float largest = -Infinity(), sum = 0.0f;
  if (call.score == ScoreFunction::kSoftmax) {
    for (int32_t e = lane; e < experts; e += kWarp) largest = fmaxf(largest, Rankable(logits[e]));
    largest = WarpMax(largest);
    for (int32_t e = lane; e < experts; e += kWarp) sum += expf(logits[e] - largest);
    sum = WarpSum(sum);
  }
  for (int32_t e = lane; e < experts; e += kWarp) {
    float score = logits[e];
    if (call.score == ScoreFunction::kSoftmax) score = expf(score - largest) / sum;
    if (call.score == ScoreFunction::kSigmoid) score = Sigmoid(score);
    scores[e] = score;
    keys[e] = Rankable(call.selection_bias == nullptr ? score : score + call.selection_bias[e]);
    open[e] = 1;
  }
  __syncwarp();
  if (call.num_groups > 1) CloseGroups(call, keys, open, group_keys, group_open);
  int32_t* chosen = call.experts + int64_t{row} * call.top_k;
  float* weights = call.weights + int64_t{row} * call.top_k;
  for (int32_t j = 0; j < call.top_k; ++j) {
    const Best best = FindBest(keys, open, 0, experts);
    __syncwarp();
    if (lane == 0) {
      open[best.index] = 0;
      chosen[j] = best.index;
      weights[j] = scores[best.index];
    }
    __syncwarp();
  }
  if (lane != 0) return;
  if (call.score == ScoreFunction::kSoftmaxOverTopK) {
    float top = -Infinity(), total = 0.0f;
    for (int32_t j = 0; j < call.top_k; ++j) top = fmaxf(top, Rankable(weights[j]));
    for (int32_t j = 0; j < call.top_k; ++j) total += weights[j] = expf(weights[j] - top);
    for (int32_t j = 0; j < call.top_k; ++j) weights[j] /= total;
  }
  float total = call.renormalize_epsilon;
  for (int32_t j = 0; j < call.top_k; ++j) total += weights[j];
  for (int32_t j = 0; j < call.top_k; ++j)
    weights[j] = (call.renormalize ? weights[j] / total : weights[j]) * call.scale;
}

cudaError_t LaunchRoute(const RouteCall& call, cudaStream_t stream) {
  const size_t shared = (size_t{3} * static_cast<size_t>(call.num_experts) +
                         size_t{2} * static_cast<size_t>(call.num_groups)) *
                        sizeof(float);
  // Beyond 48 KiB (4,095 experts) a kernel must ask.
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        RouteKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  return Launch(RouteKernel, static_cast<unsigned>(call.rows), kWarp, shared, stream, call);
}

}  // namespace sluice::kernels::cuda
