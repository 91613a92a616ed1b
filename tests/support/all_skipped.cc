// In every test program: says when all its tests were skipped, for ctest to count it as skipped and
// not as passed. GoogleTest has no exit code for it.
#include <cstdio>

#include "gtest/gtest.h"

namespace sluice {
namespace {

class AllSkipped final : public testing::Environment {
 public:
  void TearDown() override {
    const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
    if (tests.test_to_run_count() > 0 && tests.skipped_test_count() == tests.test_to_run_count())
      std::printf("ALL TESTS SKIPPED\n");
  }
};

// GoogleTest owns it.
const testing::Environment* const registered = testing::AddGlobalTestEnvironment(new AllSkipped);

}  // namespace
}  // namespace sluice
