// Tests of fetches that share a flight.

#include "mantaray/relay/package_flights.h"

#include <gtest/gtest.h>

#include <string>

namespace mantaray::relay {
namespace {

struct Caller final : PackageCall<std::string> {
  void Fetch() override { fetching = true; }
  void Take(const std::string& reply) override { taken = reply; }

  bool fetching = false;
  std::string taken;
};

class PackageFlightsTest : public testing::Test {
 protected:
  bool has_room_ = true;
  PackageFlights<std::string> flights_{[this] { return has_room_; }};
  const std::string package_ = "zip";
};

TEST_F(PackageFlightsTest, PackageOfAStartingJobIsFetchedOnceForAllNodes) {
  Caller callers[200];
  for (Caller& caller : callers) flights_.Join("k", &caller);
  EXPECT_TRUE(callers[0].fetching);
  flights_.Landed(&callers[0], &package_);
  for (Caller& caller : callers) {
    EXPECT_EQ(caller.fetching, &caller == &callers[0]);
    EXPECT_EQ(caller.taken, &caller == &callers[0] ? "" : "zip");
  }
  EXPECT_EQ(flights_.shared(), 199u);
  // Nothing is kept.
  Caller late;
  flights_.Join("k", &late);
  EXPECT_TRUE(late.fetching);
}

TEST_F(PackageFlightsTest, AnswerWithoutAPackageIsNotTakenForOthers) {
  Caller first, second, third;
  for (Caller* caller : {&first, &second, &third}) flights_.Join("k", caller);
  flights_.Landed(&first, nullptr);
  EXPECT_EQ(second.taken, "");
  EXPECT_TRUE(second.fetching);
  // The third may share with the second.
  EXPECT_FALSE(third.fetching);
  flights_.Landed(&second, &package_);
  EXPECT_EQ(third.taken, "zip");
}

TEST_F(PackageFlightsTest, CallerWhoLeavesTakesNobodyAlong) {
  Caller first, second, third;
  for (Caller* caller : {&first, &second, &third}) flights_.Join("k", caller);
  flights_.Leave(&second);
  flights_.Leave(&first);
  EXPECT_FALSE(second.fetching);
  EXPECT_TRUE(third.fetching);
  // Its own end comes later, and is no news.
  flights_.Landed(&first, &package_);
  EXPECT_EQ(third.taken, "");
  flights_.Landed(&third, &package_);
  Caller stranger;
  flights_.Leave(&stranger);
}

TEST_F(PackageFlightsTest, DifferentPackagesFollowOneAnother) {
  Caller one, other;
  flights_.Join("a", &one);
  flights_.Join("b", &other);
  EXPECT_TRUE(one.fetching);
  EXPECT_FALSE(other.fetching);
  flights_.Landed(&one, &package_);
  EXPECT_TRUE(other.fetching);
  EXPECT_EQ(other.taken, "");
}

TEST_F(PackageFlightsTest, NoFetchBeginsWithoutRoomForItsBytes) {
  has_room_ = false;
  Caller one, other;
  flights_.Join("a", &one);
  flights_.Join("b", &other);
  EXPECT_FALSE(one.fetching);
  EXPECT_TRUE(flights_.waits());
  has_room_ = true;
  flights_.Resume();
  EXPECT_TRUE(one.fetching);
  EXPECT_FALSE(flights_.waits());
  has_room_ = false;
  flights_.Landed(&one, &package_);
  EXPECT_FALSE(other.fetching);
  // A slow reader does not keep it for ever.
  flights_.Resume(/*anyhow=*/true);
  EXPECT_TRUE(other.fetching);
}

TEST_F(PackageFlightsTest, CallerWhoLeavesBeforeItsTurnFreesIt) {
  has_room_ = false;
  Caller one, other;
  flights_.Join("a", &one);
  flights_.Join("b", &other);
  flights_.Leave(&one);
  has_room_ = true;
  flights_.Resume();
  EXPECT_FALSE(one.fetching);
  EXPECT_TRUE(other.fetching);
}

TEST(AsksForPackage, OnlyAFetchOfAPackageIsOne) {
  EXPECT_TRUE(AsksForPackage(kFetchMethod, "\x0a\x20gcs://_ray_pkg_0123456789abcdef.zip"));
  EXPECT_FALSE(AsksForPackage(kFetchMethod, "\x0a\x04name"));
  EXPECT_FALSE(AsksForPackage("/ray.rpc.InternalKVGcsService/InternalKVPut", "gcs://_ray_pkg_0123456789abcdef.zip"));
}

}  // namespace
}  // namespace mantaray::relay
