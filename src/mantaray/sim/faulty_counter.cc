// See faulty_counter.h.

#include "mantaray/sim/faulty_counter.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "mantaray/common/mutex.h"
#include "mantaray/refcount/entry_table.h"
#include "mantaray/refcount/repeated_notices.h"

namespace mantaray::refcount {

// The table of a reference counter between two operations.
class TableEdge {
 public:
  template <typename Edit>
  static void Change(ReferenceCounter* counter, const Edit& edit) {
    const MutexLock lock(&counter->mutex_);
    edit(&counter->table_);
  }
};

}  // namespace mantaray::refcount

namespace mantaray::sim {

using refcount::Address;
using refcount::EntryTable;
using refcount::NameOf;
using refcount::Notice;
using refcount::ObjectReferenceCount;
using refcount::Reference;
using refcount::ReferenceTable;
using refcount::RefRemovedMessage;
using refcount::RefRemovedSubscription;
using refcount::TableEdge;

// --- Messages that go out

void FaultyWire::PublishRefRemoved(const Address& owner, const RefRemovedMessage& message) {
  // The answer to a question that came when the object was in use no longer is the one that is forgotten.
  if (fault_ == Fault::kAnswerForgotten && !being_asked_) return;
  RefRemovedMessage sent = message;
  if (fault_ == Fault::kUnaskedReportKept) {
    ReferenceTable& held_back = held_back_[message.object_id];
    held_back.insert(held_back.end(), message.borrowed_refs.begin(), message.borrowed_refs.end());
    if (message.numbers.empty()) {
      newly_held_back_.push_back(message.object_id);
      return;
    }
    sent.borrowed_refs = std::move(held_back);
    held_back_.erase(message.object_id);
  }
  for (ObjectReferenceCount& told : sent.borrowed_refs) {
    if (fault_ == Fault::kBorrowersNotReported) told.borrowers.clear();
    if (fault_ == Fault::kStoredInNotReported) told.stored_in_objects.clear();
  }
  publisher_->PublishRefRemoved(owner, sent);
}

void FaultyWire::PublishObjectLocations(const refcount::ObjectLocations& locations) {
  publisher_->PublishObjectLocations(locations);
}

void FaultyWire::PublishFailure(const ObjectId& object_id) { publisher_->PublishFailure(object_id); }

void FaultyWire::SubscribeRefRemoved(const Address& borrower, const RefRemovedSubscription& subscription) {
  asked_[Borrowing(subscription.object_id, borrower.worker_id)].push_back(subscription.number);
  if (fault_ == Fault::kBorrowerWithoutSubscription) return;
  subscriber_->SubscribeRefRemoved(borrower, subscription);
}

void FaultyWire::UnsubscribeRefRemoved(const Address& borrower, const ObjectId& object_id) {
  asked_.erase(Borrowing(object_id, borrower.worker_id));
  subscriber_->UnsubscribeRefRemoved(borrower, object_id);
}

// --- The counter

FaultyCounter::FaultyCounter(Fault fault, const refcount::Dependencies& dependencies, refcount::Options options)
    : FaultyWire(fault, dependencies),
      ReferenceCounter(
          refcount::Dependencies{this, this, dependencies.clock, dependencies.is_node_dead,
                                 [this](const std::string& line) {
                                   if (check_failed_.empty() && absl::StrContains(line, "in ReleaseContents") &&
                                       absl::StrContains(line, "does not know that it is contained in another")) {
                                     check_failed_ =
                                         absl::StrCat("check failed: contained_in_borrowed_ids.erase(id): ", line);
                                   }
                                 }},
          std::move(options)) {}

absl::Status FaultyCounter::AddLocalReference(const ObjectId& object_id) {
  return Operated(ReferenceCounter::AddLocalReference(object_id));
}

absl::Status FaultyCounter::RemoveLocalReference(const ObjectId& object_id) {
  return Operated(ReferenceCounter::RemoveLocalReference(object_id));
}

absl::Status FaultyCounter::AddOwnedObject(const refcount::OwnedObject& object) {
  return Operated(ReferenceCounter::AddOwnedObject(object));
}

absl::Status FaultyCounter::AddBorrowedObject(const ObjectId& object_id, const ObjectId& outer_id,
                                              const Address& owner_address) {
  return Operated(ReferenceCounter::AddBorrowedObject(object_id, outer_id, owner_address));
}

absl::Status FaultyCounter::UpdateSubmittedTaskReferences(const std::vector<ObjectId>& return_ids,
                                                          const std::vector<ObjectId>& argument_ids) {
  return Operated(ReferenceCounter::UpdateSubmittedTaskReferences(return_ids, argument_ids));
}

absl::Status FaultyCounter::UpdateResubmittedTaskReferences(const std::vector<ObjectId>& argument_ids) {
  if (Has(Fault::kResubmissionNotCounted)) return absl::OkStatus();
  return Operated(ReferenceCounter::UpdateResubmittedTaskReferences(argument_ids));
}

absl::Status FaultyCounter::UpdateFinishedTaskReferences(const std::vector<ObjectId>& return_ids,
                                                         const std::vector<ObjectId>& argument_ids,
                                                         bool release_lineage, const Address& worker,
                                                         ReferenceTable table) {
  Receive(argument_ids, worker, &table);
  ReferenceTable late;
  if (Has(Fault::kReleasedBeforeMerge)) late.swap(table);
  if (Has(Fault::kNestedUseNotPropagated)) {
    // The note of a nested use is lost before anything is released.
    absl::Status merged = Operated(MergeOnly(argument_ids, worker, table));
    if (!merged.ok()) return merged;
    table.clear();
  }
  absl::Status finished = Operated(
      ReferenceCounter::UpdateFinishedTaskReferences(return_ids, argument_ids, release_lineage, worker, table));
  return finished.ok() ? MergeOnly(argument_ids, worker, late) : finished;
}

absl::StatusOr<ReferenceTable> FaultyCounter::PopAndClearLocalBorrowers(const std::vector<ObjectId>& borrowed_ids) {
  absl::flat_hash_set<ObjectId> only_pinned;
  if (Has(Fault::kPinDeductedTwice)) {
    for (const auto& [object_id, counts] : GetAllReferenceCounts()) {
      const auto pins = std::count(borrowed_ids.begin(), borrowed_ids.end(), object_id);
      if (counts.local + counts.submitted <= 2 * pins) only_pinned.insert(object_id);
    }
  }
  absl::StatusOr<ReferenceTable> table = ReferenceCounter::PopAndClearLocalBorrowers(borrowed_ids);
  if (!table.ok()) return table;
  for (ObjectReferenceCount& told : *table) {
    if (only_pinned.contains(told.object_id)) told.has_local_ref = false;
    if (Has(Fault::kBorrowersNotReported)) told.borrowers.clear();
    if (Has(Fault::kStoredInNotReported)) told.stored_in_objects.clear();
  }
  if (Has(Fault::kHandedOverWhileInUse)) ForgetHandedOver(*table);
  absl::Status operated = Operated(absl::OkStatus());
  if (!operated.ok()) return operated;
  return table;
}

absl::Status FaultyCounter::SubscribeRefRemoved(RefRemovedSubscription subscription) {
  const ObjectId object_id = subscription.object_id;
  if (Has(Fault::kContainedInIgnored)) subscription.contained_in_id = ObjectId();
  if (Has(Fault::kAnsweredWhileInUse)) {
    PublishRefRemoved(subscription.owner_address, {object_id, {subscription.number}, {}});
    return absl::OkStatus();
  }
  being_asked_ = true;
  absl::Status asked = ReferenceCounter::SubscribeRefRemoved(subscription);
  being_asked_ = false;
  if (asked.ok() && kept_for_question_.erase(object_id) > 0) asked = ReferenceCounter::RemoveLocalReference(object_id);
  return Operated(std::move(asked));
}

absl::Status FaultyCounter::HandleRefRemoved(const Address& borrower, RefRemovedMessage message) {
  const auto asked = asked_.find(Borrowing(message.object_id, borrower.worker_id));
  if (Has(Fault::kLateMergeDropped) && asked == asked_.end()) message.borrowed_refs.clear();
  if (Has(Fault::kOldAnswerAccepted) && asked != asked_.end() && !message.numbers.empty()) {
    message.numbers = asked->second;
  }
  Receive({message.object_id}, borrower, &message.borrowed_refs);
  const uint64_t repeated = RepeatedNotices();
  absl::Status handled = ReferenceCounter::HandleRefRemoved(borrower, message);
  if (handled.ok()) handled = FatalIfRepeated(message.object_id, borrower, Notice::kRefRemoved, repeated);
  return Operated(std::move(handled));
}

absl::Status FaultyCounter::HandlePublisherFailed(const Address& borrower, const ObjectId& object_id) {
  if (Has(Fault::kFailureIgnored)) return absl::OkStatus();
  const uint64_t repeated = RepeatedNotices();
  absl::Status handled = ReferenceCounter::HandlePublisherFailed(borrower, object_id);
  asked_.erase(Borrowing(object_id, borrower.worker_id));
  if (handled.ok()) handled = FatalIfRepeated(object_id, borrower, Notice::kPublisherFailed, repeated);
  return Operated(std::move(handled));
}

void FaultyCounter::SetReleaseLineageCallback(refcount::LineageReleasedCallback callback) {
  ReferenceCounter::SetReleaseLineageCallback([this, callback = std::move(callback)](const ObjectId& object_id) {
    refcount::ReleasedLineage released = callback(object_id);
    if (Has(Fault::kLineageLeaked)) released.argument_ids.clear();
    if (Has(Fault::kReleasedAgain)) ReleaseOnce(released.argument_ids);
    return released;
  });
}

bool FaultyCounter::AddObjectOutOfScopeOrFreedCallback(const ObjectId& object_id,
                                                       const refcount::ObjectCallback& callback) {
  if (!ReferenceCounter::AddObjectOutOfScopeOrFreedCallback(object_id, callback)) return false;
  if (Has(Fault::kCallbackKept)) AddObjectRefDeletedCallback(object_id, callback);
  return true;
}

refcount::Stats FaultyCounter::GetStats() const {
  refcount::Stats stats = ReferenceCounter::GetStats();
  // They end the process, as check_failed_ says.
  if (Has(Fault::kReleasedAgain)) stats.broken_invariants = 0;
  return stats;
}

absl::Status FaultyCounter::CheckInvariants() const {
  if (!Has(Fault::kReleasedAgain)) return ReferenceCounter::CheckInvariants();
  // Ray looks at a table only where it changes the table.
  return check_failed_.empty() ? absl::OkStatus() : absl::InternalError(check_failed_);
}

// --- Messages that come in

void FaultyCounter::Receive(const std::vector<ObjectId>& roots, const Address& worker, ReferenceTable* table) {
  if (Has(Fault::kNestedNotMerged)) {
    std::erase_if(*table, [&](const ObjectReferenceCount& told) {
      return std::find(roots.begin(), roots.end(), told.object_id) == roots.end();
    });
  }
  if (Has(Fault::kBorrowersNotMerged)) {
    for (ObjectReferenceCount& told : *table) told.borrowers.clear();
  }
  if (Has(Fault::kSecondReportForgotten)) {
    for (ObjectReferenceCount& told : *table) {
      if (asked_.contains(Borrowing(told.object_id, worker.worker_id))) told.has_local_ref = false;
      std::erase_if(told.borrowers, [&](const Address& borrower) {
        return asked_.contains(Borrowing(told.object_id, borrower.worker_id));
      });
    }
  }
  if (Has(Fault::kResurrectedByReport)) {
    TableEdge::Change(this, [&](EntryTable* entries) {
      for (const ObjectReferenceCount& told : *table) entries->FindOrAdd(told.object_id);
    });
  }
}

absl::Status FaultyCounter::MergeOnly(const std::vector<ObjectId>& roots, const Address& worker,
                                      const ReferenceTable& table) {
  // A message that answers no question only passes on what it says.
  for (const ObjectId& root : roots) {
    absl::Status merged = ReferenceCounter::HandleRefRemoved(worker, {root, {}, table});
    if (!merged.ok()) return merged;
  }
  return absl::OkStatus();
}

uint64_t FaultyCounter::RepeatedNotices() const {
  const refcount::Stats stats = ReferenceCounter::GetStats();
  return stats.repeated_ref_removed + stats.repeated_publisher_failed;
}

absl::Status FaultyCounter::FatalIfRepeated(const ObjectId& object_id, const Address& borrower, Notice notice,
                                            uint64_t repeated_before) const {
  if (!Has(Fault::kSecondNoticeFatal) || RepeatedNotices() == repeated_before) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("check failed: borrowers.erase(", borrower.worker_id.Hex(), ") for object ",
                                          object_id.Hex(), ", notice: ", NameOf(notice)));
}

