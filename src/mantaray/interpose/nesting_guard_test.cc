// Tests the guard on a small library that is built like Ray's: outer objects that go out of scope again, and the crash
// without the guard.

#include "mantaray/interpose/nesting_guard.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "mantaray/interpose/testing/fake_raylet.h"

namespace mantaray::interpose {
namespace {

constexpr uint64_t kOuter = 1;
constexpr uint64_t kInner = 2;

class NestingGuardTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override { ASSERT_TRUE(AttachNestingGuard(Fake().path()).ok()); }
  void TearDown() override {
    EXPECT_EQ(Fake().size(), 0);
    EXPECT_EQ(NestingGuardCountsOfNow().kept_outer_objects, 0U);
    EXPECT_TRUE(DetachNestingGuard().ok());
  }

  static FakeRaylet& Fake() {
    static auto* const fake = new FakeRaylet;
    return *fake;
  }

  // Makes an outer object that is out of scope and kept for a task, and an inner one that is in use.
  static void LetGoOfOuter(uint64_t outer = kOuter, uint64_t inner = kInner, bool made = false) {
    Fake().own(Fake().counter, inner);
    Fake().lineage(Fake().counter, outer, 1);
    Fake().contain(Fake().counter, outer, inner, made);
    Fake().use(Fake().counter, outer, 1);
  }

  // The task no longer needs the outer object, and the inner one is dropped.
  static void End(uint64_t outer = kOuter, uint64_t inner = kInner) {
    Fake().lineage(Fake().counter, outer, -1);
    Fake().drop(Fake().counter, inner);
  }
};

using NestingGuardDeathTest = NestingGuardTest;

TEST_F(NestingGuardDeathTest, WithoutItTheSecondReleaseEndsTheProcess) {
  ASSERT_TRUE(DetachNestingGuard().ok());
  LetGoOfOuter();
  EXPECT_DEATH(Fake().use(Fake().counter, kOuter, 1), "contained_in_borrowed_ids.erase");
  Fake().drop(Fake().counter, kInner);
  Fake().lineage(Fake().counter, kOuter, -1);
  ASSERT_TRUE(AttachNestingGuard(Fake().path()).ok());
}

TEST_P(NestingGuardTest, OuterObjectThatGoesOutOfScopeAgainIsSurvived) {
  const uint64_t before = NestingGuardCountsOfNow().repeated_releases;
  LetGoOfOuter(kOuter, kInner, GetParam());
  EXPECT_EQ(NestingGuardCountsOfNow().kept_outer_objects, 1U);
  Fake().use(Fake().counter, kOuter, 1);
  // The owner's question arrives late.
  Fake().use(Fake().counter, kOuter, 0);
  EXPECT_EQ(NestingGuardCountsOfNow().repeated_releases, before + 2);
  End();
}

TEST_P(NestingGuardTest, InnerObjectThatIsLinkedAgainIsKeptByTheOuterOneAgain) {
  LetGoOfOuter(kOuter, kInner, GetParam());
  Fake().contain(Fake().counter, kOuter, kInner, GetParam());
  Fake().drop(Fake().counter, kInner);
  EXPECT_EQ(Fake().size(), 2);
  Fake().use(Fake().counter, kOuter, 1);
  EXPECT_EQ(Fake().size(), 1);
  Fake().lineage(Fake().counter, kOuter, -1);
}

INSTANTIATE_TEST_SUITE_P(BorrowedAndMade, NestingGuardTest, ::testing::Bool());

TEST_F(NestingGuardTest, OnlyTheInnerObjectsThatWereReleasedAreSkipped) {
  LetGoOfOuter();
  Fake().own(Fake().counter, 3);
  Fake().contain(Fake().counter, kOuter, 3, false);
  const uint64_t before = NestingGuardCountsOfNow().repeated_releases;
  Fake().use(Fake().counter, kOuter, 1);
  EXPECT_EQ(NestingGuardCountsOfNow().repeated_releases, before + 1);
  Fake().use(Fake().counter, kOuter, 1);
  EXPECT_EQ(NestingGuardCountsOfNow().repeated_releases, before + 3);
  Fake().drop(Fake().counter, 3);
  End();
}

TEST_F(NestingGuardTest, OuterObjectsInsideOneAnotherAreEachReleasedOnce) {
  // 2 is in 1, and 3 is in 2; a task needs 1 and 2.
  Fake().own(Fake().counter, 3);
  Fake().lineage(Fake().counter, 2, 1);
  Fake().contain(Fake().counter, 2, 3, false);
  Fake().lineage(Fake().counter, 1, 1);
  Fake().contain(Fake().counter, 1, 2, false);
  for (int i = 0; i < 3; ++i) {
    Fake().use(Fake().counter, 1, 1);
    Fake().use(Fake().counter, 2, 1);
  }
  EXPECT_EQ(NestingGuardCountsOfNow().kept_outer_objects, 2U);
  for (const uint64_t outer : {1, 2}) Fake().lineage(Fake().counter, outer, -1);
  Fake().drop(Fake().counter, 3);
}

TEST_F(NestingGuardTest, OuterObjectWithoutATaskIsForgottenAtOnce) {
  Fake().own(Fake().counter, kInner);
  Fake().contain(Fake().counter, kOuter, kInner, false);
  Fake().use(Fake().counter, kOuter, 1);
  EXPECT_EQ(NestingGuardCountsOfNow().kept_outer_objects, 0U);
  Fake().drop(Fake().counter, kInner);
}

TEST_F(NestingGuardTest, ObjectsOnManyThreadsAreEachReleasedOnce) {
  constexpr uint64_t kObjects = 200;
  constexpr uint64_t kThreads = 4;
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([i] {
      for (uint64_t n = 0; n < kObjects; ++n) {
        const uint64_t outer = 2 * (i * kObjects + n);
        LetGoOfOuter(outer, outer + 1);
        Fake().use(Fake().counter, outer, 1);
        End(outer, outer + 1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(NestingGuardTest, SecondAttachDoesNothing) {
  EXPECT_TRUE(AttachNestingGuard(Fake().path()).ok());
  EXPECT_TRUE(NestingGuardCountsOfNow().attached);
  EXPECT_TRUE(DetachNestingGuard().ok());
  EXPECT_FALSE(NestingGuardCountsOfNow().attached);
  EXPECT_TRUE(AttachNestingGuard(Fake().path()).ok());
}

}  // namespace
}  // namespace mantaray::interpose
