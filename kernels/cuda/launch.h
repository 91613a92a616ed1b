// Starts a kernel through the C++ form of cudaLaunchKernel, which the emulation of tests provides
// too.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <tuple>
#include <utility>

namespace sluice::kernels::cuda {

namespace internal {
template <typename Kernel, typename Tuple, size_t... I>
cudaError_t Launch(Kernel* kernel,
                   dim3 grid,
                   dim3 block,
                   size_t shared_bytes,
                   cudaStream_t stream,
                   Tuple& values,
                   std::index_sequence<I...>) {
  void* pointers[] = {static_cast<void*>(&std::get<I>(values))...};
  return cudaLaunchKernel(kernel, grid, block, pointers, shared_bytes, stream);
}
}  // namespace internal

// kernel<<<grid, block, shared_bytes, stream>>>(args...).
template <typename... Params, typename... Args>
cudaError_t Launch(void (*kernel)(Params...),
                   dim3 grid,
                   dim3 block,
                   size_t shared_bytes,
                   cudaStream_t stream,
                   Args... args) {
  std::tuple<Params...> values(args...);
  return internal::Launch(kernel, grid, block, shared_bytes, stream, values,
                          std::index_sequence_for<Params...>{});
}

inline unsigned Blocks(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace sluice::kernels::cuda
