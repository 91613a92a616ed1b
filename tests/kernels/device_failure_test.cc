// The measurement of a GPU on a device that fails under way, which only an emulated one does.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "kernels/machine_limits.h"

namespace sluice::kernels {
namespace {

TEST(DeviceFailureTest, EndsTheMeasurementWithTheDevicesWords) {
  for (const int64_t calls : {1, 3, 40}) {  // while it is made ready, and while it runs
    cuda_emulation::FailAfter(calls, cudaErrorIllegalAddress);
    const auto limits = MeasureMachine({.device = "cuda", .largest_read_bytes = 1 << 20});
    cuda_emulation::FailAfter(-1, cudaSuccess);
    EXPECT_EQ(limits.status().code(), absl::StatusCode::kUnavailable) << limits.status();
  }
}

TEST(DeviceFailureTest, TooLittleMemoryIsSaid) {
  cuda_emulation::SetMemory(size_t{1} << 20);
  const auto limits = MeasureMachine({.device = "cuda", .largest_read_bytes = 1 << 20});
  cuda_emulation::SetMemory(0);
  EXPECT_EQ(limits.status().code(), absl::StatusCode::kResourceExhausted) << limits.status();
}

TEST(DeviceFailureTest, ADeviceThatIsNotThereIsRefused) {
  const absl::StatusOr<MachineLimits> limits = MeasureMachine({.device = "cuda:1000"});
  EXPECT_EQ(limits.status().code(), absl::StatusCode::kFailedPrecondition) << limits.status();
  EXPECT_EQ(MeasureMachine({.device = "cuda:x"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sluice::kernels