// --- The table

absl::Status FaultyCounter::Operated(absl::Status status) {
  if (Has(Fault::kNestedReleasedEarly)) ReleaseContentsEarly();
  if (Has(Fault::kNestedUseNotPropagated)) ForgetNestedUse();
  if (Has(Fault::kReleasedAgain)) KeepContents();
  // An object about which something was held back stays until its owner asks.
  for (const ObjectId& object_id : std::exchange(newly_held_back_, {})) {
    if (!kept_for_question_.insert(object_id).second) continue;
    if (absl::Status kept = ReferenceCounter::AddLocalReference(object_id); !kept.ok()) return kept;
  }
  return status;
}

void FaultyCounter::LookAtAgain(const std::vector<ObjectId>& object_ids) {
  for (const ObjectId& object_id : object_ids) {
    ReferenceCounter::AddLocalReference(object_id).IgnoreError();
    ReferenceCounter::RemoveLocalReference(object_id).IgnoreError();
  }
}

void FaultyCounter::ReleaseContentsEarly() {
  std::vector<ObjectId> released;
  TableEdge::Change(this, [&](EntryTable* entries) {
    for (const auto& [outer_id, outer] : *entries) {
      if (!outer.owned_by_us || outer.RefCount() > 0 || outer.extra == nullptr) continue;
      for (const ObjectId& inner_id : std::exchange(outer.extra->nested.contains, {})) {
        entries->Find(inner_id)->extra->nested.contained_in_owned.Erase(outer_id);
        released.push_back(inner_id);
      }
    }
  });
  LookAtAgain(released);
}

