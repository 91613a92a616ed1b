// A part of the CUDA runtime on the CPU, so that kernels/cuda compiles as plain C++ and its kernels
// run in tests on machines without a GPU. What it shows: results, barriers that do not meet, shared
// memory read before it is written (poisoned for every block), the host touching device memory
// while work is queued (a fault: the memory is protected until the stream is synchronised), lists
// changed before they are copied (work runs as late as possible). What it cannot show: speed,
// memory ordering between blocks, limits of registers. One host thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>

#define CUDART_VERSION 13000

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorIllegalAddress = 700,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};
enum { cudaMemAttachGlobal = 1 };
enum { cudaStreamNonBlocking = 1 };
using cudaStream_t = struct CUstream_st*;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_in = 1, unsigned y_in = 1, unsigned z_in = 1)
      : x(x_in), y(y_in), z(z_in) {}
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};
struct cudaDeviceProp {
  char name[256];
  int major;
  int minor;
  int multiProcessorCount;
  int l2CacheSize;
  int managedMemory;
  int concurrentManagedAccess;
};

namespace cuda_emulation {

const dim3& ThreadIndex();
const dim3& BlockIndex();
const dim3& BlockSize();
const dim3& GridSize();

void BlockBarrier();
// All 32 lanes of the warp meet; each gives `bytes` and gets what `source` gave.
void Exchange(const void* mine, void* theirs, size_t bytes, int source);
int Lane();

// Adds a launch to the queue.
cudaError_t Enqueue(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> body);

// d += a b of mma.sync.m16n8k16 (bf16) and m16n8k32 (s8), with their fragments.
void MultiplyBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void MultiplyInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// The next `count`-th call that reaches the device from now, and all after it, fail with `error`.
void FailAfter(int64_t count, cudaError_t error);
// How many devices there are, 1 at first.
void SetDeviceCount(int count);
// Memory that cudaMemGetInfo reports as the device's; 0 restores the default.
void SetMemory(size_t bytes);
int64_t NumLaunches();

template <typename... Params, size_t... I>
std::function<void()> Bind(void (*kernel)(Params...), void** args, std::index_sequence<I...>) {
  std::tuple<std::decay_t<Params>...> copy(*static_cast<std::decay_t<Params>*>(args[I])...);
  return [kernel, copy] { std::apply(kernel, copy); };
}

}  // namespace cuda_emulation

#define threadIdx (::cuda_emulation::ThreadIndex())
#define blockIdx (::cuda_emulation::BlockIndex())
#define blockDim (::cuda_emulation::BlockSize())
#define gridDim (::cuda_emulation::GridSize())

inline void __syncthreads() { ::cuda_emulation::BlockBarrier(); }
inline void __syncwarp(unsigned = 0xFFFFFFFFu) {
  char mine = 0, theirs = 0;
  ::cuda_emulation::Exchange(&mine, &theirs, 1, 0);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  T theirs;
  ::cuda_emulation::Exchange(&value, &theirs, sizeof(T), ::cuda_emulation::Lane() ^ mask);
  return theirs;
}
template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  T theirs;
  ::cuda_emulation::Exchange(&value, &theirs, sizeof(T), source);
  return theirs;
}
unsigned __ballot_sync(unsigned mask, int predicate);
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline float __uint_as_float(unsigned bits) {
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}
inline unsigned __float_as_uint(float value) {
  unsigned out;
  __builtin_memcpy(&out, &value, 4);
  return out;
}

template <typename... Params>
cudaError_t cudaLaunchKernel(void (*kernel)(Params...),
                             dim3 grid,
                             dim3 block,
                             void** args,
                             size_t shared_bytes = 0,
                             cudaStream_t = nullptr) {
  return ::cuda_emulation::Enqueue(
      grid, block, shared_bytes,
      ::cuda_emulation::Bind(kernel, args, std::index_sequence_for<Params...>{}));
}
template <typename F>
cudaError_t cudaFuncSetAttribute(F*, int, int) {
  return cudaSuccess;
}
enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeManaged = 3 };
struct cudaPointerAttributes {
  cudaMemoryType type;
};
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
cudaError_t cudaMallocManaged(void** data, size_t bytes, unsigned flags = cudaMemAttachGlobal);
cudaError_t cudaMalloc(void** data, size_t bytes);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemcpyAsync(
    void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = nullptr);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
