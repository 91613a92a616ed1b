#include "engine/cache/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice {
namespace {

TEST(PagePoolTest, LendsEveryPageOnceAndTakesThemBack) {
  PagePool pool(5);
  std::set<int32_t> lent;
  for (int i = 0; i < 5; ++i) lent.insert(pool.Take());
  EXPECT_EQ(lent, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.num_free(), 0);
  pool.Return(3);
  EXPECT_FALSE(pool.IsOwned(3));
  EXPECT_TRUE(pool.IsOwned(4));
  EXPECT_EQ(pool.Take(), 3);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

TEST(PagePoolDeathTest, ReturningAPageTwiceIsABug) {
  PagePool pool(2);
  const int32_t page = pool.Take();
  pool.Return(page);
  EXPECT_DEATH(pool.Return(page), "check failed");
}

TEST(PagePoolDeathTest, TakingFromAnEmptyPoolIsABug) {
  PagePool pool(0);
  EXPECT_DEATH(pool.Take(), "check failed");
}

}  // namespace
}  // namespace sluice
