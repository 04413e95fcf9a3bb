// A reference counter at edges that misbehave: a bug of the protocol, planted to see that the explorer finds it.
//
// The counter inside is the real one. Faults act where something goes in or out:
// - messages: a report loses entries, a question is not passed on, an answer names other questions;
// - the table, between two operations: a note is lost, or comes back.
//
// One fault at a time. Not thread-safe, because a simulated world has one thread.

#ifndef MANTARAY_SIM_FAULTY_COUNTER_H_
#define MANTARAY_SIM_FAULTY_COUNTER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/common/ids.h"
#include "mantaray/refcount/messages.h"
#include "mantaray/refcount/reference_counter.h"
#include "mantaray/refcount/repeated_notices.h"
#include "mantaray/refcount/transport.h"
#include "mantaray/sim/seeded_faults.h"

namespace mantaray::sim {

// The messages that go out, and what they say about the questions that are open.
class FaultyWire : public refcount::Publisher, public refcount::Subscriber {
 public:
  FaultyWire(Fault fault, const refcount::Dependencies& dependencies)
      : fault_(fault), publisher_(dependencies.publisher), subscriber_(dependencies.subscriber) {}

  void PublishRefRemoved(const refcount::Address& owner, const refcount::RefRemovedMessage& message) override;
  void PublishObjectLocations(const refcount::ObjectLocations& locations) override;
  void PublishFailure(const ObjectId& object_id) override;
  void SubscribeRefRemoved(const refcount::Address& borrower,
                           const refcount::RefRemovedSubscription& subscription) override;
  void UnsubscribeRefRemoved(const refcount::Address& borrower, const ObjectId& object_id) override;

 protected:
  using Borrowing = std::pair<ObjectId, WorkerId>;

  const Fault fault_;
  // At an owner: what it asked each borrower, until the borrower is gone.
  absl::flat_hash_map<Borrowing, std::vector<uint64_t>> asked_;
  // At a borrower: what was held back because no owner had asked for it.
  absl::flat_hash_map<ObjectId, refcount::ReferenceTable> held_back_;
  std::vector<ObjectId> newly_held_back_;
  // Whether a question is being handled.
  bool being_asked_ = false;

 private:
  refcount::Publisher* const publisher_;
  refcount::Subscriber* const subscriber_;
};

// The operations of a ReferenceCounter that simulated processes use.
class FaultyCounter : private FaultyWire, private refcount::ReferenceCounter {
 public:
  FaultyCounter(Fault fault, const refcount::Dependencies& dependencies, refcount::Options options);

  using refcount::ReferenceCounter::AddNestedObjectIds;
  using refcount::ReferenceCounter::AddObjectRefDeletedCallback;
  using refcount::ReferenceCounter::DebugString;
  using refcount::ReferenceCounter::EvictLineage;
  using refcount::ReferenceCounter::FreePlasmaObjects;
  using refcount::ReferenceCounter::GetAllInScopeObjectIDs;
  using refcount::ReferenceCounter::HasReference;
  using refcount::ReferenceCounter::Size;
  using refcount::ReferenceCounter::UpdateObjectPendingCreation;

  // As those of ReferenceCounter with the same names.
  absl::Status AddLocalReference(const ObjectId& object_id);
  absl::Status RemoveLocalReference(const ObjectId& object_id);
  absl::Status AddOwnedObject(const refcount::OwnedObject& object);
  absl::Status AddBorrowedObject(const ObjectId& object_id, const ObjectId& outer_id,
                                 const refcount::Address& owner_address);
  absl::Status UpdateSubmittedTaskReferences(const std::vector<ObjectId>& return_ids,
                                             const std::vector<ObjectId>& argument_ids);
  absl::Status UpdateResubmittedTaskReferences(const std::vector<ObjectId>& argument_ids);
  absl::Status UpdateFinishedTaskReferences(const std::vector<ObjectId>& return_ids,
                                            const std::vector<ObjectId>& argument_ids, bool release_lineage,
                                            const refcount::Address& worker, refcount::ReferenceTable table);
  absl::StatusOr<refcount::ReferenceTable> PopAndClearLocalBorrowers(const std::vector<ObjectId>& borrowed_ids);
  absl::Status SubscribeRefRemoved(refcount::RefRemovedSubscription subscription);
  absl::Status HandleRefRemoved(const refcount::Address& borrower, refcount::RefRemovedMessage message);
  absl::Status HandlePublisherFailed(const refcount::Address& borrower, const ObjectId& object_id);
  void SetReleaseLineageCallback(refcount::LineageReleasedCallback callback);
  bool AddObjectOutOfScopeOrFreedCallback(const ObjectId& object_id, const refcount::ObjectCallback& callback);
  refcount::Stats GetStats() const;
  absl::Status CheckInvariants() const;

 private:
  bool Has(Fault fault) const { return fault_ == fault; }

  // --- Messages that come in

  // What is left of a report.
  void Receive(const std::vector<ObjectId>& roots, const refcount::Address& worker, refcount::ReferenceTable* table);
  // Merges a report, and does nothing else.
  absl::Status MergeOnly(const std::vector<ObjectId>& roots, const refcount::Address& worker,
                         const refcount::ReferenceTable& table);
  uint64_t RepeatedNotices() const;
  absl::Status FatalIfRepeated(const ObjectId& object_id, const refcount::Address& borrower, refcount::Notice notice,
                               uint64_t repeated_before) const;

  // --- The table

  // Damages the table after an operation; returns the operation's status.
  absl::Status Operated(absl::Status status);
  // Lets the counter see that nothing keeps these objects any more.
  void LookAtAgain(const std::vector<ObjectId>& object_ids);
  void ReleaseContentsEarly();
  void ForgetNestedUse();
  void ForgetHandedOver(const refcount::ReferenceTable& table);
  // As Ray, which does not note that an object went out of scope, and keeps what the object contains.
  void KeepContents();
  // As Ray, which does not release contents when it releases lineage.
  void ReleaseOnce(const std::vector<ObjectId>& object_ids);

  // Objects about which something was held back, and whose owner has not asked since.
  absl::flat_hash_set<ObjectId> kept_for_question_;
  // What borrowed objects contained after the last operation; for kReleasedAgain.
  absl::flat_hash_map<ObjectId, std::vector<ObjectId>> contents_;
  // The check of Ray's that would have ended the process.
  std::string check_failed_;
};

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_FAULTY_COUNTER_H_
