// Tests the guard on a small library that is built like Ray's: every order of notices, threads, and the crash without
// the guard.

#include "mantaray/interpose/refcount_guard.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "mantaray/interpose/testing/fake_raylet.h"

namespace mantaray::interpose {
namespace {

class RefcountGuardTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(AttachRefcountGuard(Fake().path()).ok()); }
  void TearDown() override {
    EXPECT_EQ(Fake().size(), 0);
    EXPECT_EQ(RefcountGuardCountsOfNow().waiting, 0U);
    EXPECT_TRUE(DetachRefcountGuard().ok());
  }

  static FakeRaylet& Fake() {
    static auto* const fake = new FakeRaylet;
    return *fake;
  }

  // Makes an object with one borrower, which this process owns and holds a reference to.
  static void OwnAndLend(uint64_t object, char worker) {
    Fake().own(Fake().counter, object);
    Fake().Borrow(object, worker);
  }
};

using RefcountGuardDeathTest = RefcountGuardTest;

TEST_F(RefcountGuardDeathTest, WithoutItTheSecondNoticeEndsTheProcess) {
  ASSERT_TRUE(DetachRefcountGuard().ok());
  OwnAndLend(1, 'a');
  Fake().Failed(1, 'a');
  EXPECT_DEATH(Fake().Failed(1, 'a'), "borrowers.erase");
  Fake().drop(Fake().counter, 1);
  ASSERT_TRUE(AttachRefcountGuard(Fake().path()).ok());
}

TEST_F(RefcountGuardDeathTest, WithoutItASubscriptionThatAFailureGaveUpEndsTheProcess) {
  ASSERT_TRUE(DetachRefcountGuard().ok());
  OwnAndLend(1, 'a');
  EXPECT_DEATH(Fake().Removed(1, 'a'), "Unsubscribe");
  Fake().Failed(1, 'a');
  Fake().drop(Fake().counter, 1);
  ASSERT_TRUE(AttachRefcountGuard(Fake().path()).ok());
}

TEST_F(RefcountGuardTest, EveryOrderOfTwoNoticesIsSurvived) {
  const RefcountGuardCounts before = RefcountGuardCountsOfNow();
  for (const bool first_failed : {false, true}) {
    for (const bool second_failed : {false, true}) {
      OwnAndLend(1, 'a');
      first_failed ? Fake().Failed(1, 'a') : Fake().Removed(1, 'a');
      second_failed ? Fake().Failed(1, 'a') : Fake().Removed(1, 'a');
      EXPECT_EQ(Fake().size(), 1);
      Fake().drop(Fake().counter, 1);
      EXPECT_EQ(Fake().size(), 0);
    }
  }
  const RefcountGuardCounts counts = RefcountGuardCountsOfNow();
  EXPECT_EQ(counts.first_notices - before.first_notices, 4U);
  EXPECT_EQ(counts.repeated_ref_removed - before.repeated_ref_removed, 2U);
  EXPECT_EQ(counts.repeated_publisher_failed - before.repeated_publisher_failed, 2U);
}

TEST_F(RefcountGuardTest, SecondNoticeAfterTheObjectIsGoneLeavesNothing) {
  OwnAndLend(1, 'a');
  Fake().drop(Fake().counter, 1);
  Fake().Failed(1, 'a');
  EXPECT_EQ(Fake().size(), 0);
  Fake().RemovedNaming(1, 'a', 'b');
  EXPECT_EQ(Fake().size(), 0);
}

TEST_F(RefcountGuardTest, BorrowerThatALateMessageNamesKeepsTheObject) {
  OwnAndLend(1, 'a');
  Fake().Failed(1, 'a');
  const int questions = Fake().questions();
  Fake().RemovedNaming(1, 'a', 'b');
  // The new borrower was asked. The old borrower was not asked again.
  EXPECT_EQ(Fake().questions(), questions + 1);
  EXPECT_EQ(RefcountGuardCountsOfNow().waiting, 1U);
  Fake().drop(Fake().counter, 1);
  EXPECT_EQ(Fake().size(), 1);
  Fake().Removed(1, 'b');
}

TEST_F(RefcountGuardTest, BorrowerThatComesBackIsWaitedForAgain) {
  OwnAndLend(1, 'a');
  Fake().Removed(1, 'a');
  Fake().Borrow(1, 'a');
  Fake().drop(Fake().counter, 1);
  EXPECT_EQ(Fake().size(), 1);
  Fake().Removed(1, 'a');
  Fake().Failed(1, 'a');
}

TEST_F(RefcountGuardTest, NoticesOnManyThreadsAreEachHandledOnce) {
  constexpr int kObjects = 200;
  for (uint64_t object = 0; object < kObjects; ++object) {
    for (const char worker : {'a', 'b', 'c'}) {
      if (worker == 'a') Fake().own(Fake().counter, object);
      Fake().Borrow(object, worker);
    }
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      for (uint64_t object = 0; object < kObjects; ++object) {
        for (const char worker : {'a', 'b', 'c'}) {
          i % 2 == 0 ? Fake().Failed(object, worker) : Fake().RemovedNaming(object, worker, 'd');
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t object = 0; object < kObjects; ++object) {
    Fake().Failed(object, 'd');
    Fake().drop(Fake().counter, object);
  }
}

TEST_F(RefcountGuardTest, ForkedChildIsGuardedAndCountsForItselfAlone) {
  OwnAndLend(1, 'a');
  const RefcountGuardCounts before = RefcountGuardCountsOfNow();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Fake().Failed(1, 'a');
    Fake().Removed(1, 'a');
    _exit(RefcountGuardCountsOfNow().repeated_ref_removed - before.repeated_ref_removed == 1 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(RefcountGuardCountsOfNow().waiting, 1U);
  Fake().Failed(1, 'a');
  Fake().drop(Fake().counter, 1);
}

TEST_F(RefcountGuardTest, SecondAttachDoesNothing) {
  EXPECT_TRUE(AttachRefcountGuard(Fake().path()).ok());
  EXPECT_TRUE(RefcountGuardCountsOfNow().attached);
  EXPECT_TRUE(DetachRefcountGuard().ok());
  EXPECT_FALSE(RefcountGuardCountsOfNow().attached);
  EXPECT_TRUE(DetachRefcountGuard().ok());
  EXPECT_TRUE(AttachRefcountGuard(Fake().path()).ok());
}

}  // namespace
}  // namespace mantaray::interpose
