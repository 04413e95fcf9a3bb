// Which objects this process uses, which it owns and who else uses those: Ray's ReferenceCounter, with its concepts and
// its operations' names, as a library. docs/reference-counting.md explains the protocol.
//
// Survives, besides what transport.h says messages may do:
// - clean-up of a borrower notified any number of times, by message, by failure or by both, in any order, before or
// after
//   the object is gone: the first one works, the others are counted and logged at a bounded rate; new borrowers that a
//   late message names are still merged into objects that live;
// - subscriptions, locations and failures that come again;
// - a borrower that is reported again while its answer to an older question is on the way (it is asked again);
// - borrowers, owners and processes between them that die at any point.
// What a caller cannot have meant (an id that is not there, a count below zero) is an error that names operation and
// object, and changes nothing. A bug of this library itself is counted in Stats::broken_invariants and logged.
//
// Thread-safe. Publications, subscriptions and callbacks are made in the order of what caused them, one at a time,
// after the lock was given up, by a thread that is in some operation; when only one thread calls, they are made when
// its outermost operation returns. A callback may call every operation; its own effects come after it.
//
// No operation takes longer than linear in what it touches, apart from the growth of the hash table.

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
#include "mantaray/refcount/faults.h"
#include "mantaray/refcount/messages.h"
#include "mantaray/refcount/reference.h"
#include "mantaray/refcount/repeated_notices.h"
#include "mantaray/refcount/transport.h"

namespace mantaray::refcount {

// What the outside provides. Everything outlives the reference counter.
struct Dependencies {
  Publisher* publisher;
  Subscriber* subscriber;
  const Clock* clock;
  // Whether a node is known to be dead. Optional.
  std::function<bool(const NodeId&)> is_node_dead;
  // Takes a line to log. Optional.
  std::function<void(const std::string&)> log;
};

struct Options {
  Address self;
  // Whether lost objects may be made again, so that what that takes is kept.
  bool lineage_pinning = false;
};

struct Stats {
  // Notices that came again, by kind.
  uint64_t repeated_ref_removed = 0;
  uint64_t repeated_publisher_failed = 0;
  uint64_t repeated_subscriptions = 0;
  // Reports about objects that were gone.
  uint64_t reports_too_late = 0;
  // Always zero, unless this library has a bug.
  uint64_t broken_invariants = 0;
};

// What an owner gives when it makes an object.
struct OwnedObject {
  ObjectId object_id;
  std::vector<ObjectId> contained_ids;
  std::string call_site;
  int64_t object_size_bytes = -1;  // negative: not known yet
  LineageReconstructionEligibility lineage_eligibility = LineageReconstructionEligibility::kEligible;
  bool add_local_ref = false;
  // Where the value is; nothing while the task that makes it has not finished.
  std::optional<NodeId> pinned_at_node_id;
};

struct LocalityData {
  int64_t object_size_bytes;
  std::vector<NodeId> nodes;
};

// Where the primary copy of an object that we own is.
struct PinnedOrSpilled {
  bool owned_by_us = false;
  std::optional<NodeId> pinned_at;
  bool spilled = false;
};

struct ReferenceCounts {
  uint32_t local = 0;
  uint32_t submitted = 0;
};

// The lineage of a return value is no longer needed. Returns the ids of the task's arguments that it kept, none while
// another of the task's return values still needs them, and how many bytes were freed.
struct ReleasedLineage {
  std::vector<ObjectId> argument_ids;
  int64_t bytes = 0;
};
using LineageReleasedCallback = std::function<ReleasedLineage(const ObjectId&)>;

// Objects whose values nobody needs any more are appended to `deleted` where a parameter of that name is given.
template <typename Faults>
class BasicReferenceCounter {
 public:
  BasicReferenceCounter(Dependencies dependencies, Options options, Faults faults = Faults());
  BasicReferenceCounter(const BasicReferenceCounter&) = delete;
  BasicReferenceCounter& operator=(const BasicReferenceCounter&) = delete;

  // --- What this process does with objects

