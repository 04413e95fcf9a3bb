// The memory guard: which calls end when the memory is used up.

#include "mantaray/relay/memory_guard.h"

#include <gtest/gtest.h>

#include <vector>

namespace mantaray::relay {
namespace {

using Bulk = BulkCall<int>;

constexpr int64_t kNowMs = 100'000;

TEST(MemoryGuardTest, AReaderThatHasStoppedEndsBeforeOneThatGoesOn) {
  const std::vector<Bulk> bulk = {{1, kNowMs - 10, true}, {2, kNowMs - kStalledMs, true}, {3, kNowMs - 20, false}};
  EXPECT_EQ(CallsToEnd(bulk, kNowMs), std::vector<int>{2});
}

TEST(MemoryGuardTest, OfReadersThatHaveStoppedTheOldestEndFirst) {
  const std::vector<Bulk> bulk = {{1, kNowMs - 7'000, true}, {2, kNowMs - 9'000, true}, {3, kNowMs - 8'000, true}};
  EXPECT_EQ(CallsToEnd(bulk, kNowMs), std::vector<int>{2});
}

// Else all would begin anew for ever, and none would get through.
TEST(MemoryGuardTest, OfMessagesThatArriveTheOldestGetThrough) {
  std::vector<Bulk> bulk;
  for (int i = 0; i < 8; ++i) {
    bulk.push_back({i, kNowMs - 60'000 + i, false});
  }
  EXPECT_EQ(CallsToEnd(bulk, kNowMs), (std::vector<int>{7, 6}));
}

TEST(MemoryGuardTest, NobodyEndsWhereNobodyMovesMuch) { EXPECT_TRUE(CallsToEnd<int>({}, kNowMs).empty()); }

TEST(MemoryGuardTest, TheProcessKnowsWhatItHasAndWhatItMayHave) {
  EXPECT_GT(ResidentBytes(), 1'000'000);
  EXPECT_GT(DefaultMemoryLimitBytes(), ResidentBytes());
}

}  // namespace
}  // namespace mantaray::relay
