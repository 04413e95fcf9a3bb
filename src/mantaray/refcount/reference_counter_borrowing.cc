// The protocol between owners and borrowers: reports, questions, answers and notices.
// See reference_counter.h.

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mantaray/refcount/reference_counter.h"
#include "mantaray/refcount/reference_counter_internal.h"

namespace mantaray::refcount {

// --- Reports of borrowers

absl::StatusOr<ReferenceTable> ReferenceCounter::PopAndClearLocalBorrowers(const std::vector<ObjectId>& borrowed_ids,
                                                                           std::vector<ObjectId>* deleted) {
  Operation operation(this);
  absl::flat_hash_map<ObjectId, uint32_t> pins;
  for (const ObjectId& borrowed_id : borrowed_ids) {
    const Reference* const ref = Find(borrowed_id);
    if (ref == nullptr) return UnknownObject("PopAndClearLocalBorrowers", borrowed_id);
    if (++pins[borrowed_id] > ref->local_ref_count) {
      return Misused("PopAndClearLocalBorrowers", borrowed_id, "is not held by a local reference for the task");
    }
  }
  ReferenceTable table = Collect(borrowed_ids, pins, /*for_ref_removed=*/false, /*told_to_owner=*/false);
  for (const ObjectId& borrowed_id : borrowed_ids) {
    if (absl::Status removed = RemoveLocal(borrowed_id, deleted); !removed.ok()) {
      BrokenInvariant("PopAndClearLocalBorrowers", borrowed_id, removed.message());
    }
  }
  return table;
}

ObjectReferenceCount ReferenceCounter::Describe(const ObjectId& object_id, Reference* ref, bool in_use, bool to_owner) {
  ObjectReferenceCount described;
  described.object_id = object_id;
  described.has_local_ref = in_use;
  if (ref->extra == nullptr) return described;
  if (ref->extra->owner_address) described.owner_address = *ref->extra->owner_address;
  if (ref->extra->borrow != nullptr) {
    for (auto& [worker_id, borrower] : ref->extra->borrow->borrowers) {
      if (to_owner && std::exchange(borrower.owner_told, true)) continue;
      described.borrowers.push_back(borrower.address);
    }
    for (auto& [return_id, stored_in] : ref->extra->borrow->stored_in_objects) {
      if (to_owner && std::exchange(stored_in.owner_told, true)) continue;
      described.stored_in_objects.emplace_back(return_id, stored_in.owner);
    }
  }
  for (const auto& [outer_id, nothing] : ref->extra->nested.contained_in_borrowed_ids) {
    described.contained_in_borrowed_ids.push_back(outer_id);
  }
  described.contains = ref->extra->nested.contains;
  return described;
}

std::vector<ObjectId> ReferenceCounter::BorrowedWithin(const std::vector<ObjectId>& roots) const {
  std::vector<ObjectId> within;
  absl::flat_hash_set<ObjectId> seen;
  std::vector<ObjectId> to_visit(roots.rbegin(), roots.rend());
  while (!to_visit.empty()) {
    const ObjectId object_id = to_visit.back();
    to_visit.pop_back();
    const Reference* const ref = Find(object_id);
    // An object of this process has no other owner that must be told.
    if (ref == nullptr || ref->owned_by_us || !seen.insert(object_id).second) continue;
    within.push_back(object_id);
    if (ref->extra == nullptr) continue;
    const std::vector<ObjectId>& contains = ref->extra->nested.contains;
    to_visit.insert(to_visit.end(), contains.rbegin(), contains.rend());
  }
  return within;
}

ReferenceTable ReferenceCounter::Collect(const std::vector<ObjectId>& roots,
                                         const absl::flat_hash_map<ObjectId, uint32_t>& pins, bool for_ref_removed,
                                         bool told_to_owner) {
  ReferenceTable collected;
  absl::flat_hash_set<ObjectId> leaving;
  for (const ObjectId& object_id : BorrowedWithin(roots)) {
    Reference* const ref = Find(object_id);
    const bool is_root = for_ref_removed && object_id == roots.front();
    if (ref->foreign_owner_already_monitoring && !for_ref_removed) continue;
    const auto pinned = pins.find(object_id);
    const bool in_use = ref->RefCount() > (pinned == pins.end() ? 0 : pinned->second);
    // Once another process was told that this process uses the object, everything that this process knows must go to
    // the owner itself. The receiver of this report may have the object from processes that only this process knows of.
    // They would then vouch for each other, and the owner would not know of any of them.
    bool leaves = !in_use && !ref->owner_will_ask;
    if (leaves && ref->InBorrowed()) {
      for (const auto& [outer_id, nothing] : ref->extra->nested.contained_in_borrowed_ids) {
        leaves = leaves && leaving.contains(outer_id);
      }
    }
    if (is_root) leaves = told_to_owner;
    collected.push_back(Describe(object_id, ref, in_use, /*to_owner=*/is_root));
    if (in_use) ref->owner_will_ask = true;
    if (!leaves) continue;
    leaving.insert(object_id);
    if (ref->extra != nullptr) ref->extra->borrow.reset();
    ref->has_nested_refs_to_report = false;
    ref->owner_will_ask = in_use;
  }
  return collected;
}

void ReferenceCounter::Merge(const std::vector<ObjectId>& roots, const Address& worker, const ReferenceTable& table) {
  if (table.empty()) return;
  Report report;
  for (const ObjectReferenceCount& reported : table) report.emplace(reported.object_id, &reported);
  std::vector<ObjectId> to_visit(roots.rbegin(), roots.rend());
  while (!to_visit.empty()) {
    const auto it = report.find(to_visit.back());
    to_visit.pop_back();
    if (it == report.end()) continue;
    const ObjectReferenceCount& reported = *it->second;
    report.erase(it);
    MergeOne(reported, worker);
    to_visit.insert(to_visit.end(), reported.contains.rbegin(), reported.contains.rend());
  }
}

// Returns whether there is an entry now. A new entry is made only for an object in the value of a known object. Any
// other object is gone, and a late report must not bring it back.
bool ReferenceCounter::MakeReported(const ObjectReferenceCount& reported) {
  // An object of this process without an entry has been freed, whatever object it was found in.
  if (IsSelf(reported.owner_address) && Find(reported.object_id) == nullptr) return false;
  for (const ObjectId& outer_id : reported.contained_in_borrowed_ids) {
    const Reference* const outer = Find(outer_id);
    if (outer != nullptr && outer->owned_by_us) {
      // The outer object was made by a task and belongs to this process, which may learn only now what it contains.
      AddContainedInOwned(outer_id, {reported.object_id});
    } else {
      AddBorrowed(reported.object_id, outer_id, reported.owner_address);
    }
  }
  return Find(reported.object_id) != nullptr;
}

void ReferenceCounter::MergeOne(const ObjectReferenceCount& reported, const Address& worker) {
  const ObjectId& object_id = reported.object_id;
  if (!MakeReported(reported)) {
    ++stats_.reports_too_late;
    return;
  }
  Reference* ref = Find(object_id);
  // This process may hold the object in a value that it never opened, and learn only now who owns it.
  if (!ref->owned_by_us && !reported.owner_address.worker_id.IsNil() && !ref->MutableExtra().owner_address) {
    ref->MutableExtra().owner_address = reported.owner_address;
  }
  bool news = false;
  if (reported.has_local_ref) news |= AddBorrower(object_id, ref, worker);
  for (const Address& borrower : reported.borrowers) news |= AddBorrower(object_id, ref, borrower);
  for (const auto& [return_id, owner] : reported.stored_in_objects) {
    if (IsSelf(owner)) {
      AddContainedInOwned(return_id, {object_id});
    } else {
      AddStoredIn(return_id, object_id, owner);
      news = true;
    }
  }
  // Find it again, because the table may have grown.
  ref = Find(object_id);
  if (news && !ref->owned_by_us) SetNestedRefInUse(*ref);
}

bool ReferenceCounter::AddBorrower(const ObjectId& object_id, Reference* ref, const Address& borrower,
                                   const ObjectId& contained_in_id) {
  // This process counts its own uses in its own counts.
  if (IsSelf(borrower)) return false;
  const auto [entry, inserted] =
      ref->MutableBorrow().borrowers.Emplace(borrower.worker_id, Borrower{borrower, {}, false, false});
  if (!ref->owned_by_us) {
    entry->owner_told = false;
    return inserted;
  }
  if (inserted || !contained_in_id.IsNil()) {
    WaitForRefRemoved(object_id, entry, contained_in_id);
  } else {
    entry->reported_again = true;
  }
  return inserted;
}

// --- Questions and answers

void ReferenceCounter::WaitForRefRemoved(const ObjectId& object_id, Borrower* borrower,
                                         const ObjectId& contained_in_id) {
  const uint64_t number = ++last_question_;
  borrower->unanswered.Insert(number);
  Later([this, address = borrower->address,
         subscription = RefRemovedSubscription{object_id, contained_in_id, options_.self, number}] {
    dependencies_.subscriber->SubscribeRefRemoved(address, subscription);
  });
}

absl::Status ReferenceCounter::SubscribeRefRemoved(const RefRemovedSubscription& subscription) {
  Operation operation(this);
  const ObjectId& object_id = subscription.object_id;
  const Question question = {subscription.owner_address, subscription.number};
  if (const Reference* const ref = Find(object_id); ref != nullptr && ref->owned_by_us) {
    return Misused("SubscribeRefRemoved", object_id, "is ours: nobody else can ask for it");
  }
  if (!subscription.contained_in_id.IsNil()) {
    const Reference* const outer = Find(subscription.contained_in_id);
    // The question came because this process owns the outer object. The inner object stays as long as that.
    if (outer != nullptr && outer->owned_by_us) AddContainedInOwned(subscription.contained_in_id, {object_id});
  }
  Reference* const ref = Find(object_id);
  if (ref == nullptr) {
    Later([this, question, object_id] {
      dependencies_.publisher->PublishRefRemoved(question.owner, {object_id, {question.number}, {}});
    });
    return absl::OkStatus();
  }
  Extra& extra = ref->MutableExtra();
  if (!extra.owner_address) extra.owner_address = question.owner;
  const bool known = std::any_of(extra.questions.begin(), extra.questions.end(), [&](const Question& other) {
    return other.number == question.number && other.owner == question.owner;
  });
  if (known) return Repeated(object_id, options_.self, Notice::kSubscription);
  extra.questions.push_back(question);
  ref->owner_will_ask = true;
  if (ref->RefCount() == 0) {
    PublishIfUnused(object_id, ref);
    DeleteIfUnused(object_id, nullptr);
  }
  return absl::OkStatus();
}

void ReferenceCounter::PublishIfUnused(const ObjectId& object_id, Reference* ref) {
  const bool news = ref->HasBorrowInfo() || ref->has_nested_refs_to_report;
  // If the object was found in a borrowed object, the report travels with that one, because the process that waits for
  // the outer object keeps both.
  const bool goes_with_outer = ref->InBorrowed();
  if (!ref->Asked() && (!news || goes_with_outer)) return;
  if (ref->extra == nullptr) ref->MutableExtra();
  std::vector<Question> questions = std::move(ref->extra->questions);
  ref->extra->questions.clear();
  const std::optional<Address> owner = ref->extra->owner_address;
  const bool told_to_owner = !goes_with_outer;
  const ReferenceTable table = Collect({object_id}, {}, /*for_ref_removed=*/true, told_to_owner);
  // Several owners can only have asked if the first one died and its task ran again elsewhere.
  std::vector<std::pair<Address, RefRemovedMessage>> messages;
  for (const Question& question : questions) {
    auto to = std::find_if(messages.begin(), messages.end(),
                           [&](const auto& message) { return message.first == question.owner; });
    if (to == messages.end()) {
      to = messages.insert(messages.end(), {question.owner, RefRemovedMessage{object_id, {}, table}});
    }
    to->second.numbers.push_back(question.number);
  }
  // No owner has asked, and perhaps none will, because the processes that know of this borrower may have died.
  if (messages.empty() && owner) messages.emplace_back(*owner, RefRemovedMessage{object_id, {}, table});
  for (auto& message : messages) {
    Later([this, message = std::move(message)] {
      dependencies_.publisher->PublishRefRemoved(message.first, message.second);
    });
  }
}

absl::Status ReferenceCounter::HandleRefRemoved(const Address& borrower, const RefRemovedMessage& message) {
  Operation operation(this);
  const auto find_entry = [&]() -> Borrower* {
    Reference* const ref = Find(message.object_id);
    if (ref == nullptr || !ref->owned_by_us || !ref->HasBorrowInfo()) return nullptr;
    return ref->extra->borrow->borrowers.Find(borrower.worker_id);
  };
  // First merge what the borrower knew, even if it is gone already, because others may have the object from it.
  Merge({message.object_id}, borrower, message.borrowed_refs);
  if (message.numbers.empty()) return absl::OkStatus();
  Borrower* const entry = find_entry();
  if (entry == nullptr) return Repeated(message.object_id, borrower, Notice::kRefRemoved);
  bool answered = false;
  for (const uint64_t number : message.numbers) answered |= entry->unanswered.Erase(number);
  if (!answered) return Repeated(message.object_id, borrower, Notice::kRefRemoved);
  if (!entry->unanswered.empty()) return absl::OkStatus();
  if (entry->reported_again) {
    entry->reported_again = false;
    WaitForRefRemoved(message.object_id, entry);
    return absl::OkStatus();
  }
  Later([this, borrower, object_id = message.object_id] {
    dependencies_.subscriber->UnsubscribeRefRemoved(borrower, object_id);
  });
  CleanupBorrower(message.object_id, borrower, Notice::kRefRemoved);
  return absl::OkStatus();
}

absl::Status ReferenceCounter::HandlePublisherFailed(const Address& borrower, const ObjectId& object_id) {
  Operation operation(this);
  const Reference* const ref = Find(object_id);
  if (ref == nullptr || !ref->owned_by_us || !ref->HasBorrowInfo() ||
      !ref->extra->borrow->borrowers.contains(borrower.worker_id)) {
    return Repeated(object_id, borrower, Notice::kPublisherFailed);
  }
  CleanupBorrower(object_id, borrower, Notice::kPublisherFailed);
  return absl::OkStatus();
}

void ReferenceCounter::CleanupBorrower(const ObjectId& object_id, const Address& borrower, Notice first) {
  Find(object_id)->extra->borrow->borrowers.Erase(borrower.worker_id);
  repeated_.Remember(object_id, borrower.worker_id, first);
  DeleteIfUnused(object_id, nullptr);
}

absl::Status ReferenceCounter::Repeated(const ObjectId& object_id, const Address& borrower, Notice again) {
  std::optional<std::string> line =
      repeated_.Repeated(object_id, borrower.worker_id, again, dependencies_.clock->NowMs());
  if (line) Log(*std::move(line));
  return absl::OkStatus();
}

}  // namespace mantaray::refcount
