#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matrix_multiply.h"
#include "kernels/cuda/product_kernels.h"

namespace sluice::kernels::cuda {

constexpr int kThreads = 256;
constexpr int kSlices = 8;       // runs of blocks that are summed by themselves
constexpr int kBlockBytes = 64;  // of inputs, see MultiplyBlock
constexpr int kOutputs = 16;     // of a step of the tensor cores
constexpr int kRows = 8;         // of a step of the tensor cores

// ---- Inputs

// The largest of the block's values; every thread gets it. `buffer`: [kThreads / kWarp].
__device__ inline uint32_t BlockMax(uint32_t value, uint32_t* buffer) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, value, mask);
    value = other > value ? other : value;
  }
  if (threadIdx.x % kWarp == 0) buffer[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int warp = 0; warp < kThreads / kWarp; ++warp)
    value = buffer[warp] > value ? buffer[warp] : value;
  return value;
}

__global__ void PrepareKernel(PrepareCall call) {
  extern __shared__ unsigned char shared_bytes[];
  const int64_t row = blockIdx.x;
  const float* x = call.x.At(row);
  Int8Rounding rounding{};
  if (call.format == ProductFormat::kInt8) {
    // As integers the magnitudes have the order of the floats, with what is not finite on top.
    uint32_t largest = 0;
    for (int64_t c = threadIdx.x; c < call.k; c += kThreads) {
      const uint32_t magnitude = __float_as_uint(x[c]) & 0x7FFFFFFFu;
      largest = magnitude > largest ? magnitude : largest;
    }
    rounding =
        RoundingFor(__uint_as_float(BlockMax(largest, reinterpret_cast<uint32_t*>(shared_bytes))));
    if (threadIdx.x == 0) call.scales[row] = rounding.scale;
  }
  for (int64_t c = threadIdx.x; c < call.k_padded; c += kThreads) {
    const float value = c < call.k ? x[c] : 0.0f;
    const int64_t at = row * call.k_padded + c;
    switch (call.format) {
      case ProductFormat::kF32:
        static_cast<float*>(call.out)[at] = value;
        break;
      case ProductFormat::kBF16:
        static_cast<uint16_t*>(call.out)[at] = static_cast<uint16_t>(Bf16Bits(value));
        break;
      case ProductFormat::kInt8:
        static_cast<int8_t*>(call.out)[at] = static_cast<int8_t>(RoundedToInt8(value, rounding));
        break;
    }
  }
}

cudaError_t LaunchPrepare(const PrepareCall& call, cudaStream_t stream) {
  return Launch(PrepareKernel, static_cast<unsigned>(call.rows), kThreads,
                kThreads / kWarp * sizeof(uint32_t), stream, call);
}

// ---- Products

__device__ inline ProductTile TileOf(const ProductCall& call, int32_t tile_rows) {
  const auto tile = static_cast<int32_t>(blockIdx.y);
  if (call.tiles != nullptr) return call.tiles[tile];
  ProductTile out = call.whole;
  out.first = tile * tile_rows;
  out.count = out.count - out.first < tile_rows ? out.count - out.first : tile_rows;
  return out;
}

// Prepared inputs of place `place`.
__device__ inline const unsigned char* InputOf(const ProductCall& call,
                                               int32_t place,
                                               int64_t bytes) {
  const int64_t row = call.x_rows == nullptr ? place : call.x_rows[place];
  return static_cast<const unsigned char*>(call.x) + row * bytes;
}

__device__ inline float Product(
    const ProductCall&, const ProductTile&, int32_t, int32_t, float sum) {
  return sum;
}
// As Int8Product of kernels/int8.h.
__device__ inline float Product(
    const ProductCall& call, const ProductTile& tile, int32_t place, int32_t output, int32_t sum) {
  const int64_t row = call.x_rows == nullptr ? place : call.x_rows[place];
  return static_cast<float>(sum) * call.x_scales[row] * tile.scales[output];
}

