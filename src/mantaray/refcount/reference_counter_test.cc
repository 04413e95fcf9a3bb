// Tests the reference counter operation by operation, and in small clusters whose messages the tests deliver.

#include "mantaray/refcount/reference_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/common/clock.h"

namespace mantaray::refcount {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

const ObjectId kX = ObjectId::FromNumber(1);
const ObjectId kY = ObjectId::FromNumber(2);
const ObjectId kZ = ObjectId::FromNumber(3);
const NodeId kNode = NodeId::FromNumber(7);

Address AddressNumber(uint64_t number) { return {WorkerId::FromNumber(number), kNode, "10.0.0.1", 1000}; }

// One process. It keeps everything that it sent, so that the test can inspect or deliver it.
class Process : public Publisher, public Subscriber {
 public:
  explicit Process(uint64_t number, bool lineage_pinning = false)
      : address(AddressNumber(number)),
        counter({this, this, &clock, [this](const NodeId& node) { return node == dead_node; },
                 [this](const std::string& line) { log.push_back(line); }},
                {address, lineage_pinning}) {}

  void PublishRefRemoved(const Address& owner, const RefRemovedMessage& message) override {
    published.emplace_back(owner, message);
  }
  void PublishObjectLocations(const ObjectLocations& object_locations) override {
    locations.push_back(object_locations);
  }
  void PublishFailure(const ObjectId& object_id) override { failures.push_back(object_id); }
  void SubscribeRefRemoved(const Address& borrower, const RefRemovedSubscription& subscription) override {
    subscribed.emplace_back(borrower, subscription);
  }
  void UnsubscribeRefRemoved(const Address& borrower, const ObjectId& object_id) override {
    unsubscribed.emplace_back(borrower.worker_id, object_id);
  }

  // Adds an object of this process, with one local reference.
  void Own(const ObjectId& object_id, std::vector<ObjectId> contains = {}) {
    OwnedObject object;
    object.object_id = object_id;
    object.contained_ids = std::move(contains);
    object.lineage_eligibility = LineageReconstructionEligibility::kIneligiblePut;
    object.add_local_ref = true;
    ASSERT_TRUE(counter.AddOwnedObject(object).ok());
  }

  // Adds a return value of a task that this process submitted.
  void OwnReturn(const ObjectId& object_id) {
    OwnedObject object;
    object.object_id = object_id;
    object.add_local_ref = true;
    ASSERT_TRUE(counter.AddOwnedObject(object).ok());
  }

  void Borrow(const ObjectId& object_id, const Process& owner, const ObjectId& outer_id = ObjectId()) {
    ASSERT_TRUE(counter.AddLocalReference(object_id).ok());
    ASSERT_TRUE(counter.AddBorrowedObject(object_id, outer_id, owner.address).ok());
  }

  void Drop(const ObjectId& object_id) { ASSERT_TRUE(counter.RemoveLocalReference(object_id).ok()); }

  ReferenceTable Pop(const std::vector<ObjectId>& arguments) { return *counter.PopAndClearLocalBorrowers(arguments); }

  VirtualClock clock;
  NodeId dead_node;
  const Address address;
  std::vector<std::pair<Address, RefRemovedMessage>> published;
  std::vector<std::pair<Address, RefRemovedSubscription>> subscribed;
  std::vector<std::pair<WorkerId, ObjectId>> unsubscribed;
  std::vector<ObjectLocations> locations;
  std::vector<ObjectId> failures;
  std::vector<std::string> log;
  ReferenceCounter counter;
};

class ReferenceCounterTest : public ::testing::Test {
 protected:
  ~ReferenceCounterTest() override {
    for (const Process* process : {&owner_, &caller_, &borrower_, &third_}) {
      EXPECT_TRUE(process->counter.CheckInvariants().ok()) << process->counter.CheckInvariants();
      EXPECT_EQ(process->counter.GetStats().broken_invariants, 0U);
    }
  }

  // Process `from` calls a task of `to` with an argument, which the task stores.
  static void Lend(Process* from, Process* to, const Process& owner, const ObjectId& object_id) {
    ASSERT_TRUE(from->counter.UpdateSubmittedTaskReferences({}, {object_id}).ok());
    to->Borrow(object_id, owner);
    ASSERT_TRUE(to->counter.AddLocalReference(object_id).ok());
    const ReferenceTable table = to->Pop({object_id});
    ASSERT_TRUE(from->counter.UpdateFinishedTaskReferences({}, {object_id}, true, to->address, table).ok());
  }

  // Delivers the last question of one process to the other.
  static void Ask(const Process& from, Process* to) {
    ASSERT_FALSE(from.subscribed.empty());
    ASSERT_TRUE(to->counter.SubscribeRefRemoved(from.subscribed.back().second).ok());
  }

