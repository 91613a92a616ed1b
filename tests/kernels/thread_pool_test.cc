// The pool: every task runs exactly once, on valid workers, whether the workers spin, sleep or are
// late.
#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace sluice::kernels::cpu {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEveryTaskOnceAndIsAFullBarrier) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> written(1000, -1);
  for (int64_t round = 0; round < 500; ++round) {
    const int64_t tasks = round * 7 % 1000;
    // Plain writes: a task that is missed, doubled or late is a wrong value or a data race.
    pool.ParallelFor(tasks, [&](int64_t task, int worker) {
      ASSERT_GE(worker, 0);
      ASSERT_LT(worker, GetParam());
      auto& slot = written[static_cast<size_t>(task)];
      ASSERT_NE(slot, round);
      slot = round;
    });
    for (int64_t task = 0; task < tasks; ++task) {
      ASSERT_EQ(written[static_cast<size_t>(task)], round) << task;
    }
  }
}

TEST_P(ThreadPoolTest, SleepingWorkersWakeOrAreNotNeeded) {
  ThreadPool pool(GetParam());
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 20; ++round) {
    // Longer than the spin of the workers, so that they are asleep or falling asleep.
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    pool.ParallelFor(16, [&](int64_t task, int) { sum += task; });
  }
  EXPECT_EQ(sum.load(), 20 * 120);
}

TEST_P(ThreadPoolTest, AWorkerRunsOneTaskAtATime) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> counts(static_cast<size_t>(GetParam()) * 64, 0);
  for (int round = 0; round < 200; ++round) {
    pool.ParallelFor(64, [&](int64_t, int worker) { ++counts[static_cast<size_t>(worker) * 64]; });
  }
  int64_t total = 0;
  for (int64_t count : counts) total += count;
  EXPECT_EQ(total, 200 * 64);
}

TEST_P(ThreadPoolTest, StartsAndStopsWithoutWork) {
  for (int i = 0; i < 10; ++i) ThreadPool pool(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 5));

}  // namespace
}  // namespace sluice::kernels::cpu