void FaultyCounter::ForgetNestedUse() {
  std::vector<ObjectId> unused;
  TableEdge::Change(this, [&](EntryTable* entries) {
    for (const auto& [object_id, ref] : *entries) {
      if (ref.has_nested_refs_to_report && ref.RefCount() == 0) unused.push_back(object_id);
      ref.has_nested_refs_to_report = false;
    }
  });
  if (unused.empty()) return;
  LookAtAgain(unused);
  // Looking at them makes notes of the same kind, further out.
  ForgetNestedUse();
}

void FaultyCounter::ForgetHandedOver(const ReferenceTable& table) {
  TableEdge::Change(this, [&](EntryTable* entries) {
    for (const ObjectReferenceCount& told : table) {
      Reference* const ref = entries->Find(told.object_id);
      if (!told.has_local_ref || ref == nullptr) continue;
      if (ref->extra != nullptr) ref->extra->borrow.reset();
      ref->has_nested_refs_to_report = false;
    }
  });
}

void FaultyCounter::KeepContents() {
  TableEdge::Change(this, [&](EntryTable* entries) {
    for (const auto& [object_id, ref] : *entries) {
      if (ref.owned_by_us || ref.extra == nullptr) continue;
      std::vector<ObjectId>& contains = ref.extra->nested.contains;
      std::vector<ObjectId>& kept = contents_[object_id];
      if (ref.out_of_scope) {
        contains = kept;
        // Ray has no note that this happened.
        ref.out_of_scope = false;
      }
      std::vector<ObjectId> now;
      for (const ObjectId& inner_id : contains) {
        const bool listed = std::find(now.begin(), now.end(), inner_id) != now.end();
        if (!listed && entries->Find(inner_id) != nullptr) now.push_back(inner_id);
      }
      contains = now;
      kept = std::move(now);
    }
    absl::erase_if(contents_, [&](const auto& kept) { return entries->Find(kept.first) == nullptr; });
  });
}

void FaultyCounter::ReleaseOnce(const std::vector<ObjectId>& object_ids) {
  TableEdge::Change(this, [&](EntryTable* entries) {
    for (const ObjectId& object_id : object_ids) {
      Reference* const ref = entries->Find(object_id);
      if (ref == nullptr || ref->owned_by_us || !ref->OutOfScope(/*lineage_pinning=*/true)) continue;
      ref->out_of_scope = true;
      if (ref->extra != nullptr) ref->extra->nested.contains.clear();
    }
  });
}

}  // namespace mantaray::sim