  // Delivers the last answer of one process to the other.
  static void Answer(const Process& from, Process* to) {
    ASSERT_FALSE(from.published.empty());
    ASSERT_TRUE(to->counter.HandleRefRemoved(from.address, from.published.back().second).ok());
  }

  Process owner_{10};
  Process caller_{11};
  Process borrower_{12};
  Process third_{13};
};

// --- Local references

TEST_F(ReferenceCounterTest, LastLocalReferenceDeletes) {
  std::vector<ObjectId> deleted;
  owner_.Own(kX);
  ASSERT_TRUE(owner_.counter.AddLocalReference(kX).ok());
  ASSERT_TRUE(owner_.counter.RemoveLocalReference(kX, &deleted).ok());
  EXPECT_THAT(deleted, IsEmpty());
  ASSERT_TRUE(owner_.counter.RemoveLocalReference(kX, &deleted).ok());
  EXPECT_THAT(deleted, ElementsAre(kX));
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, MisuseNamesOperationAndObjectAndChangesNothing) {
  owner_.Own(kX);
  const auto expect = [](const absl::Status& status, absl::StatusCode code, const char* operation, const ObjectId& id) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(operation));
    EXPECT_THAT(std::string(status.message()), HasSubstr(id.Hex()));
  };
  ReferenceCounter& counter = owner_.counter;
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;
  expect(counter.RemoveLocalReference(kY), kNotFound, "RemoveLocalReference", kY);
  expect(counter.UpdateResubmittedTaskReferences({kX, kY}), kNotFound, "UpdateResubmittedTaskReferences", kY);
  expect(counter.UpdateFinishedTaskReferences({}, {kX}, true, caller_.address, {}), kPrecondition,
         "UpdateFinishedTaskReferences", kX);
  expect(counter.UpdateSubmittedTaskReferences({}, {}, {kX}), kPrecondition, "UpdateSubmittedTaskReferences", kX);
  expect(counter.PopAndClearLocalBorrowers({kX, kX}).status(), kPrecondition, "PopAndClearLocalBorrowers", kX);
  expect(counter.AddBorrowerAddress(kX, owner_.address), kPrecondition, "AddBorrowerAddress", kX);
  expect(counter.AddNestedObjectIds(kZ, {kY}, caller_.address), kNotFound, "AddNestedObjectIds", kY);
  expect(counter.SubscribeRefRemoved({kX, ObjectId(), caller_.address, 1}), kPrecondition, "SubscribeRefRemoved", kX);
  expect(counter.ReportLocalityData(kX, {kNode}, 1).status(), kPrecondition, "ReportLocalityData", kX);
  OwnedObject again;
  again.object_id = kX;
  expect(counter.AddOwnedObject(again), absl::StatusCode::kAlreadyExists, "AddOwnedObject", kX);
  ASSERT_TRUE(counter.UpdateSubmittedTaskReferences({}, {kX}).ok());
  // The same argument occurs twice, but was submitted only once.
  expect(counter.UpdateFinishedTaskReferences({}, {kX, kX}, true, caller_.address, {}), kPrecondition,
         "UpdateFinishedTaskReferences", kX);
  const auto counts = counter.GetAllReferenceCounts();
  EXPECT_EQ(counts.at(kX).local, 1U);
  EXPECT_EQ(counts.at(kX).submitted, 1U);
  EXPECT_EQ(counter.Size(), 1U);
}

