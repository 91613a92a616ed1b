// Products of rows with packed weights, one of many. A weight is row-major, [n_padded, k_padded],
// in f32, bf16 or int8. Inputs are first prepared: gathered, rounded to the weight's format and
// padded with zeros. All pointers are memory of the device.
//
// Order of arithmetic, whatever the number of rows and the tiles that a launch uses: the inputs in
// kSlices runs of blocks of 64 bytes, each run summed from zero in ascending blocks by
// mma.sync.m16n8k16 (bf16; int32 sums of int8 are exact, f32 is summed by lanes), the runs added
// in ascending order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/row_kernels.h"
#include "kernels/op_kinds.h"

namespace sluice::kernels::cuda {

enum class ProductFormat : uint8_t { kF32, kBF16, kInt8 };

__host__ __device__ constexpr int64_t ElementBytes(ProductFormat format) {
  return format == ProductFormat::kF32 ? 4 : format == ProductFormat::kBF16 ? 2 : 1;
}

struct PrepareCall {
  ProductFormat format;
  DeviceRows x;
  int32_t rows;
  int64_t k;
  int64_t k_padded;
  void* out;      // [rows, k_padded]
  float* scales;  // [rows], int8 only
};
cudaError_t LaunchPrepare(const PrepareCall& call, cudaStream_t stream);

// Places [first, first + count) of a call, which one weight multiplies.
struct ProductTile {
  const void* weight = nullptr;
  const float* scales = nullptr;  // int8
  const float* bias = nullptr;
  int32_t first = 0;
  int32_t count = 0;
};

struct ProductCall {
  ProductFormat format;
  int64_t k_padded;
  int32_t n;
  const void* x;          // prepared
  const float* x_scales;  // int8
  const int32_t* x_rows;  // [places] rows of x; null: the place itself
  // Tiles of at most `tile_rows` places; null: all places of `whole`, cut as needed.
  const ProductTile* tiles;
  int32_t num_tiles;
  int32_t tile_rows;
  ProductTile whole;
  Activation activation;
  DeviceRows out;  // by place
  bool accumulate;
  const float* row_scale;  // [places]; null: 1
};
// The largest tile that any kernel takes, and the best for `rows` rows of a weight.
constexpr int32_t kMaxTileRows = 64;
constexpr int32_t TileRowsFor(int64_t rows) {
  return rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : kMaxTileRows;
}
cudaError_t LaunchProduct(const ProductCall& call, cudaStream_t stream);

struct EmbedCall {
  ProductFormat format;
  const void* table;
  const float* scales;
  int64_t k;
  int64_t k_padded;
  const int32_t* ids;
  int32_t count;
  float scale;
  DeviceRows out;
};
cudaError_t LaunchEmbed(const EmbedCall& call, cudaStream_t stream);

// out[out_rows[r]] += scale[a] * partial[place[a]] for the a of [begin[r], begin[r + 1]), one after
// the other.
struct AddPartialsCall {
  const float* partial;  // [places, cols]
  int64_t cols;
  const int32_t* begin;  // [rows + 1]
  const int32_t* place;  // by a
  const float* scale;    // by a; null: 1
  int32_t rows;
  DeviceRows out;
};
cudaError_t LaunchAddPartials(const AddPartialsCall& call, cudaStream_t stream);

// out[i] += sum over j ascending of weights[i, j] * (partial[i, j] + bias[experts[i, j]]); choices
// with an id from num_experts on are left out.
struct MixExpertsCall {
  const float* partial;  // [rows, top_k, cols]
  const int32_t* experts;
  const float* weights;
  const float* bias;  // [num_experts, cols] or null
  int32_t num_experts;
  int32_t top_k;
  int32_t rows;
  int64_t cols;
  DeviceRows out;
};
cudaError_t LaunchMixExperts(const MixExpertsCall& call, cudaStream_t stream);

}  // namespace sluice::kernels::cuda
