// The emulated device shows the mistakes that it is there for.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matrix_multiply.h"

namespace sluice::kernels::cuda {

__global__ void SetKernel(float* data, float value) { data[threadIdx.x] = value; }

__global__ void DivergingKernel() {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

// Every thread reads what its neighbour writes: right only with the barrier.
__global__ void NeighbourKernel(float* out, bool with_barrier) {
  extern __shared__ unsigned char shared_bytes[];
  float* shared = reinterpret_cast<float*>(shared_bytes);
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (with_barrier) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x ^ 1];
}

__global__ void FragmentKernel(const float* a, const float* b, float* d) {
  const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto pair = [](const float* at) {
    uint32_t low, high;
    std::memcpy(&low, at, 4);
    std::memcpy(&high, at + 1, 4);
    return (low >> 16) | (high & 0xFFFF0000u);
  };
  const uint32_t left[4] = {pair(a + g * 16 + 2 * t), pair(a + (g + 8) * 16 + 2 * t),
                            pair(a + g * 16 + 2 * t + 8), pair(a + (g + 8) * 16 + 2 * t + 8)};
  const uint32_t right[2] = {pair(b + g * 16 + 2 * t), pair(b + g * 16 + 2 * t + 8)};
  float sum[4] = {};
  MultiplyAdd(sum, left, right);
  for (unsigned i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

namespace {

float* Managed(size_t count) {
  void* data = nullptr;
  EXPECT_EQ(cudaMallocManaged(&data, count * sizeof(float)), cudaSuccess);
  return static_cast<float*>(data);
}

TEST(CudaEmulationDeathTest, TheHostMayNotTouchMemoryWhileWorkIsQueued) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  float* data = Managed(32);
  data[0] = 1.0f;
  ASSERT_EQ(Launch(SetKernel, 1, 32, 0, nullptr, data, 2.0f), cudaSuccess);
  EXPECT_DEATH(data[0] = 3.0f, "");
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  EXPECT_EQ(data[31], 2.0f);
  cudaFree(data);
}

TEST(CudaEmulationDeathTest, WritingBehindABlockOfMemoryFaults) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  float* data = Managed(1024);  // a page
  EXPECT_DEATH(
      (Launch(SetKernel, 1, 32, 0, nullptr, data + 1000, 2.0f), cudaStreamSynchronize(nullptr)),
      "");
}

TEST(CudaEmulationDeathTest, BarriersThatDoNotMeetAreNamed) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH((Launch(DivergingKernel, 1, 64, 0, nullptr), cudaStreamSynchronize(nullptr)),
               "barriers that do not meet");
}

TEST(CudaEmulationTest, AMissingBarrierGivesNotANumberInSomeBlock) {
  float* out = Managed(128);
  for (const bool with_barrier : {true, false}) {
    ASSERT_EQ(Launch(NeighbourKernel, 2, 64, 256, nullptr, out, with_barrier), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    int wrong = 0;
    for (unsigned i = 0; i < 128; ++i) wrong += out[i] == static_cast<float>(i % 64 ^ 1) ? 0 : 1;
    EXPECT_EQ(wrong > 0, !with_barrier);
  }
  cudaFree(out);
}

TEST(CudaEmulationTest, FragmentsAreThoseOfAProduct) {
  float *a = Managed(256), *b = Managed(128), *d = Managed(128);
  for (int i = 0; i < 256; ++i) a[i] = static_cast<float>(i * 37 % 23 - 11);  // [16, 16]
  for (int i = 0; i < 128; ++i) b[i] = static_cast<float>(i * 29 % 19 - 9);   // [8, 16]
  ASSERT_EQ(Launch(FragmentKernel, 1, 32, 0, nullptr, a, b, d), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float wanted = 0.0f;
      for (int k = 0; k < 16; ++k) wanted += a[row * 16 + k] * b[column * 16 + k];
      EXPECT_EQ(d[row * 8 + column], wanted) << row << " " << column;
    }
  }
  cudaFree(a), cudaFree(b), cudaFree(d);
}

}  // namespace
}  // namespace sluice::kernels::cuda