__device__ inline void Store(
    const ProductCall& call, const ProductTile& tile, int32_t place, int32_t output, float y) {
  if (tile.bias != nullptr) y += tile.bias[output];
  y = Activated(call.activation, y);
  float& out = call.out.At(place)[output];
  if (!call.accumulate) {
    out = y;
  } else {
    out += call.row_scale == nullptr ? y : call.row_scale[place] * y;
  }
}

__device__ inline int32_t SliceBegin(int32_t slice, int32_t blocks) {
  return static_cast<int32_t>(int64_t{blocks} * slice / kSlices);
}

// A block of threads: 16 outputs and 8 kSteps rows, a warp for each slice. The weights stream
// through registers once, which is what a few rows need.
template <typename Sum, int kSteps>
__global__ void StreamProductKernel(ProductCall call) {
  extern __shared__ unsigned char shared_bytes[];
  Sum* slices = reinterpret_cast<Sum*>(shared_bytes);  // [kSlices][tokens][kOutputs]
  constexpr int kTokens = kSteps * kRows;
  const ProductTile tile = TileOf(call, kTokens);
  const int64_t bytes = call.k_padded * ElementBytes(call.format);
  const auto blocks = static_cast<int32_t>(bytes / kBlockBytes);
  const int slice = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int g = lane / 4, t = lane % 4;
  const auto first_output = static_cast<int32_t>(blockIdx.x) * kOutputs;
  const unsigned char* low =
      static_cast<const unsigned char*>(tile.weight) + (first_output + g) * bytes + t * 16;
  const unsigned char* high = low + 8 * bytes;
  const unsigned char* x[kSteps];
  for (int s = 0; s < kSteps; ++s) {
    const int32_t place = s * kRows + g;
    x[s] = place < tile.count ? InputOf(call, tile.first + place, bytes) + t * 16 : nullptr;
  }
  Sum d[kSteps][4] = {};
  const int32_t last = SliceBegin(slice + 1, blocks);
#pragma unroll 4
  for (int32_t block = SliceBegin(slice, blocks); block < last; ++block) {
    const int64_t at = int64_t{block} * kBlockBytes;
    const uint4 w_low = *reinterpret_cast<const uint4*>(low + at);
    const uint4 w_high = *reinterpret_cast<const uint4*>(high + at);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint4 b =
          x[s] == nullptr ? uint4{0, 0, 0, 0} : *reinterpret_cast<const uint4*>(x[s] + at);
      MultiplyBlock(d[s], w_low, w_high, b);
    }
  }
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    for (int i = 0; i < 4; ++i) {
      const int token = s * kRows + 2 * t + i % 2;
      slices[(slice * kTokens + token) * kOutputs + g + i / 2 * 8] = d[s][i];
    }
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < kTokens * kOutputs; e += kThreads) {
    const int32_t place = e / kOutputs;
    const int32_t output = first_output + e % kOutputs;
    if (place >= tile.count || output >= call.n) continue;
    Sum sum = 0;
    for (int s = 0; s < kSlices; ++s) sum += slices[s * kTokens * kOutputs + e];
    Store(call, tile, tile.first + place, output,
          Product(call, tile, tile.first + place, output, sum));
  }
}

constexpr int kTileThreads = 128;
constexpr int kTileOutputs = kTileThreads / kWarp * kOutputs;
constexpr int kTileSteps = kMaxTileRows / kRows;
constexpr int kStageBlocks = 4;
// 64 bytes behind the inputs of a row: eight lanes read two rows, which then lie in other banks.
constexpr int kStageStride = kStageBlocks * kBlockBytes + 64;