TEST_F(ReferenceCounterTest, SubmittedTaskKeepsItsArguments) {
  owner_.Own(kX);
  ASSERT_TRUE(owner_.counter.UpdateSubmittedTaskReferences({}, {kX, kX}).ok());
  owner_.Drop(kX);
  EXPECT_TRUE(owner_.counter.HasReference(kX));
  // One argument was small enough to be sent with the task.
  ASSERT_TRUE(owner_.counter.UpdateSubmittedTaskReferences({}, {}, {kX}).ok());
  EXPECT_TRUE(owner_.counter.HasReference(kX));
  ASSERT_TRUE(owner_.counter.UpdateFinishedTaskReferences({}, {kX}, true, caller_.address, {}).ok());
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

// --- Borrowing

TEST_F(ReferenceCounterTest, BorrowerIsAskedAndItsAnswerFrees) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  owner_.Drop(kX);
  ASSERT_THAT(owner_.subscribed, SizeIs(1));
  EXPECT_EQ(owner_.subscribed[0].first, borrower_.address);
  Ask(owner_, &borrower_);
  EXPECT_THAT(borrower_.published, IsEmpty());
  borrower_.Drop(kX);
  EXPECT_EQ(borrower_.counter.Size(), 0U);
  EXPECT_TRUE(owner_.counter.HasReference(kX));
  Answer(borrower_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
  EXPECT_THAT(owner_.unsubscribed, SizeIs(1));
}

TEST_F(ReferenceCounterTest, BorrowerThatIsAskedTooLateAnswersAtOnce) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  borrower_.Drop(kX);
  EXPECT_EQ(borrower_.counter.Size(), 0U);
  Ask(owner_, &borrower_);
  ASSERT_THAT(borrower_.published, SizeIs(1));
  EXPECT_EQ(borrower_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, BorrowersOfABorrowerReachTheOwnerWithItsAnswer) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  Ask(owner_, &borrower_);
  Lend(&borrower_, &third_, owner_, kX);
  owner_.Drop(kX);
  borrower_.Drop(kX);
  Answer(borrower_, &owner_);
  ASSERT_TRUE(owner_.counter.HasReference(kX));
  EXPECT_EQ(owner_.subscribed.back().first, third_.address);
  Ask(owner_, &third_);
  third_.Drop(kX);
  Answer(third_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, BorrowerThatNobodyAskedTellsTheOwnerWhatItKnows) {
  // The caller got the object from the owner, passed it on, and died before it reported this.
  owner_.Own(kX);
  Lend(&caller_, &borrower_, owner_, kX);
  Lend(&borrower_, &third_, owner_, kX);
  borrower_.Drop(kX);
  EXPECT_EQ(borrower_.counter.Size(), 0U);
  Answer(borrower_, &owner_);
  EXPECT_EQ(owner_.subscribed.back().first, third_.address);
  owner_.Drop(kX);
  EXPECT_TRUE(owner_.counter.HasReference(kX));
  caller_.counter.ReleaseAllLocalReferences();
}

TEST_F(ReferenceCounterTest, BorrowerReportedAgainWhileItsAnswerIsOnTheWayIsAskedAgain) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  Ask(owner_, &borrower_);
  borrower_.Drop(kX);
  // The answer of the borrower is in flight when it gets the object again.
  Lend(&owner_, &borrower_, owner_, kX);
  owner_.Drop(kX);
  Answer(borrower_, &owner_);
  ASSERT_TRUE(owner_.counter.HasReference(kX)) << "freed under a borrower";
  Ask(owner_, &borrower_);
  borrower_.Drop(kX);
  Answer(borrower_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, AnswerToAnOlderQuestionThatArrivesAgainDoesNotCount) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  Ask(owner_, &borrower_);
  borrower_.Drop(kX);
  const RefRemovedMessage old = borrower_.published.back().second;
  Answer(borrower_, &owner_);
  Lend(&owner_, &borrower_, owner_, kX);
  owner_.Drop(kX);
  ASSERT_TRUE(owner_.counter.HandleRefRemoved(borrower_.address, old).ok());
  EXPECT_TRUE(owner_.counter.HasReference(kX)) << "freed under a borrower";
  EXPECT_EQ(owner_.counter.GetStats().repeated_ref_removed, 1U);
}

TEST_F(ReferenceCounterTest, OwnerThatAssignedAnObjectAsksFromTheStart) {
  owner_.Own(kX);
  ASSERT_TRUE(owner_.counter.AddBorrowerAddress(kX, borrower_.address).ok());
  owner_.Drop(kX);
  ASSERT_TRUE(borrower_.counter.AddLocalReference(kX).ok());
  ASSERT_TRUE(borrower_.counter.AddBorrowedObject(kX, ObjectId(), owner_.address, true).ok());
  // The owner knows this already, so no other process needs to.
  ASSERT_TRUE(borrower_.counter.AddLocalReference(kX).ok());
  EXPECT_THAT(borrower_.Pop({kX}), IsEmpty());
  Ask(owner_, &borrower_);
  borrower_.Drop(kX);
  Answer(borrower_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

// --- Notices that come again

TEST_F(ReferenceCounterTest, UpstreamRaceBorrowerAnswersAndDiesAndBothNoticesArrive) {
  for (const bool failure_first : {false, true}) {
    owner_.Own(kX);
    Lend(&owner_, &borrower_, owner_, kX);
    owner_.Drop(kX);
    Ask(owner_, &borrower_);
    borrower_.Drop(kX);
    for (int time = 0; time < 3; ++time) {
      if (failure_first) {
        EXPECT_TRUE(owner_.counter.HandlePublisherFailed(borrower_.address, kX).ok());
      }
      Answer(borrower_, &owner_);
      EXPECT_TRUE(owner_.counter.HandlePublisherFailed(borrower_.address, kX).ok());
    }
    EXPECT_EQ(owner_.counter.Size(), 0U);
  }
  const Stats stats = owner_.counter.GetStats();
  EXPECT_EQ(stats.repeated_ref_removed, 2U + 3U);
  EXPECT_EQ(stats.repeated_publisher_failed, 3U + 5U);
}

TEST_F(ReferenceCounterTest, RepeatsAreLoggedAtABoundedRateWithObjectBorrowerAndFirstNotice) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  Ask(owner_, &borrower_);
  borrower_.Drop(kX);
  Answer(borrower_, &owner_);
  for (int time = 0; time < 100; ++time) {
    ASSERT_TRUE(owner_.counter.HandlePublisherFailed(borrower_.address, kX).ok());
  }
  ASSERT_THAT(owner_.log, SizeIs(1));
  EXPECT_THAT(owner_.log[0], HasSubstr(kX.Hex()));
  EXPECT_THAT(owner_.log[0], HasSubstr(borrower_.address.worker_id.Hex()));
  EXPECT_THAT(owner_.log[0], HasSubstr("first came \"reference removed\""));
  owner_.clock.AdvanceMs(RepeatedNotices::kLogIntervalMs);
  ASSERT_TRUE(owner_.counter.HandlePublisherFailed(borrower_.address, kX).ok());
  ASSERT_THAT(owner_.log, SizeIs(2));
  EXPECT_THAT(owner_.log[1], HasSubstr("99 more"));
  owner_.Drop(kX);
}

TEST_F(ReferenceCounterTest, LateMessageOfADeadBorrowerStillNamesNewOnes) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  Ask(owner_, &borrower_);
  Lend(&borrower_, &third_, owner_, kX);
  borrower_.Drop(kX);
  ASSERT_TRUE(owner_.counter.HandlePublisherFailed(borrower_.address, kX).ok());
  Answer(borrower_, &owner_);
  owner_.Drop(kX);
  EXPECT_TRUE(owner_.counter.HasReference(kX));
  EXPECT_EQ(owner_.subscribed.back().first, third_.address);
}

