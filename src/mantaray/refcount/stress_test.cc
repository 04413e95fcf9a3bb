// Many threads use one reference counter at once. The test is meant for ThreadSanitizer. It also checks that nothing is
// lost and that callbacks come one at a time.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "mantaray/common/clock.h"
#include "mantaray/refcount/reference_counter.h"

namespace mantaray::refcount {
namespace {

constexpr int kThreads = 4;
constexpr uint64_t kRounds = 400;

Address AddressNumber(uint64_t number) { return {WorkerId::FromNumber(number), NodeId(), "", 0}; }

// Answers every question at once, and again later.
class Loopback : public Publisher, public Subscriber {
 public:
  void PublishRefRemoved(const Address&, const RefRemovedMessage&) override { Enter(); }
  void PublishObjectLocations(const ObjectLocations&) override { Enter(); }
  void PublishFailure(const ObjectId&) override { Enter(); }
  void SubscribeRefRemoved(const Address& borrower, const RefRemovedSubscription& subscription) override {
    Enter();
    const RefRemovedMessage answer = {subscription.object_id, {subscription.number}, {}};
    EXPECT_TRUE(counter->HandleRefRemoved(borrower, answer).ok());
    EXPECT_TRUE(counter->HandlePublisherFailed(borrower, subscription.object_id).ok());
  }
  void UnsubscribeRefRemoved(const Address&, const ObjectId&) override { Enter(); }

  // Checks that effects come one at a time.
  void Enter() {
    EXPECT_EQ(inside_.fetch_add(1), 0);
    inside_.fetch_sub(1);
  }

  ReferenceCounter* counter = nullptr;

 private:
  std::atomic<int> inside_{0};
};

TEST(StressTest, ThreadsShareOneReferenceCounter) {
  Loopback loopback;
  VirtualClock clock;
  std::atomic<uint64_t> out_of_scope{0};
  ReferenceCounter counter({&loopback, &loopback, &clock, nullptr, nullptr}, {AddressNumber(1), true});
  loopback.counter = &counter;
  counter.SetReleaseLineageCallback([](const ObjectId&) { return ReleasedLineage{}; });
  const ObjectId shared = ObjectId::FromNumber(0);
  OwnedObject object;
  object.object_id = shared;
  object.add_local_ref = true;
  ASSERT_TRUE(counter.AddOwnedObject(object).ok());

  const auto work = [&](uint64_t thread) {
    for (uint64_t round = 0; round < kRounds; ++round) {
      const ObjectId mine = ObjectId::FromNumber((thread + 1) << 32 | round);
      OwnedObject owned;
      owned.object_id = mine;
      owned.contained_ids = {shared};
      owned.add_local_ref = true;
      EXPECT_TRUE(counter.AddOwnedObject(owned).ok());
      EXPECT_TRUE(counter.AddObjectOutOfScopeOrFreedCallback(mine, [&](const ObjectId&) {
        loopback.Enter();
        ++out_of_scope;
      }));
      EXPECT_TRUE(counter.AddLocalReference(shared).ok());
      EXPECT_TRUE(counter.UpdateSubmittedTaskReferences({}, {mine, shared}).ok());
      const Address worker = AddressNumber(100 + thread);
      ObjectReferenceCount report;
      report.object_id = shared;
      report.has_local_ref = true;
      EXPECT_TRUE(counter.UpdateFinishedTaskReferences({}, {mine, shared}, true, worker, {report}).ok());
      EXPECT_TRUE(counter.AddObjectLocation(mine, NodeId::FromNumber(round)));
      counter.PublishObjectLocationSnapshot(mine);
      EXPECT_TRUE(counter.HandlePublisherFailed(worker, shared).ok());
      EXPECT_TRUE(counter.RemoveLocalReference(shared).ok());
      EXPECT_TRUE(counter.RemoveLocalReference(mine).ok());
      if (round % 50 == 0) {
        EXPECT_TRUE(counter.CheckInvariants().ok());
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) threads.emplace_back(work, thread);
  for (std::thread& thread : threads) thread.join();
  // The last thread also ran the effects of the others.
  EXPECT_EQ(out_of_scope.load(), kThreads * kRounds);
  EXPECT_EQ(counter.Size(), 1U);
  ASSERT_TRUE(counter.RemoveLocalReference(shared).ok());
  EXPECT_EQ(counter.Size(), 0U);
  EXPECT_EQ(counter.GetStats().broken_invariants, 0U);
}

}  // namespace
}  // namespace mantaray::refcount