// A block of threads: 64 outputs and 64 rows, whose inputs are staged in shared memory; a warp has
// 16 outputs and goes through all slices.
template <typename Sum>
__global__ void TileProductKernel(ProductCall call) {
  extern __shared__ unsigned char shared_bytes[];
  const ProductTile tile = TileOf(call, kMaxTileRows);
  const int64_t bytes = call.k_padded * ElementBytes(call.format);
  const auto blocks = static_cast<int32_t>(bytes / kBlockBytes);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int g = lane / 4, t = lane % 4;
  const int32_t first_output = static_cast<int32_t>(blockIdx.x) * kTileOutputs +
                               static_cast<int32_t>(threadIdx.x) / kWarp * kOutputs;
  const unsigned char* low =
      static_cast<const unsigned char*>(tile.weight) + (first_output + g) * bytes + t * 16;
  const unsigned char* high = low + 8 * bytes;
  Sum total[kTileSteps][4] = {};
  Sum d[kTileSteps][4] = {};
  int32_t slice = 0;
  for (int32_t stage = 0; stage < blocks; stage += kStageBlocks) {
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < kMaxTileRows * kStageBlocks * 4;
         e += kTileThreads) {
      const int32_t place = e / (kStageBlocks * 4);
      const int64_t at = e % (kStageBlocks * 4) * 16;
      uint4 value{0, 0, 0, 0};
      if (place < tile.count && stage * kBlockBytes + at < bytes) {
        value = *reinterpret_cast<const uint4*>(InputOf(call, tile.first + place, bytes) +
                                                int64_t{stage} * kBlockBytes + at);
      }
      *reinterpret_cast<uint4*>(shared_bytes + place * kStageStride + at) = value;
    }
    __syncthreads();
    for (int32_t block = stage; block < stage + kStageBlocks && block < blocks; ++block) {
      while (block >= SliceBegin(slice + 1, blocks)) {  // some slices of a short row are empty
        for (int s = 0; s < kTileSteps; ++s) {
          for (int i = 0; i < 4; ++i) {
            total[s][i] += d[s][i];
            d[s][i] = 0;
          }
        }
        ++slice;
      }
      const uint4 w_low = *reinterpret_cast<const uint4*>(low + int64_t{block} * kBlockBytes);
      const uint4 w_high = *reinterpret_cast<const uint4*>(high + int64_t{block} * kBlockBytes);
#pragma unroll
      for (int s = 0; s < kTileSteps; ++s) {
        const uint4 b = *reinterpret_cast<const uint4*>(
            shared_bytes + (s * kRows + g) * kStageStride + (block - stage) * kBlockBytes + t * 16);
        MultiplyBlock(d[s], w_low, w_high, b);
      }
    }
  }
#pragma unroll
  for (int s = 0; s < kTileSteps; ++s) {
    for (int i = 0; i < 4; ++i) {
      const int32_t place = s * kRows + 2 * t + i % 2;
      const int32_t output = first_output + g + i / 2 * 8;
      if (place >= tile.count || output >= call.n) continue;
      const Sum sum = total[s][i] + d[s][i];
      Store(call, tile, tile.first + place, output,
            Product(call, tile, tile.first + place, output, sum));
    }
  }
}

// f32: a warp for an output and eight rows; lane l sums the inputs 4 l, ... of each 128.
__global__ void FloatProductKernel(ProductCall call) {
  const ProductTile tile = TileOf(call, call.tile_rows);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int32_t output = static_cast<int32_t>(blockIdx.x) * (kThreads / kWarp) +
                         static_cast<int32_t>(threadIdx.x) / kWarp;
  if (output >= call.n) return;
  const auto* weight = reinterpret_cast<const float4*>(static_cast<const float*>(tile.weight) +
                                                       output * call.k_padded);
  for (int32_t first = 0; first < tile.count; first += kRows) {
    const float4* x[kRows];
    for (int r = 0; r < kRows; ++r) {
      const int32_t place = first + r < tile.count ? first + r : first;
      x[r] = reinterpret_cast<const float4*>(InputOf(call, tile.first + place, call.k_padded * 4));
    }
    float sum[kRows] = {};
    for (int64_t i = lane; i < call.k_padded / 4; i += kWarp) {
      const float4 w = weight[i];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 v = x[r][i];
        sum[r] = fmaf(w.w, v.w, fmaf(w.z, v.z, fmaf(w.y, v.y, fmaf(w.x, v.x, sum[r]))));
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float y = WarpSum(sum[r]);
      if (lane == r && first + r < tile.count) Store(call, tile, tile.first + first + r, output, y);
    }
  }
}

template <typename Sum, int kSteps>
cudaError_t LaunchStream(const ProductCall& call, unsigned tiles, cudaStream_t stream) {
  return Launch(StreamProductKernel<Sum, kSteps>, dim3(Blocks(call.n, kOutputs), tiles), kThreads,
                kSlices * kSteps * kRows * kOutputs * sizeof(Sum), stream, call);
}