TEST_F(ReferenceCounterTest, LateMessageDoesNotBringAnObjectBack) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  Ask(owner_, &borrower_);
  Lend(&borrower_, &third_, owner_, kX);
  borrower_.Drop(kX);
  owner_.Drop(kX);
  ASSERT_TRUE(owner_.counter.HandlePublisherFailed(borrower_.address, kX).ok());
  EXPECT_EQ(owner_.counter.Size(), 0U);
  Answer(borrower_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
  EXPECT_EQ(owner_.counter.GetStats().reports_too_late, 1U);
}

TEST_F(ReferenceCounterTest, LateReportBringsBackNoEntryForAnObjectOfOnesOwn) {
  // A worker that got y reports that it found x in it, after x has been freed. A new entry of x would look like a
  // borrowed one, and no process would ever release it. The test runs twice: the owner owns y, or it borrows y.
  owner_.Own(kX);
  owner_.Drop(kX);
  ASSERT_FALSE(owner_.counter.HasReference(kX));
  owner_.Own(kY);
  owner_.Borrow(kZ, third_);
  for (const ObjectId& outer_id : {kY, kZ}) {
    ObjectReferenceCount outer;
    outer.object_id = outer_id;
    outer.owner_address = outer_id == kY ? owner_.address : third_.address;
    outer.has_local_ref = true;
    outer.contains = {kX};
    ObjectReferenceCount inner;
    inner.object_id = kX;
    inner.owner_address = owner_.address;
    inner.has_local_ref = true;
    inner.contained_in_borrowed_ids = {outer_id};
    ASSERT_TRUE(owner_.counter.UpdateSubmittedTaskReferences({}, {outer_id}).ok());
    ASSERT_TRUE(
        owner_.counter.UpdateFinishedTaskReferences({}, {outer_id}, true, borrower_.address, {outer, inner}).ok());
    EXPECT_FALSE(owner_.counter.HasReference(kX)) << owner_.counter.DebugString(kX);
    EXPECT_THAT(owner_.subscribed, SizeIs(1)) << "only about y";
  }
  EXPECT_EQ(owner_.counter.GetStats().reports_too_late, 2U);
  // The reported x must not keep y either.
  ASSERT_TRUE(owner_.counter.HandlePublisherFailed(borrower_.address, kY).ok());
  owner_.Drop(kY);
  owner_.Drop(kZ);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, FreedObjectThatCameBackAsAnArgumentContainsNothing) {
  // The borrower returned x in y. The owner freed y and received a reference to it again, from a process that it did
  // not know of. Only then the report of y's content arrives.
  owner_.Own(kX);
  owner_.OwnReturn(kY);
  Lend(&owner_, &borrower_, owner_, kX);
  Ask(owner_, &borrower_);
  ASSERT_TRUE(borrower_.counter.AddNestedObjectIds(kY, {kX}, owner_.address).ok());
  owner_.Drop(kY);
  owner_.Borrow(kY, owner_);
  borrower_.Drop(kX);
  Answer(borrower_, &owner_);
  EXPECT_TRUE(owner_.counter.CheckInvariants().ok()) << owner_.counter.CheckInvariants();
  owner_.Drop(kX);
  EXPECT_FALSE(owner_.counter.HasReference(kX)) << owner_.counter.DebugString(kX);
  owner_.Drop(kY);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, QuestionThatArrivesAgainIsAnsweredOnceWhenTheTimeComes) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  for (int time = 0; time < 3; ++time) Ask(owner_, &borrower_);
  borrower_.Drop(kX);
  EXPECT_THAT(borrower_.published, SizeIs(1));
  EXPECT_EQ(borrower_.counter.GetStats().repeated_subscriptions, 2U);
  owner_.Drop(kX);
  Answer(borrower_, &owner_);
}

