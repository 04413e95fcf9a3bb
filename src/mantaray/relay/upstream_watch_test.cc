// Tests of when a relay stops hiding that its upstream is gone.

#include "mantaray/relay/upstream_watch.h"

#include <gtest/gtest.h>

namespace mantaray::relay {
namespace {

using Order = UpstreamWatch::Order;

TEST(UpstreamWatch, DeadUpstreamIsNotHiddenForLongerThanTheTimeOut) {
  UpstreamWatch watch(5'000, 0);
  EXPECT_EQ(watch.Observe(Upstream::kReachable, 1'000), Order::kGoOn);
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 1'250), Order::kGoOn);
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 5'999), Order::kGoOn);
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 6'000), Order::kClose);
  // Once.
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 20'000), Order::kGoOn);
}

TEST(UpstreamWatch, ReturnOfTheUpstreamOpensTheListenerAtOnce) {
  UpstreamWatch watch(5'000, 0);
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 5'000), Order::kClose);
  EXPECT_EQ(watch.Observe(Upstream::kUnknown, 6'000), Order::kGoOn);
  EXPECT_EQ(watch.Observe(Upstream::kReachable, 6'100), Order::kListen);
  EXPECT_EQ(watch.Observe(Upstream::kReachable, 6'200), Order::kGoOn);
  // And the time-out starts anew.
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 11'199), Order::kGoOn);
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 11'200), Order::kClose);
}

TEST(UpstreamWatch, ShortLossIsBridged) {
  UpstreamWatch watch(5'000, 0);
  for (int64_t now_ms = 0; now_ms < 60'000; now_ms += 5'000) {
    EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, now_ms + 4'000), Order::kGoOn);
    EXPECT_EQ(watch.Observe(Upstream::kReachable, now_ms + 5'000), Order::kGoOn);
  }
}

TEST(UpstreamWatch, PauseBetweenTwoAttemptsNeitherHidesALossNorMakesOne) {
  // gRPC reports an idle channel between attempts, and one that was not used for half an hour.
  UpstreamWatch lost(5'000, 0);
  EXPECT_EQ(lost.Observe(Upstream::kOutOfReach, 1'000), Order::kGoOn);
  EXPECT_EQ(lost.Observe(Upstream::kUnknown, 5'000), Order::kClose);
  UpstreamWatch idle(5'000, 0);
  EXPECT_EQ(idle.Observe(Upstream::kUnknown, 1'800'000), Order::kGoOn);
}

TEST(UpstreamWatch, RelayThatStartsBeforeItsUpstreamIsGivenTheSameTime) {
  UpstreamWatch watch(5'000, 100'000);
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 104'999), Order::kGoOn);
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 105'000), Order::kClose);
}

TEST(UpstreamWatch, ZeroMeansNever) {
  UpstreamWatch watch(0, 0);
  EXPECT_EQ(watch.Observe(Upstream::kOutOfReach, 1'000'000'000), Order::kGoOn);
}

}  // namespace
}  // namespace mantaray::relay
