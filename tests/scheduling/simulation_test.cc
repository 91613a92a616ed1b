// SLUICE_SIM_SEEDS: how many seeds to run. SLUICE_SIM_FIRST_SEED: the first, to replay a failing
// one.
#include "tests/scheduling/simulation.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

namespace sluice {
namespace {

uint64_t Setting(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : otherwise;
}

void Sum(const SimulationCounts& one, SimulationCounts& all) {
  all.steps += one.steps;
  all.finished += one.finished;
  all.preemptions += one.preemptions;
  all.recomputed += one.recomputed;
  all.cancels += one.cancels;
  all.cancels_in_step += one.cancels_in_step;
  all.expired += one.expired;
  all.pauses += one.pauses;
  all.paused_victims += one.paused_victims;
  all.refused += one.refused;
  all.skipped_rows += one.skipped_rows;
  all.chunked_prefills += one.chunked_prefills;
  all.whole_prompts += one.whole_prompts;
  all.capped_prefills += one.capped_prefills;
  all.dear_prefills += one.dear_prefills;
  all.failed_steps += one.failed_steps;
  all.confirmed_drafts += one.confirmed_drafts;
  all.rejected_drafts += one.rejected_drafts;
  all.cohorts += one.cohorts;
  all.replayed_rows += one.replayed_rows;
}

TEST(SimulationTest, EveryRequestEndsOnceWithTheTextItGeneratesAlone) {
  const uint64_t first = Setting("SLUICE_SIM_FIRST_SEED", 1);
  const uint64_t num_seeds = Setting("SLUICE_SIM_SEEDS", 1000);
  SimulationCounts all;
  for (uint64_t seed = first; seed < first + num_seeds; ++seed) {
    SimulationCounts counts;
    ASSERT_EQ(Simulation(seed).Run(counts), "") << "replay with SLUICE_SIM_FIRST_SEED=" << seed;
    Sum(counts, all);
  }
  if (num_seeds < 100) return;
  const auto often = static_cast<int64_t>(num_seeds / 10);
  EXPECT_GT(all.finished, often);
  EXPECT_GT(all.preemptions, often);
  EXPECT_GT(all.recomputed, often);
  EXPECT_GT(all.cancels, often);
  EXPECT_GT(all.cancels_in_step, often);
  EXPECT_GT(all.expired, often);
  EXPECT_GT(all.pauses, often);
  EXPECT_GT(all.paused_victims, often);
  EXPECT_GT(all.refused, often);
  EXPECT_GT(all.skipped_rows, often);
  EXPECT_GT(all.chunked_prefills, often);
  EXPECT_GT(all.whole_prompts, often);
  EXPECT_GT(all.capped_prefills, often);
  EXPECT_GT(all.dear_prefills, often);
  EXPECT_GT(all.failed_steps, often);
  EXPECT_GT(all.confirmed_drafts, often);
  EXPECT_GT(all.rejected_drafts, often);
  EXPECT_GT(all.cohorts, often);
  EXPECT_GT(all.replayed_rows, often);
  std::printf("steps %lld, finished %lld, preemptions %lld, recomputed %lld, expired %lld\n",
              static_cast<long long>(all.steps), static_cast<long long>(all.finished),
              static_cast<long long>(all.preemptions), static_cast<long long>(all.recomputed),
              static_cast<long long>(all.expired));
}

}  // namespace
}  // namespace sluice