  // One more use by this process. An unknown object gets an entry whose owner AddBorrowedObject names.
  absl::Status AddLocalReference(const ObjectId& object_id, absl::string_view call_site = {})
      ABSL_LOCKS_EXCLUDED(mutex_);
  // One less. NotFound, FailedPrecondition when there is none.
  absl::Status RemoveLocalReference(const ObjectId& object_id, std::vector<ObjectId>* deleted = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // One less for each that has one; others are left alone, because a generator's consumer may have been there first.
  void TryReleaseLocalRefs(const std::vector<ObjectId>& object_ids, std::vector<ObjectId>* deleted = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // All of them, as when the process ends its work.
  void ReleaseAllLocalReferences() ABSL_LOCKS_EXCLUDED(mutex_);

  // A new object of ours. AlreadyExists.
  absl::Status AddOwnedObject(const OwnedObject& object) ABSL_LOCKS_EXCLUDED(mutex_);
  // Return values that a task made known only when it ran. Nothing happens when the generator is gone.
  absl::Status AddDynamicReturn(const ObjectId& object_id, const ObjectId& generator_id) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status OwnDynamicStreamingTaskReturnRef(const ObjectId& object_id, const ObjectId& generator_id)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // An object of somebody else, found in the value of `outer_id` (nil: not found in one). Kept only if it is used or
  // found in a borrowed object.
  absl::Status AddBorrowedObject(const ObjectId& object_id, const ObjectId& outer_id, const Address& owner_address,
                                 bool foreign_owner_already_monitoring = false) ABSL_LOCKS_EXCLUDED(mutex_);
  // `object_id`'s value, which belongs to the process at `owner_address`, contains `inner_ids`. When that is this
  // process, they stay as long as the object; otherwise its owner becomes a borrower of theirs.
  absl::Status AddNestedObjectIds(const ObjectId& object_id, const std::vector<ObjectId>& inner_ids,
                                  const Address& owner_address) ABSL_LOCKS_EXCLUDED(mutex_);
  // A process known to borrow an object of ours from the start, because we own it on its behalf.
  absl::Status AddBorrowerAddress(const ObjectId& object_id, const Address& borrower) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Tasks that this process submits

  // Arguments are used until the task has finished, and their lineage until it cannot run again. `to_remove`: arguments
  // whose values went along with the task. FailedPrecondition when one of those was not an argument.
  absl::Status UpdateSubmittedTaskReferences(const std::vector<ObjectId>& return_ids,
                                             const std::vector<ObjectId>& argument_ids_to_add,
                                             const std::vector<ObjectId>& argument_ids_to_remove = {},
                                             std::vector<ObjectId>* deleted = nullptr) ABSL_LOCKS_EXCLUDED(mutex_);
  // The task runs again. NotFound when an argument is gone.
  absl::Status UpdateResubmittedTaskReferences(const std::vector<ObjectId>& argument_ids) ABSL_LOCKS_EXCLUDED(mutex_);
  // The task has finished at `worker`, which reported `borrowed_refs`. To be called once for each run.
  // `release_lineage`: it will not run again.
  absl::Status UpdateFinishedTaskReferences(const std::vector<ObjectId>& return_ids,
                                            const std::vector<ObjectId>& argument_ids, bool release_lineage,
                                            const Address& worker, const ReferenceTable& borrowed_refs,
                                            std::vector<ObjectId>* deleted = nullptr) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Tasks that this process runs

  // The task with these arguments, each held by one local reference for its sake, has finished: gives that back, and
  // returns what the caller has to know. Ids of objects that we own are fine.
  absl::StatusOr<ReferenceTable> PopAndClearLocalBorrowers(const std::vector<ObjectId>& borrowed_ids,
                                                           std::vector<ObjectId>* deleted = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Messages of the protocol

  // At a borrower: the owner asks to be told when the object is no longer used.
  absl::Status SubscribeRefRemoved(const RefRemovedSubscription& subscription) ABSL_LOCKS_EXCLUDED(mutex_);
  // At an owner: a borrower said that it no longer uses the object, or passes on what it knows.
  absl::Status HandleRefRemoved(const Address& borrower, const RefRemovedMessage& message) ABSL_LOCKS_EXCLUDED(mutex_);
  // At an owner: the borrower cannot answer any more.
  absl::Status HandlePublisherFailed(const Address& borrower, const ObjectId& object_id) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Lineage

  // Once, before the first task is submitted.
  void SetReleaseLineageCallback(LineageReleasedCallback callback) ABSL_LOCKS_EXCLUDED(mutex_);
  // Gives up the lineage of the oldest objects until at least that many bytes are freed; returns how many were.
  int64_t EvictLineage(int64_t min_bytes_to_evict) ABSL_LOCKS_EXCLUDED(mutex_);
  LineageReconstructionEligibility GetLineageReconstructionEligibility(const ObjectId& object_id) const
      ABSL_LOCKS_EXCLUDED(mutex_);

  // --- The end of objects

  // Calls back once, when nobody needs the value any more or it is freed. False: that is so already.
  bool AddObjectOutOfScopeOrFreedCallback(const ObjectId& object_id, ObjectCallback callback)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls back once, when the entry is deleted. False: there is none.
  bool AddObjectRefDeletedCallback(const ObjectId& object_id, ObjectCallback callback) ABSL_LOCKS_EXCLUDED(mutex_);
  // Frees values although they are in use. Unknown objects are left alone.
  void FreePlasmaObjects(const std::vector<ObjectId>& object_ids) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsPlasmaObjectFreed(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  bool TryMarkFreedObjectInUseAgain(const ObjectId& object_id) ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls back once, when the table is empty.
  void DrainAndShutdown(std::function<void()> shutdown) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Where objects are. Those that return bool return false when the object is unknown.

  bool AddObjectLocation(const ObjectId& object_id, const NodeId& node_id) ABSL_LOCKS_EXCLUDED(mutex_);
  bool RemoveObjectLocation(const ObjectId& object_id, const NodeId& node_id) ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<std::vector<NodeId>> GetObjectLocations(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  void UpdateObjectSize(const ObjectId& object_id, int64_t object_size_bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status UpdateObjectPinnedAtRaylet(const ObjectId& object_id, const NodeId& node_id) ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<PinnedOrSpilled> IsPlasmaObjectPinnedOrSpilled(const ObjectId& object_id) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // `spilled_node_id` nil: to storage that every node reaches.
  bool HandleObjectSpilled(const ObjectId& object_id, const std::string& spilled_url, const NodeId& spilled_node_id)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void ResetObjectsOnRemovedNode(const NodeId& node_id) ABSL_LOCKS_EXCLUDED(mutex_);
  // Objects whose primary copy was lost since the last call.
  std::vector<ObjectId> FlushObjectsToRecover() ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<LocalityData> GetLocalityData(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  // For borrowed objects. FailedPrecondition when we own it.
  absl::StatusOr<bool> ReportLocalityData(const ObjectId& object_id, const std::vector<NodeId>& locations,
                                          int64_t object_size_bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void UpdateObjectPendingCreation(const ObjectId& object_id, bool pending_creation) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsObjectPendingCreation(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Somebody subscribed to the object's locations: publishes what they are now, and every change from now on.
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
  // One object in words, or that there is none.
  std::string DebugString(const ObjectId& object_id) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether the table agrees with itself; Internal names the first object that does not. Linear in the table.
  absl::Status CheckInvariants() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Objects of which somebody has let go just now; mostly one.
  using Unused = absl::InlinedVector<ObjectId, 2>;
  // The entries of a received table by object.
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
  // The reference is used again: objects that it was found in have something to report.
  void SetNestedRefInUse(const Reference& ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // What is known about borrowed objects and what was found in them. What this process has no use for any more is
  // handed over: it is forgotten here. What it goes on using it tells, and keeps, until it tells the owner at the end.
  // `told_to_owner`: this is that end, for the root.
  ReferenceTable Collect(const std::vector<ObjectId>& roots, const absl::flat_hash_map<ObjectId, uint32_t>& pins,
                         bool for_ref_removed, bool told_to_owner) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Borrowed objects reachable from these, the outer ones mostly before the inner ones.
  std::vector<ObjectId> BorrowedWithin(const std::vector<ObjectId>& roots) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `to_owner`: only what the owner was not told yet. Its messages come in order, so it has the rest.
  static ObjectReferenceCount Describe(const ObjectId& object_id, Reference* ref, bool in_use, bool to_owner,
                                       Faults faults);
  void Merge(const std::vector<ObjectId>& roots, const Address& worker, const ReferenceTable& table)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MergeOne(const ObjectReferenceCount& reported, const Address& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MakeReported(const ObjectReferenceCount& reported) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns whether it is new.
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
  // To be done without the lock, after what is there already.
  void Later(std::function<void()> effect) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunEffects() ABSL_LOCKS_EXCLUDED(mutex_);

  const Dependencies dependencies_;
  const Options options_;
  [[no_unique_address]] const Faults faults_;

  mutable Mutex mutex_;
  EntryTable table_ ABSL_GUARDED_BY(mutex_);
  size_t num_owned_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_question_ ABSL_GUARDED_BY(mutex_) = 0;
  RepeatedNotices repeated_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
  LineageReleasedCallback on_lineage_released_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> shutdown_ ABSL_GUARDED_BY(mutex_);
  std::vector<ObjectId> objects_to_recover_ ABSL_GUARDED_BY(mutex_);
  // Objects that can be made again, oldest first. Some are gone already; they are swept when they are the majority.
  std::deque<ObjectId> reconstructable_ ABSL_GUARDED_BY(mutex_);
  size_t num_reconstructable_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::function<void()>> effects_ ABSL_GUARDED_BY(mutex_);
  bool running_effects_ ABSL_GUARDED_BY(mutex_) = false;
};

using ReferenceCounter = BasicReferenceCounter<NoFaults>;

extern template class BasicReferenceCounter<NoFaults>;

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_REFERENCE_COUNTER_H_
