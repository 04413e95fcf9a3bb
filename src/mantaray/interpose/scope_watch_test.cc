// Tests the reports of objects that go out of scope, on a small library that is built like Ray's.

#include "mantaray/interpose/scope_watch.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <thread>
#include <vector>

#include "mantaray/interpose/testing/fake_raylet.h"

namespace mantaray::interpose {
namespace {

FakeRaylet& Fake() {
  static auto* const fake = new FakeRaylet;
  return *fake;
}

ScopeWatch& Watch() {
  static ScopeWatch* const watch = *ScopeWatch::Of(Fake().path());
  return *watch;
}

bool Readable() {
  pollfd entry{Watch().descriptor(), POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

TEST(ScopeWatchTest, CounterIsFoundThroughALookUpOnThisThreadOnly) {
  EXPECT_EQ(Watch().Capture([] {}).code(), absl::StatusCode::kNotFound);
  const auto elsewhere = [] { std::thread([] { Fake().look_up_owner(Fake().counter, 1); }).join(); };
  EXPECT_EQ(Watch().Capture(elsewhere).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Watch().Capture([] { Fake().look_up_owner(Fake().counter, 1); }).ok());
}

TEST(ScopeWatchTest, ObjectThatGoesIsToldOnceAndOnlyIfItIsWatched) {
  ASSERT_TRUE(Watch().Capture([] { Fake().look_up_owner(Fake().counter, 1); }).ok());
  for (const uint64_t object : {1, 2}) Fake().own(Fake().counter, object);
  EXPECT_TRUE(Watch().Add(FakeRaylet::Object(1)));
  EXPECT_FALSE(Watch().Add(FakeRaylet::Object(3)));
  EXPECT_FALSE(Readable());
  for (const uint64_t object : {1, 2}) Fake().drop(Fake().counter, object);
  EXPECT_TRUE(Readable());
  EXPECT_EQ(Watch().Take(), std::vector<ObjectId>{FakeRaylet::Object(1)});
  EXPECT_FALSE(Readable());
  EXPECT_TRUE(Watch().Take().empty());
}

TEST(ScopeWatchTest, WhatAnEarlierCounterTellsIsDropped) {
  const auto capture = [] { return Watch().Capture([] { Fake().look_up_owner(Fake().counter, 1); }); };
  ASSERT_TRUE(capture().ok());
  Fake().own(Fake().counter, 5);
  ASSERT_TRUE(Watch().Add(FakeRaylet::Object(5)));
  ASSERT_TRUE(capture().ok());
  Fake().drop(Fake().counter, 5);
  EXPECT_TRUE(Watch().Take().empty());
}

TEST(ScopeWatchTest, FreedObjectIsKnownAsFreed) {
  ASSERT_TRUE(Watch().Capture([] { Fake().look_up_owner(Fake().counter, 1); }).ok());
  EXPECT_FALSE(Watch().IsFreed(FakeRaylet::Object(4)));
  Fake().free_value(Fake().counter, 4);
  EXPECT_TRUE(Watch().IsFreed(FakeRaylet::Object(4)));
}

TEST(ScopeWatchTest, ObjectsThatGoOnManyThreadsAreAllTold) {
  constexpr uint64_t kEach = 500;
  ASSERT_TRUE(Watch().Capture([] { Fake().look_up_owner(Fake().counter, 1); }).ok());
  for (uint64_t object = 100; object < 100 + 4 * kEach; ++object) {
    Fake().own(Fake().counter, object);
    ASSERT_TRUE(Watch().Add(FakeRaylet::Object(object)));
  }
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      for (uint64_t n = 0; n < kEach; ++n) Fake().drop(Fake().counter, 100 + i * kEach + n);
    });
  }
  size_t told = 0;
  while (told < 4 * kEach) {
    pollfd entry{Watch().descriptor(), POLLIN, 0};
    ASSERT_EQ(poll(&entry, 1, 60'000), 1) << told;
    told += Watch().Take().size();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Watch().Take().empty());
}

}  // namespace
}  // namespace mantaray::interpose
