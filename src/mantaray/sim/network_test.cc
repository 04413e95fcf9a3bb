// The virtual network keeps its promises: same seed same run, order where promised, cuts that lose or hold, deaths.

#include "mantaray/sim/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mantaray::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class NetworkTest : public ::testing::Test {
 protected:
  using Net = VirtualNetwork<int>;

  std::vector<int> Run(Net* net) {
    std::vector<int> arrived;
    while (const auto delivery = net->Next()) arrived.push_back(delivery->message);
    return arrived;
  }

  VirtualClock clock_;
};

FaultOptions Stormy() {
  FaultOptions options;
  options.slow_permille = 300;
  options.double_permille = 300;
  options.cut_permille = 300;
  return options;
}

TEST_F(NetworkTest, SameSeedGivesTheSameRun) {
  std::vector<std::vector<int>> runs;
  for (const uint64_t seed : {7, 7, 8}) {
    VirtualClock clock;
    Net net(&clock, FaultSchedule(seed, Stormy()));
    for (int i = 0; i < 100; ++i) net.Send(i % 3, (i + 1) % 3, i, i);
    runs.push_back(Run(&net));
  }
  EXPECT_EQ(runs[0], runs[1]);
  EXPECT_NE(runs[0], runs[2]);
  EXPECT_GT(runs[0].size(), 100U);
}

TEST_F(NetworkTest, MessagesTakenAwayLeaveTheFatesOfTheOthers) {
  const FaultSchedule faults(3, Stormy());
  EXPECT_EQ(faults.FateOf(0, 1, 9).delay_ms, FaultSchedule(3, Stormy()).FateOf(0, 1, 9).delay_ms);
}

TEST_F(NetworkTest, FirstArrivalsOfAStreamKeepTheirOrder) {
  Net net(&clock_, FaultSchedule(1, Stormy()));
  for (int i = 0; i < 200; ++i) net.SendInOrder(0, 1, i, i);
  int expected = 0;
  size_t again = 0;
  while (const auto delivery = net.Next()) {
    if (delivery->again) {
      EXPECT_LT(delivery->message, expected);
      ++again;
    } else {
      EXPECT_EQ(delivery->message, expected++);
    }
  }
  EXPECT_EQ(expected, 200);
  EXPECT_GT(again, 20U);
}

TEST_F(NetworkTest, OthersOvertakeEachOther) {
  Net net(&clock_, FaultSchedule(1, Stormy()));
  for (int i = 0; i < 50; ++i) net.Send(0, 1, i, i);
  const std::vector<int> arrived = Run(&net);
  EXPECT_FALSE(std::is_sorted(arrived.begin(), arrived.end()));
}

TEST_F(NetworkTest, DeadNodesGetNothingButWhatTheySentArrives) {
  Net net(&clock_, FaultSchedule(1, {}));
  net.Send(0, 1, 1, 1);
  net.Send(1, 0, 2, 2);
  net.Kill(1);
  net.Send(0, 1, 3, 3);
  EXPECT_THAT(Run(&net), ElementsAre(2));
}

TEST_F(NetworkTest, CutLinksHoldOrLose) {
  for (const bool lose : {false, true}) {
    VirtualClock clock;
    FaultOptions options;
    options.cuts_lose = lose;
    Net net(&clock, FaultSchedule(1, options));
    net.Send(0, 1, 1, 1);
    net.Cut(1, 0);
    net.Send(1, 0, 2, 2);
    net.Send(0, 2, 3, 3);
    EXPECT_THAT(Run(&net), ElementsAre(3));
    net.Heal(0, 1);
    if (lose) {
      EXPECT_THAT(Run(&net), IsEmpty());
    } else {
      EXPECT_THAT(Run(&net), ElementsAre(1, 2));
    }
  }
}

TEST_F(NetworkTest, TimersAreExact) {
  Net net(&clock_, FaultSchedule(1, Stormy()));
  net.SendAfter(0, 0, 70, 1);
  net.SendAfter(0, 0, 30, 2);
  EXPECT_THAT(Run(&net), ElementsAre(2, 1));
  EXPECT_EQ(clock_.NowMs(), 70);
}

TEST(RandomTest, StaysInItsBoundsAndReachesThem) {
  Random random(1);
  int64_t low = 99;
  int64_t high = -99;
  for (int i = 0; i < 1000; ++i) {
    const int64_t value = random.Between(-3, 3);
    low = std::min(low, value);
    high = std::max(high, value);
  }
  EXPECT_EQ(low, -3);
  EXPECT_EQ(high, 3);
  EXPECT_EQ(Random(5).Next(), Random(5).Next());
}

}  // namespace
}  // namespace mantaray::sim
