// Keeps track of the objects that this process uses, those that it owns, and the other processes that use them. This is
// Ray's ReferenceCounter as a library, with Ray's concepts and the names of its operations. docs/reference-counting.md
// explains the protocol.
//
// Faults it survives, besides what transport.h says messages may do:
// - Any number of notices about a borrower, by message, by failure or by both, in any order, before or after the object
//   is gone. The first notice cleans up. The others are counted, and logged at a bounded rate. New borrowers in a late
//   message are still merged into objects that live.
// - Subscriptions, locations and failures that arrive again.
// - A borrower that is reported again while its answer to an older question is in flight. It is asked again.
// - Borrowers, owners and processes between them that die at any point.
// A mistake of the caller (an unknown id, a count below zero) is an error that names the operation and the object, and
// changes nothing. A bug of this library itself is counted in Stats::broken_invariants and logged.
//
// Thread-safe. Publications, subscriptions and callbacks run in the order of their causes, one at a time, without the
// lock, on a thread that is in some operation. If only one thread calls, they run when its outermost operation returns.
// A callback may call every operation. The effects of that operation follow the callback.
//
// The time of an operation is at most linear in what it touches, apart from the growth of the hash table.

#ifndef MANTARAY_REFCOUNT_REFERENCE_COUNTER_H_
#define MANTARAY_REFCOUNT_REFERENCE_COUNTER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/clock.h"
#include "mantaray/common/ids.h"
#include "mantaray/common/mutex.h"
#include "mantaray/refcount/entry_table.h"
#include "mantaray/refcount/messages.h"
#include "mantaray/refcount/reference.h"
#include "mantaray/refcount/repeated_notices.h"
#include "mantaray/refcount/transport.h"

namespace mantaray::refcount {

// What the caller provides. Everything must outlive the reference counter.
struct Dependencies {
  Publisher* publisher;
  Subscriber* subscriber;
  const Clock* clock;
  // Returns whether a node is known to be dead. Optional.
  std::function<bool(const NodeId&)> is_node_dead;
  // Logs a line. Optional.
  std::function<void(const std::string&)> log;
};

struct Options {
  Address self;
  // Whether lost objects may be computed again, so that the lineage for this is kept.
  bool lineage_pinning = false;
};

struct Stats {
  // How many notices were repeated, by kind.
  uint64_t repeated_ref_removed = 0;
  uint64_t repeated_publisher_failed = 0;
  uint64_t repeated_subscriptions = 0;
  // How many reports were about objects that were gone.
  uint64_t reports_too_late = 0;
  // Always zero, unless this library has a bug.
  uint64_t broken_invariants = 0;
};

// The arguments with which an owner adds an object.
struct OwnedObject {
  ObjectId object_id;
  std::vector<ObjectId> contained_ids;
  std::string call_site;
  int64_t object_size_bytes = -1;  // negative: not known yet
  LineageReconstructionEligibility lineage_eligibility = LineageReconstructionEligibility::kEligible;
  bool add_local_ref = false;
  // The node that has the value; not set until the task that makes it has finished.
  std::optional<NodeId> pinned_at_node_id;
};

struct LocalityData {
  int64_t object_size_bytes;
  std::vector<NodeId> nodes;
};

// Where the primary copy of an object is that this process owns.
struct PinnedOrSpilled {
  bool owned_by_us = false;
  std::optional<NodeId> pinned_at;
  bool spilled = false;
};

struct ReferenceCounts {
  uint32_t local = 0;
  uint32_t submitted = 0;
};

// Called when the lineage of a return value is no longer needed. Returns how many bytes were freed, and the ids of the
// task's arguments that it kept (none while another return value of the task still needs them).
struct ReleasedLineage {
  std::vector<ObjectId> argument_ids;
  int64_t bytes = 0;
};
using LineageReleasedCallback = std::function<ReleasedLineage(const ObjectId&)>;

// A parameter `deleted` receives the ids of objects whose values no process needs any more.
class ReferenceCounter {
 public:
  ReferenceCounter(Dependencies dependencies, Options options);
  ReferenceCounter(const ReferenceCounter&) = delete;
  ReferenceCounter& operator=(const ReferenceCounter&) = delete;

  // --- What this process does with objects