// --- Nesting

TEST_F(ReferenceCounterTest, ContentsStayAsLongAsTheObjectThatContainsThem) {
  std::vector<ObjectId> deleted;
  owner_.Own(kX);
  owner_.Own(kY, {kX});
  owner_.Own(kZ, {kY, kX});
  owner_.Drop(kX);
  owner_.Drop(kY);
  EXPECT_EQ(owner_.counter.Size(), 3U);
  ASSERT_TRUE(owner_.counter.RemoveLocalReference(kZ, &deleted).ok());
  EXPECT_THAT(deleted, UnorderedElementsAre(kX, kY, kZ));
}

TEST_F(ReferenceCounterTest, NestedReferenceThatTheWorkerKeepsMakesItABorrower) {
  owner_.Own(kX);
  owner_.Own(kY, {kX});
  ASSERT_TRUE(owner_.counter.UpdateSubmittedTaskReferences({}, {kY}).ok());
  borrower_.Borrow(kY, owner_);
  borrower_.Borrow(kX, owner_, kY);
  const ReferenceTable table = borrower_.Pop({kY});
  ASSERT_THAT(table, SizeIs(2));
  EXPECT_FALSE(table[0].has_local_ref);
  EXPECT_TRUE(table[1].has_local_ref);
  EXPECT_THAT(table[0].contains, ElementsAre(kX));
  EXPECT_THAT(table[1].contained_in_borrowed_ids, ElementsAre(kY));
  ASSERT_TRUE(owner_.counter.UpdateFinishedTaskReferences({}, {kY}, true, borrower_.address, table).ok());
  owner_.Drop(kX);
  owner_.Drop(kY);
  EXPECT_FALSE(owner_.counter.HasReference(kY));
  ASSERT_TRUE(owner_.counter.HasReference(kX));
  Ask(owner_, &borrower_);
  borrower_.Drop(kX);
  Answer(borrower_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, NestedUseIsPassedUpThroughAForeignCaller) {
  // The owner's object is in a value that the caller only borrows and passes on.
  owner_.Own(kX);
  owner_.Own(kY, {kX});
  Lend(&owner_, &caller_, owner_, kY);
  Ask(owner_, &caller_);
  ASSERT_TRUE(caller_.counter.UpdateSubmittedTaskReferences({}, {kY}).ok());
  borrower_.Borrow(kY, owner_);
  borrower_.Borrow(kX, owner_, kY);
  const ReferenceTable table = borrower_.Pop({kY});
  ASSERT_TRUE(caller_.counter.UpdateFinishedTaskReferences({}, {kY}, true, borrower_.address, table).ok());
  owner_.Drop(kX);
  owner_.Drop(kY);
  caller_.Drop(kY);
  EXPECT_EQ(caller_.counter.Size(), 0U);
  Answer(caller_, &owner_);
  ASSERT_TRUE(owner_.counter.HasReference(kX)) << "the nested borrower was lost on the way";
  EXPECT_EQ(owner_.subscribed.back().first, borrower_.address);
  Ask(owner_, &borrower_);
  borrower_.Drop(kX);
  Answer(borrower_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, ReturnedReferenceOfTheWorkerMakesTheCallerABorrower) {
  // The worker returns a reference to its own object. The question may reach the caller before the reply.
  caller_.OwnReturn(kZ);
  owner_.Own(kX);
  ASSERT_TRUE(owner_.counter.AddNestedObjectIds(kZ, {kX}, caller_.address).ok());
  owner_.Drop(kX);
  EXPECT_EQ(owner_.subscribed.back().second.contained_in_id, kZ);
  Ask(owner_, &caller_);
  EXPECT_TRUE(caller_.counter.HasReference(kX));
  EXPECT_THAT(caller_.published, IsEmpty());
  caller_.Drop(kZ);
  EXPECT_EQ(caller_.counter.Size(), 0U);
  Answer(caller_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, ReturnedReferenceThatTheWorkerBorrowsIsReportedAsStoredIn) {
  owner_.Own(kX);
  Lend(&owner_, &borrower_, owner_, kX);
  Ask(owner_, &borrower_);
  caller_.OwnReturn(kZ);
  ASSERT_TRUE(borrower_.counter.AddNestedObjectIds(kZ, {kX}, caller_.address).ok());
  borrower_.Drop(kX);
  owner_.Drop(kX);
  Answer(borrower_, &owner_);
  ASSERT_TRUE(owner_.counter.HasReference(kX));
  EXPECT_EQ(owner_.subscribed.back().first, caller_.address);
  Ask(owner_, &caller_);
  caller_.Drop(kZ);
  Answer(caller_, &owner_);
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

TEST_F(ReferenceCounterTest, SameNestedObjectReachedInManyWaysIsReportedOnce) {
  // Twenty levels, each of which contains the level below twice. A walk over all paths would take a million steps.
  std::vector<ObjectId> levels;
  for (uint64_t level = 0; level < 40; ++level) levels.push_back(ObjectId::FromNumber(100 + level));
  borrower_.Borrow(levels[0], owner_);
  borrower_.Borrow(levels[1], owner_);
  for (size_t level = 2; level < levels.size(); ++level) {
    borrower_.Borrow(levels[level], owner_, levels[(level & ~size_t{1}) - 2]);
    ASSERT_TRUE(
        borrower_.counter.AddBorrowedObject(levels[level], levels[(level & ~size_t{1}) - 1], owner_.address).ok());
  }
  EXPECT_THAT(borrower_.Pop({levels[0], levels[1]}), SizeIs(40));
}

TEST_F(ReferenceCounterTest, LongChainsOfContentsAndLineageDoNotExhaustTheStack) {
  constexpr uint64_t kLength = 100000;
  Process process(1, /*lineage_pinning=*/true);
  process.counter.SetReleaseLineageCallback([](const ObjectId& id) {
    ReleasedLineage released;
    if (id.Number() > 1) released.argument_ids.push_back(ObjectId::FromNumber(id.Number() - 1));
    return released;
  });
  for (uint64_t number = 1; number <= kLength; ++number) {
    process.OwnReturn(ObjectId::FromNumber(number));
    if (number == 1) continue;
    const ObjectId argument = ObjectId::FromNumber(number - 1);
    ASSERT_TRUE(process.counter.UpdateSubmittedTaskReferences({}, {argument}).ok());
    ASSERT_TRUE(process.counter.UpdateFinishedTaskReferences({}, {argument}, false, caller_.address, {}).ok());
    process.Drop(argument);
  }
  EXPECT_EQ(process.counter.Size(), kLength);
  process.Drop(ObjectId::FromNumber(kLength));
  EXPECT_EQ(process.counter.Size(), 0U);
  for (uint64_t number = 1; number <= kLength; ++number) {
    const ObjectId id = ObjectId::FromNumber(number);
    owner_.Own(id, number == 1 ? std::vector<ObjectId>() : std::vector<ObjectId>{ObjectId::FromNumber(number - 1)});
    if (number < kLength) owner_.Drop(id);
  }
  owner_.Drop(ObjectId::FromNumber(kLength));
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

// --- Lineage

TEST_F(ReferenceCounterTest, LineageKeepsWhatItTakesToMakeAnObjectAgain) {
  Process process(1, /*lineage_pinning=*/true);
  process.counter.SetReleaseLineageCallback([](const ObjectId& id) {
    return id == kZ ? ReleasedLineage{{kX, kY}, 10} : ReleasedLineage{};
  });
  std::vector<ObjectId> deleted;
  process.Own(kX);        // cannot be computed again
  process.OwnReturn(kY);  // can be computed again
  process.OwnReturn(kZ);
  ASSERT_TRUE(process.counter.UpdateSubmittedTaskReferences({kZ}, {kX, kY}).ok());
  EXPECT_TRUE(process.counter.IsObjectPendingCreation(kZ));
  ASSERT_TRUE(process.counter.UpdateFinishedTaskReferences({kZ}, {kX, kY}, false, caller_.address, {}).ok());
  ASSERT_TRUE(process.counter.RemoveLocalReference(kX, &deleted).ok());
  ASSERT_TRUE(process.counter.RemoveLocalReference(kY, &deleted).ok());
  EXPECT_THAT(deleted, ElementsAre(kY)) << "the value of what can be made again may go";
  EXPECT_EQ(process.counter.Size(), 3U);
  // The task runs again, and so does the task that made its argument.
  ASSERT_TRUE(process.counter.UpdateResubmittedTaskReferences({kX, kY}).ok());
  EXPECT_TRUE(process.counter.AddObjectOutOfScopeOrFreedCallback(kY, [](const ObjectId&) {}));
  ASSERT_TRUE(process.counter.UpdateFinishedTaskReferences({kZ}, {kX, kY}, false, caller_.address, {}).ok());
  process.Drop(kZ);
  EXPECT_EQ(process.counter.Size(), 0U);
  EXPECT_TRUE(process.counter.CheckInvariants().ok());
}

TEST_F(ReferenceCounterTest, EvictedLineageLetsArgumentsGo) {
  Process process(1, /*lineage_pinning=*/true);
  process.counter.SetReleaseLineageCallback([](const ObjectId& id) {
    return id == kZ ? ReleasedLineage{{kX}, 10} : ReleasedLineage{};
  });
  process.Own(kX);
  process.OwnReturn(kZ);
  ASSERT_TRUE(process.counter.UpdateSubmittedTaskReferences({kZ}, {kX}).ok());
  ASSERT_TRUE(process.counter.UpdateFinishedTaskReferences({kZ}, {kX}, false, caller_.address, {}).ok());
  process.Drop(kX);
  EXPECT_EQ(process.counter.EvictLineage(1), 10);
  EXPECT_FALSE(process.counter.HasReference(kX));
  EXPECT_EQ(process.counter.GetLineageReconstructionEligibility(kZ),
            LineageReconstructionEligibility::kIneligibleLineageEvicted);
  EXPECT_EQ(process.counter.EvictLineage(1), 0);
}

// --- Callbacks

TEST_F(ReferenceCounterTest, CallbacksRunOnceWithoutTheLockAndMayCallBack) {
  int out_of_scope = 0;
  int deleted = 0;
  int drained = 0;
  owner_.Own(kY);
  owner_.Own(kX);
  EXPECT_TRUE(owner_.counter.AddObjectOutOfScopeOrFreedCallback(kX, [&](const ObjectId& id) {
    ++out_of_scope;
    EXPECT_FALSE(owner_.counter.HasReference(id));
    EXPECT_TRUE(owner_.counter.RemoveLocalReference(kY).ok());
  }));
  EXPECT_TRUE(owner_.counter.AddObjectRefDeletedCallback(kX, [&](const ObjectId&) { ++deleted; }));
  owner_.counter.DrainAndShutdown([&] { ++drained; });
  owner_.Drop(kX);
  EXPECT_EQ(out_of_scope, 1);
  EXPECT_EQ(deleted, 1);
  EXPECT_EQ(drained, 1);
  EXPECT_FALSE(owner_.counter.AddObjectOutOfScopeOrFreedCallback(kX, [](const ObjectId&) {}));
}

TEST_F(ReferenceCounterTest, FreedByHandCallsBackAndKeepsTheEntry) {
  int called = 0;
  owner_.Own(kX);
  EXPECT_TRUE(owner_.counter.AddObjectOutOfScopeOrFreedCallback(kX, [&](const ObjectId&) { ++called; }));
  owner_.counter.FreePlasmaObjects({kX, kY});
  EXPECT_EQ(called, 1);
  EXPECT_TRUE(owner_.counter.IsPlasmaObjectFreed(kX));
  EXPECT_FALSE(owner_.counter.AddObjectOutOfScopeOrFreedCallback(kX, [](const ObjectId&) {}));
  EXPECT_TRUE(owner_.counter.TryMarkFreedObjectInUseAgain(kX));
  EXPECT_FALSE(owner_.counter.TryMarkFreedObjectInUseAgain(kX));
  owner_.Drop(kX);
  EXPECT_EQ(called, 1);
}

// --- Generators

TEST_F(ReferenceCounterTest, DynamicReturnsStayWithTheirGenerator) {
  owner_.OwnReturn(kX);
  ASSERT_TRUE(owner_.counter.AddDynamicReturn(kY, kX).ok());
  ASSERT_TRUE(owner_.counter.OwnDynamicStreamingTaskReturnRef(kZ, kX).ok());
  EXPECT_EQ(owner_.counter.NumObjectsOwnedByUs(), 3U);
  owner_.Drop(kX);
  EXPECT_FALSE(owner_.counter.HasReference(kY));
  owner_.counter.TryReleaseLocalRefs({kZ, kY});
  EXPECT_EQ(owner_.counter.Size(), 0U);
  ASSERT_TRUE(owner_.counter.AddDynamicReturn(kY, kX).ok());
  EXPECT_EQ(owner_.counter.Size(), 0U);
}

// --- Locations

TEST_F(ReferenceCounterTest, LocationsArePublishedToSubscribersAndEndWithAFailure) {
  owner_.Own(kX);
  EXPECT_TRUE(owner_.counter.AddObjectLocation(kX, kNode));
  EXPECT_THAT(owner_.locations, IsEmpty()) << "nobody asked yet";
  owner_.counter.PublishObjectLocationSnapshot(kX);
  owner_.counter.UpdateObjectSize(kX, 77);
  EXPECT_TRUE(owner_.counter.AddObjectLocation(kX, kNode)) << "known already, and not worth a message";
  EXPECT_TRUE(owner_.counter.RemoveObjectLocation(kX, kNode));
  ASSERT_THAT(owner_.locations, SizeIs(3));
  EXPECT_THAT(owner_.locations[0].node_ids, ElementsAre(kNode));
  EXPECT_EQ(owner_.locations[1].object_size_bytes, 77);
  EXPECT_THAT(owner_.locations[2].node_ids, IsEmpty());
  owner_.Drop(kX);
  EXPECT_THAT(owner_.failures, ElementsAre(kX));
  owner_.counter.PublishObjectLocationSnapshot(kX);
  EXPECT_TRUE(owner_.locations.back().ref_removed);
  EXPECT_THAT(owner_.failures, SizeIs(2));
  EXPECT_FALSE(owner_.counter.AddObjectLocation(kX, kNode));
}

TEST_F(ReferenceCounterTest, SpilledObjectIsLostWithItsNodeOnly) {
  const NodeId other = NodeId::FromNumber(8);
  owner_.Own(kX);
  owner_.Own(kY);
  ASSERT_TRUE(owner_.counter.UpdateObjectPinnedAtRaylet(kX, kNode).ok());
  EXPECT_TRUE(owner_.counter.HandleObjectSpilled(kX, "file:///x", kNode));
  EXPECT_TRUE(owner_.counter.HandleObjectSpilled(kY, "s3://y", NodeId()));
  EXPECT_TRUE(owner_.counter.IsPlasmaObjectPinnedOrSpilled(kX)->spilled);
  owner_.counter.ResetObjectsOnRemovedNode(other);
  EXPECT_THAT(owner_.counter.FlushObjectsToRecover(), IsEmpty());
  owner_.counter.ResetObjectsOnRemovedNode(kNode);
  EXPECT_THAT(owner_.counter.FlushObjectsToRecover(), ElementsAre(kX));
  EXPECT_FALSE(owner_.counter.IsPlasmaObjectPinnedOrSpilled(kX)->spilled);
  EXPECT_EQ(owner_.counter.FillObjectInformation(kY).spilled_url, "s3://y");
  owner_.dead_node = other;
  ASSERT_TRUE(owner_.counter.UpdateObjectPinnedAtRaylet(kX, other).ok());
  EXPECT_TRUE(owner_.counter.HandleObjectSpilled(kY, "file:///y", other));
  EXPECT_THAT(owner_.counter.FlushObjectsToRecover(), ElementsAre(kX, kY));
}

TEST_F(ReferenceCounterTest, LocalityOfABorrowedObjectIsWhatItsOwnerReported) {
  borrower_.Borrow(kX, owner_);
  EXPECT_FALSE(borrower_.counter.GetLocalityData(kX).has_value());
  EXPECT_TRUE(*borrower_.counter.ReportLocalityData(kX, {kNode}, 5));
  EXPECT_THAT(borrower_.counter.GetLocalityData(kX)->nodes, ElementsAre(kNode));
  EXPECT_FALSE(*borrower_.counter.ReportLocalityData(kY, {kNode}, 5));
  EXPECT_EQ(*borrower_.counter.GetOwner(kX), owner_.address);
}

TEST(EntryTableTest, ReferencesStayWhileOthersAreErasedAndIdsLikeRaysAreFound) {
  // As in Ray, all objects that a task puts have the same first 24 bytes, and a little-endian count in the last four.
  std::vector<ObjectId> ids;
  for (uint32_t number = 0; number < 200'000; ++number) {
    std::string binary(ObjectId::kBytes, '\x5a');
    for (int byte = 0; byte < 4; ++byte) binary[24 + byte] = static_cast<char>(number >> (8 * byte));
    ids.push_back(*ObjectId::FromBinary(binary));
  }
  EntryTable table;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto [ref, added] = table.FindOrAdd(ids[i]);
    ASSERT_TRUE(added);
    ref->local_ref_count = static_cast<uint32_t>(i);
  }
  ASSERT_FALSE(table.FindOrAdd(ids[7]).second);
  Reference* const seventh = table.Find(ids[7]);
  for (size_t i = 0; i < ids.size(); i += 2) table.erase(table.find(ids[i]));
  EXPECT_EQ(table.Find(ids[7]), seventh);
  EXPECT_EQ(table.size(), ids.size() / 2);
  for (size_t i = 0; i < ids.size(); ++i) {
    const Reference* const ref = table.Find(ids[i]);
    ASSERT_EQ(ref != nullptr, i % 2 == 1);
    if (ref == nullptr) continue;
    ASSERT_EQ(ref->local_ref_count, i);
  }
}

TEST(OrderedMapTest, AgreesWithItselfSmallAndLarge) {
  OrderedMap<ObjectId, int> map;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(map.Emplace(ObjectId::FromNumber(i), i).second);
  EXPECT_FALSE(map.Emplace(ObjectId::FromNumber(5), 0).second);
  for (int i = 0; i < 100; i += 2) EXPECT_TRUE(map.Erase(ObjectId::FromNumber(i)));
  EXPECT_FALSE(map.Erase(ObjectId::FromNumber(0)));
  EXPECT_EQ(map.size(), 50U);
  for (int i = 1; i < 100; i += 2) EXPECT_EQ(*map.Find(ObjectId::FromNumber(i)), i);
  for (int i = 1; i < 100; i += 2) EXPECT_TRUE(map.Erase(ObjectId::FromNumber(i)));
  EXPECT_TRUE(map.empty());
}

}  // namespace
}  // namespace mantaray::refcount
