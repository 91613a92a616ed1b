// What the measurement reports, never how fast the machine is.
#include "kernels/machine_limits.h"

#include <sched.h>

#include <set>

#include "gtest/gtest.h"

namespace sluice::kernels {
namespace {

MachineOptions Small(int threads, bool brief) {
  return {.threads = threads, .brief = brief, .largest_read_bytes = 1 << 20};
}

TEST(MachineLimitsTest, SweepHasEverySizeForOneThreadAndAll) {
  const absl::StatusOr<MachineLimits> limits = MeasureMachine(Small(2, false));
  ASSERT_TRUE(limits.ok()) << limits.status();
  std::vector<std::pair<int64_t, int>> sizes;
  for (const ReadRate& read : limits->reads) {
    sizes.emplace_back(read.bytes, read.threads);
    EXPECT_GT(read.bytes_per_second, 0.0);
  }
  const std::vector<std::pair<int64_t, int>> wanted = {
      {256 << 10, 1}, {256 << 10, 2}, {512 << 10, 1}, {512 << 10, 2}, {1 << 20, 1}, {1 << 20, 2}};
  EXPECT_EQ(sizes, wanted);
  EXPECT_EQ(limits->memory_bytes_per_second(), limits->reads.back().bytes_per_second);
  EXPECT_GT(limits->handover_seconds, 0.0);
}

TEST(MachineLimitsTest, ThreadsAreTheProcessorsThatTheProcessMayUse) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  const absl::StatusOr<MachineLimits> limits = MeasureMachine(Small(0, true));
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->threads, 1);
}

TEST(MachineLimitsTest, UnitsThatTheProcessorLacksAreListedWithoutARate) {
  const absl::StatusOr<MachineLimits> limits = MeasureMachine(Small(1, true));
  ASSERT_TRUE(limits.ok()) << limits.status();
  std::set<std::string> units;
  for (const PeakRate& peak : limits->peaks) units.insert(peak.unit);
  EXPECT_EQ(units.size(), limits->peaks.size());
  EXPECT_GT(limits->peaks.front().operations_per_second, 0.0)
      << "the portable loop runs everywhere";
  EXPECT_GT(limits->operations_per_second("f32"), 0.0);
  EXPECT_EQ(limits->operations_per_second("f64"), 0.0);
#if defined(__x86_64__)
  EXPECT_EQ(units.size(), 7u);
  EXPECT_EQ(limits->operations_per_second("bf16 dot") > 0.0,
            __builtin_cpu_supports("avx512bf16") != 0);
#endif
}

TEST(MachineLimitsTest, RefusesBadThreadNumbers) {
  EXPECT_EQ(MeasureMachine({.threads = -1}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MeasureMachine({.threads = 5000}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sluice::kernels