  // Adds one use by this process. An unknown object gets an entry; AddBorrowedObject then names its owner.
  absl::Status AddLocalReference(const ObjectId& object_id, absl::string_view call_site = {})
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes one use. NotFound; FailedPrecondition if there is none.
  absl::Status RemoveLocalReference(const ObjectId& object_id, std::vector<ObjectId>* deleted = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes one use of each object that has one. The others are left alone, because the consumer of a generator may
  // have been faster.
  void TryReleaseLocalRefs(const std::vector<ObjectId>& object_ids, std::vector<ObjectId>* deleted = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes all uses, as at the end of a process.
  void ReleaseAllLocalReferences() ABSL_LOCKS_EXCLUDED(mutex_);

  // Adds a new object that this process owns. AlreadyExists.
  absl::Status AddOwnedObject(const OwnedObject& object) ABSL_LOCKS_EXCLUDED(mutex_);
  // Adds a return value that became known only when its task ran. If the generator is gone, nothing happens.
  absl::Status AddDynamicReturn(const ObjectId& object_id, const ObjectId& generator_id) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status OwnDynamicStreamingTaskReturnRef(const ObjectId& object_id, const ObjectId& generator_id)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Adds an object of another process, found in the value of `outer_id` (nil if it was not found in one). It is kept
  // only if it is used or was found in a borrowed object.
  absl::Status AddBorrowedObject(const ObjectId& object_id, const ObjectId& outer_id, const Address& owner_address,
                                 bool foreign_owner_already_monitoring = false) ABSL_LOCKS_EXCLUDED(mutex_);
  // Records that the value of `object_id`, whose owner is at `owner_address`, contains `inner_ids`. If this process is
  // that owner, they stay as long as the object. Otherwise the owner becomes a borrower of them.
  absl::Status AddNestedObjectIds(const ObjectId& object_id, const std::vector<ObjectId>& inner_ids,
                                  const Address& owner_address) ABSL_LOCKS_EXCLUDED(mutex_);
  // Adds a process that borrows an object from the start, because this process owns the object on its behalf.
  absl::Status AddBorrowerAddress(const ObjectId& object_id, const Address& borrower) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Tasks that this process submits

  // Arguments are used until the task has finished, and their lineage until it cannot run again. `to_remove` are the
  // arguments whose values were sent with the task. FailedPrecondition if one of them was not an argument.
  absl::Status UpdateSubmittedTaskReferences(const std::vector<ObjectId>& return_ids,
                                             const std::vector<ObjectId>& argument_ids_to_add,
                                             const std::vector<ObjectId>& argument_ids_to_remove = {},
                                             std::vector<ObjectId>* deleted = nullptr) ABSL_LOCKS_EXCLUDED(mutex_);
  // Records that the task runs again. NotFound if an argument is gone.
  absl::Status UpdateResubmittedTaskReferences(const std::vector<ObjectId>& argument_ids) ABSL_LOCKS_EXCLUDED(mutex_);
  // Records that the task has finished at `worker`, which reported `borrowed_refs`. Call it once for each run.
  // `release_lineage`: the task will not run again.
  absl::Status UpdateFinishedTaskReferences(const std::vector<ObjectId>& return_ids,
                                            const std::vector<ObjectId>& argument_ids, bool release_lineage,
                                            const Address& worker, const ReferenceTable& borrowed_refs,
                                            std::vector<ObjectId>* deleted = nullptr) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Tasks that this process runs

  // Records that the task with these arguments has finished. Removes the local reference with which the task held each
  // of them, and returns the report for the caller. The ids may include objects that this process owns.
  absl::StatusOr<ReferenceTable> PopAndClearLocalBorrowers(const std::vector<ObjectId>& borrowed_ids,
                                                           std::vector<ObjectId>* deleted = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Messages of the protocol

  // At a borrower: the owner asks it to report when the object is no longer used.
  absl::Status SubscribeRefRemoved(const RefRemovedSubscription& subscription) ABSL_LOCKS_EXCLUDED(mutex_);
  // At an owner: a borrower reports that it no longer uses the object, or passes on what it knows.
  absl::Status HandleRefRemoved(const Address& borrower, const RefRemovedMessage& message) ABSL_LOCKS_EXCLUDED(mutex_);
  // At an owner: the borrower cannot answer any more.
  absl::Status HandlePublisherFailed(const Address& borrower, const ObjectId& object_id) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Lineage

  // Call this once, before the first task is submitted.
  void SetReleaseLineageCallback(LineageReleasedCallback callback) ABSL_LOCKS_EXCLUDED(mutex_);
  // Drops the lineage of the oldest objects until at least that many bytes are freed; returns how many were freed.
  int64_t EvictLineage(int64_t min_bytes_to_evict) ABSL_LOCKS_EXCLUDED(mutex_);
  LineageReconstructionEligibility GetLineageReconstructionEligibility(const ObjectId& object_id) const
      ABSL_LOCKS_EXCLUDED(mutex_);

  // --- The end of objects

  // Calls back once, when no process needs the value any more or it is freed. False if this has happened already.
  bool AddObjectOutOfScopeOrFreedCallback(const ObjectId& object_id, ObjectCallback callback)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls back once, when the entry is deleted. False if there is none.
  bool AddObjectRefDeletedCallback(const ObjectId& object_id, ObjectCallback callback) ABSL_LOCKS_EXCLUDED(mutex_);
  // Frees values although they are in use. Unknown objects are left alone.
  void FreePlasmaObjects(const std::vector<ObjectId>& object_ids) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsPlasmaObjectFreed(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  bool TryMarkFreedObjectInUseAgain(const ObjectId& object_id) ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls back once, when the table is empty.
  void DrainAndShutdown(std::function<void()> shutdown) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Where objects are. Methods that return bool return false if the object is unknown.

  bool AddObjectLocation(const ObjectId& object_id, const NodeId& node_id) ABSL_LOCKS_EXCLUDED(mutex_);
  bool RemoveObjectLocation(const ObjectId& object_id, const NodeId& node_id) ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<std::vector<NodeId>> GetObjectLocations(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  void UpdateObjectSize(const ObjectId& object_id, int64_t object_size_bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status UpdateObjectPinnedAtRaylet(const ObjectId& object_id, const NodeId& node_id) ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<PinnedOrSpilled> IsPlasmaObjectPinnedOrSpilled(const ObjectId& object_id) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // A nil `spilled_node_id` means storage that every node can reach.
  bool HandleObjectSpilled(const ObjectId& object_id, const std::string& spilled_url, const NodeId& spilled_node_id)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void ResetObjectsOnRemovedNode(const NodeId& node_id) ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns the objects whose primary copy was lost since the last call.
  std::vector<ObjectId> FlushObjectsToRecover() ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<LocalityData> GetLocalityData(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  // For borrowed objects. FailedPrecondition if this process owns the object.
  absl::StatusOr<bool> ReportLocalityData(const ObjectId& object_id, const std::vector<NodeId>& locations,
                                          int64_t object_size_bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void UpdateObjectPendingCreation(const ObjectId& object_id, bool pending_creation) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsObjectPendingCreation(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  // A process subscribed to the object's locations: publishes the present ones, and every change from now on.
  void PublishObjectLocationSnapshot(const ObjectId& object_id) ABSL_LOCKS_EXCLUDED(mutex_);
  ObjectLocations FillObjectInformation(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Questions

  size_t Size() const ABSL_LOCKS_EXCLUDED(mutex_);
  size_t NumObjectIDsInScope() const { return Size(); }
  size_t NumObjectsOwnedByUs() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasReference(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  bool OwnedByUs(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<Address> GetOwner(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::flat_hash_set<ObjectId> GetAllInScopeObjectIDs() const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::flat_hash_map<ObjectId, ReferenceCounts> GetAllReferenceCounts() const ABSL_LOCKS_EXCLUDED(mutex_);
  Stats GetStats() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Describes one object in words, or says that there is none.
  std::string DebugString(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Checks that the table is consistent. Internal names the first object that is not. Linear in the size of the table.
  absl::Status CheckInvariants() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // From src/mantaray/sim: damages the table between operations, to check that the damage is found.
  friend class TableEdge;
  // Objects of which a use has just been removed. Usually there is one.
  using Unused = absl::InlinedVector<ObjectId, 2>;
  // The entries of a received table, by object.
  using Report = absl::flat_hash_map<ObjectId, const ObjectReferenceCount*>;
  class Operation;

  Reference* Find(const ObjectId& object_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const Reference* Find(const ObjectId& object_id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsSelf(const Address& address) const { return address == options_.self; }
  bool OutOfScope(const Reference& ref) const { return ref.OutOfScope(options_.lineage_pinning); }

  absl::Status AddOwned(const OwnedObject& object) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AddGenerated(const ObjectId& object_id, const ObjectId& generator_id, bool add_local_ref,
                            absl::string_view operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RemoveLocal(const ObjectId& object_id, std::vector<ObjectId>* deleted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddBorrowed(const ObjectId& object_id, const ObjectId& outer_id, const Address& owner_address)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddContainedInOwned(const ObjectId& object_id, const std::vector<ObjectId>& inner_ids)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddStoredIn(const ObjectId& object_id, const ObjectId& inner_id, const Address& owner_address)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSubmitted(const std::vector<ObjectId>& argument_ids, absl::string_view operation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddSubmitted(const ObjectId& argument_id, bool keep_lineage) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveSubmitted(const std::vector<ObjectId>& argument_ids, bool release_lineage, std::vector<ObjectId>* deleted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The reference is used again, so the objects in which it was found have something to report.
  void SetNestedRefInUse(const Reference& ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Returns what is known about borrowed objects and about the objects found in them. Objects that this process no
  // longer uses are handed over, and it forgets them. Objects that it still uses are reported and kept, until it
  // reports to the owner at the end. `told_to_owner`: this is that end, for the root.
  ReferenceTable Collect(const std::vector<ObjectId>& roots, const absl::flat_hash_map<ObjectId, uint32_t>& pins,
                         bool for_ref_removed, bool told_to_owner) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns the borrowed objects that are reachable from these, outer ones mostly before inner ones.
  std::vector<ObjectId> BorrowedWithin(const std::vector<ObjectId>& roots) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `to_owner`: only what was not yet reported to the owner. Messages to it arrive in order, so it has the rest.
  static ObjectReferenceCount Describe(const ObjectId& object_id, Reference* ref, bool in_use, bool to_owner);
  void Merge(const std::vector<ObjectId>& roots, const Address& worker, const ReferenceTable& table)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MergeOne(const ObjectReferenceCount& reported, const Address& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MakeReported(const ObjectReferenceCount& reported) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns whether the borrower is new.
  bool AddBorrower(const ObjectId& object_id, Reference* ref, const Address& borrower,
                   const ObjectId& contained_in_id = ObjectId()) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WaitForRefRemoved(const ObjectId& object_id, Borrower* borrower, const ObjectId& contained_in_id = ObjectId())
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CleanupBorrower(const ObjectId& object_id, const Address& borrower, Notice first)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Repeated(const ObjectId& object_id, const Address& borrower, Notice again)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PublishIfUnused(const ObjectId& object_id, Reference* ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void DeleteIfUnused(const ObjectId& object_id, std::vector<ObjectId>* deleted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReleaseContents(const ObjectId& object_id, Reference* ref, Unused* unused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnOutOfScopeOrFreed(const ObjectId& object_id, Reference* ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Erase(EntryTable::iterator it) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t ReleaseLineage(const ObjectId& object_id) ABSL_LOCKS_EXCLUDED(mutex_);
  void UnsetPrimaryCopy(Reference* ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetPendingCreation(const ObjectId& object_id, bool pending_creation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  ObjectLocations LocationsOf(const ObjectId& object_id, const Reference& ref) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PushLocations(const ObjectId& object_id, const Reference& ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Log(std::string line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BrokenInvariant(absl::string_view operation, const ObjectId& object_id, absl::string_view what)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Queues an effect, which runs without the lock after the effects that are queued already.
  void Later(std::function<void()> effect) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunEffects() ABSL_LOCKS_EXCLUDED(mutex_);

  const Dependencies dependencies_;
  const Options options_;

  mutable Mutex mutex_;
  EntryTable table_ ABSL_GUARDED_BY(mutex_);
  size_t num_owned_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_question_ ABSL_GUARDED_BY(mutex_) = 0;
  RepeatedNotices repeated_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
  LineageReleasedCallback on_lineage_released_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> shutdown_ ABSL_GUARDED_BY(mutex_);
  std::vector<ObjectId> objects_to_recover_ ABSL_GUARDED_BY(mutex_);
  // Objects that can be computed again, oldest first. Some may be gone; they are removed when they are the majority.
  std::deque<ObjectId> reconstructable_ ABSL_GUARDED_BY(mutex_);
  size_t num_reconstructable_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::function<void()>> effects_ ABSL_GUARDED_BY(mutex_);
  bool running_effects_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_REFERENCE_COUNTER_H_