template <typename Sum>
cudaError_t LaunchTensor(const ProductCall& call, unsigned tiles, cudaStream_t stream) {
  switch (call.tile_rows) {
    case 8:
      return LaunchStream<Sum, 1>(call, tiles, stream);
    case 16:
      return LaunchStream<Sum, 2>(call, tiles, stream);
    case 32:
      return LaunchStream<Sum, 4>(call, tiles, stream);
    default:
      return Launch(TileProductKernel<Sum>, dim3(Blocks(call.n, kTileOutputs), tiles), kTileThreads,
                    size_t{kMaxTileRows} * kStageStride, stream, call);
  }
}

cudaError_t LaunchProduct(const ProductCall& call, cudaStream_t stream) {
  const unsigned tiles = call.tiles != nullptr ? static_cast<unsigned>(call.num_tiles)
                                               : Blocks(call.whole.count, call.tile_rows);
  switch (call.format) {
    case ProductFormat::kF32:
      return Launch(FloatProductKernel, dim3(Blocks(call.n, kThreads / kWarp), tiles), kThreads, 0,
                    stream, call);
    case ProductFormat::kBF16:
      return LaunchTensor<float>(call, tiles, stream);
    case ProductFormat::kInt8:
      return LaunchTensor<int32_t>(call, tiles, stream);
  }
  return cudaErrorInvalidValue;
}

// ---- Around them

__global__ void EmbedKernel(EmbedCall call) {
  const int64_t element = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t i = element / call.k, c = element % call.k;
  if (i >= call.count) return;
  const int64_t row = call.ids[i];
  const int64_t at = row * call.k_padded + c;
  float value = 0.0f;
  switch (call.format) {
    case ProductFormat::kF32:
      value = static_cast<const float*>(call.table)[at];
      break;
    case ProductFormat::kBF16:
      value = Bf16Value(static_cast<const uint16_t*>(call.table)[at]);
      break;
    case ProductFormat::kInt8:
      value = static_cast<float>(static_cast<const int8_t*>(call.table)[at]) * call.scales[row];
      break;
  }
  call.out.At(i)[c] = call.scale * value;
}

cudaError_t LaunchEmbed(const EmbedCall& call, cudaStream_t stream) {
  return Launch(EmbedKernel, Blocks(call.count * call.k, kThreads), kThreads, 0, stream, call);
}

__global__ void AddPartialsKernel(AddPartialsCall call) {
  const int64_t element = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t r = element / call.cols, c = element % call.cols;
  if (r >= call.rows) return;
  float& out = call.out.At(r)[c];
  float sum = out;
  for (int32_t a = call.begin[r]; a < call.begin[r + 1]; ++a) {
    const float y = call.partial[call.place[a] * call.cols + c];
    sum += call.scale == nullptr ? y : call.scale[a] * y;
  }
  out = sum;
}

cudaError_t LaunchAddPartials(const AddPartialsCall& call, cudaStream_t stream) {
  return Launch(AddPartialsKernel, Blocks(call.rows * call.cols, kThreads), kThreads, 0, stream,
                call);
}

__global__ void MixExpertsKernel(MixExpertsCall call) {
  const int64_t element = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t i = element / call.cols, c = element % call.cols;
  if (i >= call.rows) return;
  float sum = 0.0f;
  for (int64_t a = i * call.top_k; a < (i + 1) * call.top_k; ++a) {
    const int32_t expert = call.experts[a];
    if (expert >= call.num_experts) continue;
    const float bias = call.bias == nullptr ? 0.0f : call.bias[expert * call.cols + c];
    sum += call.weights[a] * (call.partial[a * call.cols + c] + bias);
  }
  call.out.At(i)[c] += sum;
}

cudaError_t LaunchMixExperts(const MixExpertsCall& call, cudaStream_t stream) {
  return Launch(MixExpertsKernel, Blocks(call.rows * call.cols, kThreads), kThreads, 0, stream,
                call);
}

}  // namespace sluice::kernels::cuda
