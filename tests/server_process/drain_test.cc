#include "server/drain.h"

#include "gtest/gtest.h"

namespace sluice::server {
namespace {

using Phase = Drain::Phase;
using Signal = Drain::Signal;

class FakeClock final : public Clock {
 public:
  absl::Duration Now() const override { return now; }
  absl::Duration now = absl::Hours(5);
};

class DrainTest : public testing::Test {
 protected:
  FakeClock clock_;
  Drain drain_{clock_, absl::Seconds(25)};
};

TEST_F(DrainTest, ServesUntilASignalComes) {
  clock_.now += absl::Hours(100);
  EXPECT_EQ(drain_.Poll(0), Phase::kServing);
  EXPECT_EQ(drain_.Poll(7), Phase::kServing);
}

TEST_F(DrainTest, FinishesWhenTheLastStreamEnds) {
  EXPECT_EQ(drain_.OnSignal(Signal::kTerminate, 2), Phase::kDraining);
  EXPECT_EQ(drain_.Poll(2), Phase::kDraining);
  EXPECT_EQ(drain_.Poll(1), Phase::kDraining);
  EXPECT_EQ(drain_.Poll(0), Phase::kFinish);
  EXPECT_FALSE(drain_.timed_out());
}

TEST_F(DrainTest, FinishesWhenTheTimeIsOver) {
  drain_.OnSignal(Signal::kTerminate, 1);
  clock_.now += absl::Seconds(25) - absl::Nanoseconds(1);
  EXPECT_EQ(drain_.Poll(1), Phase::kDraining);
  clock_.now += absl::Nanoseconds(1);
  EXPECT_EQ(drain_.Poll(1), Phase::kFinish);
  EXPECT_TRUE(drain_.timed_out());
}

TEST_F(DrainTest, TerminateWhenIdleFinishesAtTheNextPoll) {
  EXPECT_EQ(drain_.OnSignal(Signal::kTerminate, 0), Phase::kDraining);
  EXPECT_EQ(drain_.Poll(0), Phase::kFinish);
}

TEST_F(DrainTest, InterruptWhenIdleExitsAtOnce) {
  EXPECT_EQ(drain_.OnSignal(Signal::kInterrupt, 0), Phase::kExitNow);
}

TEST_F(DrainTest, InterruptWhileBusyDrains) {
  EXPECT_EQ(drain_.OnSignal(Signal::kInterrupt, 1), Phase::kDraining);
}

TEST_F(DrainTest, ASecondSignalExitsAtOnce) {
  drain_.OnSignal(Signal::kTerminate, 3);
  EXPECT_EQ(drain_.OnSignal(Signal::kTerminate, 3), Phase::kExitNow);
  EXPECT_EQ(drain_.Poll(3), Phase::kExitNow);
}

TEST_F(DrainTest, AFinishedDrainStaysFinished) {
  drain_.OnSignal(Signal::kTerminate, 1);
  drain_.Poll(0);
  EXPECT_EQ(drain_.Poll(5), Phase::kFinish);
}

}  // namespace
}  // namespace sluice::server
