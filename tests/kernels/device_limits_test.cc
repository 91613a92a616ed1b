// What the measurement of a GPU reports, never how fast it is. On the emulated device, or on a real
// one.
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "kernels/machine_limits.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kMebibyte = 1 << 20;

TEST(DeviceLimitsTest, EveryRateIsPositive) {
  const absl::StatusOr<MachineLimits> limits =
      MeasureMachine({.device = "cuda", .largest_read_bytes = kMebibyte});
  if (limits.status().code() == absl::StatusCode::kFailedPrecondition)
    GTEST_SKIP() << limits.status().message();
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_NE(limits->device, "");
  ASSERT_EQ(limits->reads.size(), 1u);
  EXPECT_EQ(limits->reads[0].bytes, kMebibyte);
  EXPECT_GT(limits->memory_bytes_per_second(), 0.0);
  EXPECT_GT(limits->copy_bytes_per_second, 0.0);
  EXPECT_GT(limits->launch_seconds, 0.0);
  EXPECT_GE(limits->handover_seconds, limits->launch_seconds / 2);
  std::set<std::string> units;
  for (const PeakRate& peak : limits->peaks) units.insert(peak.unit);
  EXPECT_EQ(units.size(), 3u);
  // What bench profile divides products of each format by.
  for (const char* kind : {"f32", "bf16", "int8"})
    EXPECT_GT(limits->operations_per_second(kind), 0.0) << kind;
}

}  // namespace
}  // namespace sluice::kernels
