// The reference counter's code. Included where it is compiled: for use in reference_counter.cc, with seeded faults in
// src/mantaray/sim.

#ifndef MANTARAY_REFCOUNT_REFERENCE_COUNTER_INL_H_
#define MANTARAY_REFCOUNT_REFERENCE_COUNTER_INL_H_

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mantaray/refcount/reference_counter.h"

namespace mantaray::refcount {

inline absl::Status UnknownObject(absl::string_view operation, const ObjectId& object_id) {
  return absl::NotFoundError(absl::StrCat(operation, ": object ", object_id.Hex(), " is not in the table"));
}

inline absl::Status Misused(absl::string_view operation, const ObjectId& object_id, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(operation, ": object ", object_id.Hex(), " ", what));
}

// Holds the lock; afterwards does what came up meanwhile.
template <typename Faults>
class ABSL_SCOPED_LOCKABLE BasicReferenceCounter<Faults>::Operation {
 public:
  explicit Operation(BasicReferenceCounter* counter) ABSL_EXCLUSIVE_LOCK_FUNCTION(counter->mutex_) : counter_(counter) {
    counter_->mutex_.Lock();
  }
  ~Operation() ABSL_UNLOCK_FUNCTION() {
    const bool effects = !counter_->effects_.empty();
    counter_->mutex_.Unlock();
    if (effects) counter_->RunEffects();
  }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

 private:
  BasicReferenceCounter* const counter_;
};

template <typename Faults>
BasicReferenceCounter<Faults>::BasicReferenceCounter(Dependencies dependencies, Options options, Faults faults)
    : dependencies_(std::move(dependencies)), options_(std::move(options)), faults_(faults) {}

template <typename Faults>
Reference* BasicReferenceCounter<Faults>::Find(const ObjectId& object_id) {
  return table_.Find(object_id);
}

template <typename Faults>
const Reference* BasicReferenceCounter<Faults>::Find(const ObjectId& object_id) const {
  return table_.Find(object_id);
}

// --- Effects: what is done without the lock

template <typename Faults>
void BasicReferenceCounter<Faults>::Later(std::function<void()> effect) {
  effects_.push_back(std::move(effect));
}

template <typename Faults>
void BasicReferenceCounter<Faults>::RunEffects() {
  for (bool done_one = false;; done_one = true) {
    std::function<void()> effect;
    {
      MutexLock lock(&mutex_);
      if (done_one) running_effects_ = false;
      // Whoever is at it goes on until none is left: that keeps them in order, and one at a time.
      if (running_effects_ || effects_.empty()) return;
      running_effects_ = true;
      effect = std::move(effects_.front());
      effects_.pop_front();
    }
    effect();
  }
}

template <typename Faults>
void BasicReferenceCounter<Faults>::Log(std::string line) {
  if (dependencies_.log) Later([this, line = std::move(line)] { dependencies_.log(line); });
}

template <typename Faults>
void BasicReferenceCounter<Faults>::BrokenInvariant(absl::string_view operation, const ObjectId& object_id,
                                                    absl::string_view what) {
  ++stats_.broken_invariants;
  Log(absl::StrCat("Broken invariant in ", operation, ": object ", object_id.Hex(), " ", what));
}

// --- Local references

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::AddLocalReference(const ObjectId& object_id, absl::string_view call_site) {
  Operation operation(this);
  Reference& ref = *table_.FindOrAdd(object_id).first;
  if (ref.local_ref_count == std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("AddLocalReference: object ", object_id.Hex(), " has too many local references"));
  }
  const bool was_in_use = ref.RefCount() > 0;
  ++ref.local_ref_count;
  if (!was_in_use) {
    ref.out_of_scope = false;
    if (!call_site.empty() && !ref.owned_by_us) ref.MutableExtra().call_site = std::string(call_site);
    SetNestedRefInUse(ref);
  }
  return absl::OkStatus();
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::RemoveLocalReference(const ObjectId& object_id,
                                                                 std::vector<ObjectId>* deleted) {
  Operation operation(this);
  return RemoveLocal(object_id, deleted);
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::RemoveLocal(const ObjectId& object_id, std::vector<ObjectId>* deleted) {
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return UnknownObject("RemoveLocalReference", object_id);
  if (ref->local_ref_count == 0) return Misused("RemoveLocalReference", object_id, "has no local reference");
  --ref->local_ref_count;
  if (ref->RefCount() == 0) DeleteIfUnused(object_id, deleted);
  return absl::OkStatus();
}

template <typename Faults>
void BasicReferenceCounter<Faults>::TryReleaseLocalRefs(const std::vector<ObjectId>& object_ids,
                                                        std::vector<ObjectId>* deleted) {
  Operation operation(this);
  for (const ObjectId& object_id : object_ids) {
    const Reference* const ref = Find(object_id);
    if (ref != nullptr && ref->local_ref_count > 0) RemoveLocal(object_id, deleted).IgnoreError();
  }
}

template <typename Faults>
void BasicReferenceCounter<Faults>::ReleaseAllLocalReferences() {
  Operation operation(this);
  std::vector<ObjectId> unused;
  for (const auto& [object_id, ref] : table_) {
    if (ref.local_ref_count == 0) continue;
    ref.local_ref_count = 0;
    if (ref.RefCount() == 0) unused.push_back(object_id);
  }
  for (const ObjectId& object_id : unused) DeleteIfUnused(object_id, nullptr);
}

// --- Owned, borrowed and nested objects

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::AddOwnedObject(const OwnedObject& object) {
  Operation operation(this);
  return AddOwned(object);
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::AddOwned(const OwnedObject& object) {
  const auto [added, inserted] = table_.FindOrAdd(object.object_id);
  if (!inserted) {
    return absl::AlreadyExistsError(
        absl::StrCat("AddOwnedObject: object ", object.object_id.Hex(), " is in the table already"));
  }
  Reference& ref = *added;
  ref.owned_by_us = true;
  ref.object_size_bytes = object.object_size_bytes;
  ref.lineage_eligibility = object.lineage_eligibility;
  ref.pending_creation = !object.pinned_at_node_id.has_value();
  ref.local_ref_count = object.add_local_ref ? 1 : 0;
  if (!object.call_site.empty()) ref.MutableExtra().call_site = object.call_site;
  if (object.pinned_at_node_id) {
    ref.MutablePlacement().pinned_at_node_id = object.pinned_at_node_id;
    ref.MutablePlacement().locations.Insert(*object.pinned_at_node_id);
  }
  ++num_owned_;
  if (options_.lineage_pinning && object.lineage_eligibility == LineageReconstructionEligibility::kEligible) {
    ++num_reconstructable_;
    reconstructable_.push_back(object.object_id);
  }
  if (!object.contained_ids.empty()) AddContainedInOwned(object.object_id, object.contained_ids);
  return absl::OkStatus();
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::AddDynamicReturn(const ObjectId& object_id, const ObjectId& generator_id) {
  Operation operation(this);
  return AddGenerated(object_id, generator_id, /*add_local_ref=*/false, "AddDynamicReturn");
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::OwnDynamicStreamingTaskReturnRef(const ObjectId& object_id,
                                                                             const ObjectId& generator_id) {
  Operation operation(this);
  return AddGenerated(object_id, generator_id, /*add_local_ref=*/true, "OwnDynamicStreamingTaskReturnRef");
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::AddGenerated(const ObjectId& object_id, const ObjectId& generator_id,
                                                         bool add_local_ref, absl::string_view operation) {
  const Reference* const generator = Find(generator_id);
  // Gone: the object was never looked at, or is known already. Either way nobody waits for it.
  if (generator == nullptr) return absl::OkStatus();
  if (!generator->owned_by_us) return Misused(operation, generator_id, "is not ours");
  // One that is there already was made known by an earlier run of the task.
  if (Find(object_id) == nullptr) {
    OwnedObject object;
    object.object_id = object_id;
    object.call_site = generator->extra == nullptr ? "" : generator->extra->call_site;
    object.lineage_eligibility = generator->lineage_eligibility;
    object.add_local_ref = add_local_ref;
    if (absl::Status added = AddOwned(object); !added.ok()) return added;
  }
  if (!add_local_ref) AddContainedInOwned(generator_id, {object_id});
  return absl::OkStatus();
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::AddBorrowedObject(const ObjectId& object_id, const ObjectId& outer_id,
                                                              const Address& owner_address,
                                                              bool foreign_owner_already_monitoring) {
  Operation operation(this);
  if (object_id == outer_id) return Misused("AddBorrowedObject", object_id, "cannot contain itself");
  AddBorrowed(object_id, outer_id, owner_address);
  Reference* const ref = Find(object_id);
  if (foreign_owner_already_monitoring && ref != nullptr) ref->foreign_owner_already_monitoring = true;
  return absl::OkStatus();
}

template <typename Faults>
void BasicReferenceCounter<Faults>::AddBorrowed(const ObjectId& object_id, const ObjectId& outer_id,
                                                const Address& owner_address) {
  const Reference* outer = outer_id.IsNil() ? nullptr : Find(outer_id);
  // Only its lineage is left.
  if (outer != nullptr && outer->out_of_scope) outer = nullptr;
  const bool found_in_owned = outer != nullptr && outer->owned_by_us;
  const bool found_in_borrowed = outer != nullptr && !found_in_owned;
  Reference* ref = Find(object_id);
  if (ref == nullptr) {
    // Neither used nor nested in something that is: there is nothing to keep.
    if (!found_in_borrowed) return;
    ref = table_.FindOrAdd(object_id).first;
  }
  if (!ref->owned_by_us && !owner_address.worker_id.IsNil()) ref->MutableExtra().owner_address = owner_address;
  if (found_in_owned) ref->owner_will_ask = true;
  if (!found_in_borrowed) return;
  if (ref->MutableExtra().nested.contained_in_borrowed_ids.Insert(outer_id)) {
    Find(outer_id)->MutableExtra().nested.contains.push_back(object_id);
  }
  ref->out_of_scope = false;
  if (ref->RefCount() > 0) SetNestedRefInUse(*ref);
}

template <typename Faults>
void BasicReferenceCounter<Faults>::SetNestedRefInUse(const Reference& ref) {
  if (!ref.InBorrowed() || faults_.Has(Fault::kNestedUseNotPropagated)) return;
  std::vector<const Reference*> in_use = {&ref};
  while (!in_use.empty()) {
    const Reference* const inner = in_use.back();
    in_use.pop_back();
    if (!inner->InBorrowed()) continue;
    for (const auto& [outer_id, nothing] : inner->extra->nested.contained_in_borrowed_ids) {
      Reference* const outer = Find(outer_id);
      if (outer == nullptr) {
        BrokenInvariant("SetNestedRefInUse", outer_id, "contains a borrowed object, but is not in the table");
      } else if (!outer->has_nested_refs_to_report) {
        outer->has_nested_refs_to_report = true;
        in_use.push_back(outer);
      }
    }
  }
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::AddNestedObjectIds(const ObjectId& object_id,
                                                               const std::vector<ObjectId>& inner_ids,
                                                               const Address& owner_address) {
  Operation operation(this);
  if (IsSelf(owner_address)) {
    const Reference* const outer = Find(object_id);
    if (outer != nullptr && !outer->owned_by_us) return Misused("AddNestedObjectIds", object_id, "is not ours");
    AddContainedInOwned(object_id, inner_ids);
    return absl::OkStatus();
  }
  for (const ObjectId& inner_id : inner_ids) {
    if (Find(inner_id) == nullptr) return UnknownObject("AddNestedObjectIds", inner_id);
  }
  for (const ObjectId& inner_id : inner_ids) AddStoredIn(object_id, inner_id, owner_address);
  return absl::OkStatus();
}

template <typename Faults>
void BasicReferenceCounter<Faults>::AddContainedInOwned(const ObjectId& object_id,
                                                        const std::vector<ObjectId>& inner_ids) {
  const Reference* const outer = Find(object_id);
  // Nobody can look into a value that is gone. An entry of ours that does not say so is one that was made when somebody
  // gave us a reference to an object that we had freed.
  if (outer == nullptr || !outer->owned_by_us || outer->out_of_scope) return;
  for (const ObjectId& inner_id : inner_ids) {
    // It would keep itself.
    if (inner_id == object_id) continue;
    Reference& inner = *table_.FindOrAdd(inner_id).first;
    const bool was_in_use = inner.RefCount() > 0;
    if (!inner.MutableExtra().nested.contained_in_owned.Insert(object_id)) continue;
    inner.out_of_scope = false;
    inner.owner_will_ask = true;
    if (!was_in_use) SetNestedRefInUse(inner);
    Find(object_id)->MutableExtra().nested.contains.push_back(inner_id);
  }
}

template <typename Faults>
void BasicReferenceCounter<Faults>::AddStoredIn(const ObjectId& object_id, const ObjectId& inner_id,
                                                const Address& owner_address) {
  Reference* const inner = Find(inner_id);
  if (inner == nullptr) return;
  if (inner->owned_by_us) {
    AddBorrower(inner_id, inner, owner_address, object_id);
  } else {
    inner->MutableBorrow().stored_in_objects.Emplace(object_id, StoredIn{owner_address}).first->owner_told = false;
  }
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::AddBorrowerAddress(const ObjectId& object_id, const Address& borrower) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return UnknownObject("AddBorrowerAddress", object_id);
  if (!ref->owned_by_us) return Misused("AddBorrowerAddress", object_id, "is not ours");
  if (IsSelf(borrower)) return Misused("AddBorrowerAddress", object_id, "cannot be borrowed by its owner");
  AddBorrower(object_id, ref, borrower);
  return absl::OkStatus();
}

// --- Tasks

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::CheckSubmitted(const std::vector<ObjectId>& argument_ids,
                                                           absl::string_view operation) {
  // Taken away and given back, because the same argument may be there several times.
  size_t taken = 0;
  absl::Status status;
  for (; taken < argument_ids.size() && status.ok(); ++taken) {
    Reference* const ref = Find(argument_ids[taken]);
    if (ref == nullptr) {
      status = UnknownObject(operation, argument_ids[taken]);
    } else if (ref->submitted_task_ref_count == 0) {
      status = Misused(operation, argument_ids[taken], "is not an argument of a submitted task");
    } else {
      --ref->submitted_task_ref_count;
    }
  }
  if (!status.ok()) --taken;
  while (taken > 0) ++Find(argument_ids[--taken])->submitted_task_ref_count;
  return status;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::AddSubmitted(const ObjectId& argument_id, bool keep_lineage) {
  Reference& ref = *table_.FindOrAdd(argument_id).first;
  const bool was_in_use = ref.RefCount() > 0;
  ++ref.submitted_task_ref_count;
  if (keep_lineage) ++ref.lineage_ref_count;
  ref.out_of_scope = false;
  if (!was_in_use) SetNestedRefInUse(ref);
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::UpdateSubmittedTaskReferences(
    const std::vector<ObjectId>& return_ids, const std::vector<ObjectId>& argument_ids_to_add,
    const std::vector<ObjectId>& argument_ids_to_remove, std::vector<ObjectId>* deleted) {
  Operation operation(this);
  absl::Status removable = CheckSubmitted(argument_ids_to_remove, "UpdateSubmittedTaskReferences");
  if (!removable.ok()) return removable;
  for (const ObjectId& return_id : return_ids) SetPendingCreation(return_id, true);
  for (const ObjectId& argument_id : argument_ids_to_add) AddSubmitted(argument_id, /*keep_lineage=*/true);
  RemoveSubmitted(argument_ids_to_remove, /*release_lineage=*/true, deleted);
  return absl::OkStatus();
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::UpdateResubmittedTaskReferences(const std::vector<ObjectId>& argument_ids) {
  Operation operation(this);
  for (const ObjectId& argument_id : argument_ids) {
    if (Find(argument_id) == nullptr) return UnknownObject("UpdateResubmittedTaskReferences", argument_id);
  }
  if (faults_.Has(Fault::kResubmissionNotCounted)) return absl::OkStatus();
  for (const ObjectId& argument_id : argument_ids) AddSubmitted(argument_id, /*keep_lineage=*/false);
  return absl::OkStatus();
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::UpdateFinishedTaskReferences(const std::vector<ObjectId>& return_ids,
                                                                         const std::vector<ObjectId>& argument_ids,
                                                                         bool release_lineage, const Address& worker,
                                                                         const ReferenceTable& borrowed_refs,
                                                                         std::vector<ObjectId>* deleted) {
  Operation operation(this);
  absl::Status finishing = CheckSubmitted(argument_ids, "UpdateFinishedTaskReferences");
  if (!finishing.ok()) return finishing;
  for (const ObjectId& return_id : return_ids) SetPendingCreation(return_id, false);
  if (faults_.Has(Fault::kReleasedBeforeMerge)) RemoveSubmitted(argument_ids, release_lineage, deleted);
  // First the report, so that whatever the worker still uses has a borrower before the argument is let go.
  Merge(argument_ids, worker, borrowed_refs);
  if (!faults_.Has(Fault::kReleasedBeforeMerge)) RemoveSubmitted(argument_ids, release_lineage, deleted);
  return absl::OkStatus();
}

template <typename Faults>
void BasicReferenceCounter<Faults>::RemoveSubmitted(const std::vector<ObjectId>& argument_ids, bool release_lineage,
                                                    std::vector<ObjectId>* deleted) {
  for (const ObjectId& argument_id : argument_ids) {
    Reference* const ref = Find(argument_id);
    if (ref == nullptr || ref->submitted_task_ref_count == 0) {
      BrokenInvariant("RemoveSubmitted", argument_id, "is not an argument of a submitted task");
      continue;
    }
    --ref->submitted_task_ref_count;
    // The lineage may have been evicted while the task ran.
    if (release_lineage && ref->lineage_ref_count > 0) --ref->lineage_ref_count;
    if (ref->RefCount() == 0) DeleteIfUnused(argument_id, deleted);
  }
}

// --- Reports: what a borrower tells

template <typename Faults>
absl::StatusOr<ReferenceTable> BasicReferenceCounter<Faults>::PopAndClearLocalBorrowers(
    const std::vector<ObjectId>& borrowed_ids, std::vector<ObjectId>* deleted) {
  Operation operation(this);
  absl::flat_hash_map<ObjectId, uint32_t> pins;
  for (const ObjectId& borrowed_id : borrowed_ids) {
    const Reference* const ref = Find(borrowed_id);
    if (ref == nullptr) return UnknownObject("PopAndClearLocalBorrowers", borrowed_id);
    if (++pins[borrowed_id] > ref->local_ref_count) {
      return Misused("PopAndClearLocalBorrowers", borrowed_id, "is not held by a local reference for the task");
    }
  }
  if (faults_.Has(Fault::kPinDeductedTwice)) {
    for (auto& [borrowed_id, count] : pins) count *= 2;
  }
  ReferenceTable table = Collect(borrowed_ids, pins, /*for_ref_removed=*/false, /*told_to_owner=*/false);
  for (const ObjectId& borrowed_id : borrowed_ids) {
    if (absl::Status removed = RemoveLocal(borrowed_id, deleted); !removed.ok()) {
      BrokenInvariant("PopAndClearLocalBorrowers", borrowed_id, removed.message());
    }
  }
  return table;
}

template <typename Faults>
ObjectReferenceCount BasicReferenceCounter<Faults>::Describe(const ObjectId& object_id, Reference* ref, bool in_use,
                                                             bool to_owner, Faults faults) {
  ObjectReferenceCount described;
  described.object_id = object_id;
  described.has_local_ref = in_use;
  if (ref->extra == nullptr) return described;
  if (ref->extra->owner_address) described.owner_address = *ref->extra->owner_address;
  if (ref->extra->borrow != nullptr) {
    for (auto& [worker_id, borrower] : ref->extra->borrow->borrowers) {
      if (to_owner && std::exchange(borrower.owner_told, true)) continue;
      if (!faults.Has(Fault::kBorrowersNotReported)) described.borrowers.push_back(borrower.address);
    }
    for (auto& [return_id, stored_in] : ref->extra->borrow->stored_in_objects) {
      if (to_owner && std::exchange(stored_in.owner_told, true)) continue;
      if (faults.Has(Fault::kStoredInNotReported)) continue;
      described.stored_in_objects.emplace_back(return_id, stored_in.owner);
    }
  }
  for (const auto& [outer_id, nothing] : ref->extra->nested.contained_in_borrowed_ids) {
    described.contained_in_borrowed_ids.push_back(outer_id);
  }
  described.contains = ref->extra->nested.contains;
  return described;
}

template <typename Faults>
std::vector<ObjectId> BasicReferenceCounter<Faults>::BorrowedWithin(const std::vector<ObjectId>& roots) const {
  std::vector<ObjectId> within;
  absl::flat_hash_set<ObjectId> seen;
  std::vector<ObjectId> to_visit(roots.rbegin(), roots.rend());
  while (!to_visit.empty()) {
    const ObjectId object_id = to_visit.back();
    to_visit.pop_back();
    const Reference* const ref = Find(object_id);
    // What is ours has no owner who would have to know.
    if (ref == nullptr || ref->owned_by_us || !seen.insert(object_id).second) continue;
    within.push_back(object_id);
    if (ref->extra == nullptr) continue;
    const std::vector<ObjectId>& contains = ref->extra->nested.contains;
    to_visit.insert(to_visit.end(), contains.rbegin(), contains.rend());
  }
  return within;
}

template <typename Faults>
ReferenceTable BasicReferenceCounter<Faults>::Collect(const std::vector<ObjectId>& roots,
                                                      const absl::flat_hash_map<ObjectId, uint32_t>& pins,
                                                      bool for_ref_removed, bool told_to_owner) {
  ReferenceTable collected;
  absl::flat_hash_set<ObjectId> leaving;
  for (const ObjectId& object_id : BorrowedWithin(roots)) {
    Reference* const ref = Find(object_id);
    const bool is_root = for_ref_removed && object_id == roots.front();
    if (ref->foreign_owner_already_monitoring && !for_ref_removed) continue;
    const auto pinned = pins.find(object_id);
    const bool in_use = ref->RefCount() > (pinned == pins.end() ? 0 : pinned->second);
    // Once somebody was told that we use it, what we know must go to the owner itself: whom we tell here may have it
    // from those that only we know of, and then they would vouch for each other and nobody for them.
    bool leaves = !in_use && !ref->owner_will_ask;
    if (leaves && ref->InBorrowed()) {
      for (const auto& [outer_id, nothing] : ref->extra->nested.contained_in_borrowed_ids) {
        leaves = leaves && leaving.contains(outer_id);
      }
    }
    if (is_root) leaves = told_to_owner;
    collected.push_back(Describe(object_id, ref, in_use, /*to_owner=*/is_root, faults_));
    if (in_use) ref->owner_will_ask = true;
    if (!leaves && !faults_.Has(Fault::kHandedOverWhileInUse)) continue;
    leaving.insert(object_id);
    if (ref->extra != nullptr) ref->extra->borrow.reset();
    ref->has_nested_refs_to_report = false;
    ref->owner_will_ask = in_use;
  }
  return collected;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::Merge(const std::vector<ObjectId>& roots, const Address& worker,
                                          const ReferenceTable& table) {
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
    if (faults_.Has(Fault::kNestedNotMerged)) continue;
    to_visit.insert(to_visit.end(), reported.contains.rbegin(), reported.contains.rend());
  }
}

// Returns whether there is an entry now. One is only made for what is in the value of an object that we know of:
// anything else is gone, and a late report must not bring it back.
template <typename Faults>
bool BasicReferenceCounter<Faults>::MakeReported(const ObjectReferenceCount& reported) {
  // An object of ours without an entry has been freed, whatever it was found in.
  if (IsSelf(reported.owner_address) && Find(reported.object_id) == nullptr) return false;
  for (const ObjectId& outer_id : reported.contained_in_borrowed_ids) {
    const Reference* const outer = Find(outer_id);
    if (outer != nullptr && outer->owned_by_us) {
      // Ours, made by a task, and we may hear only now what is in it.
      AddContainedInOwned(outer_id, {reported.object_id});
    } else {
      AddBorrowed(reported.object_id, outer_id, reported.owner_address);
    }
  }
  if (faults_.Has(Fault::kResurrectedByReport)) table_.FindOrAdd(reported.object_id);
  return Find(reported.object_id) != nullptr;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::MergeOne(const ObjectReferenceCount& reported, const Address& worker) {
  const ObjectId& object_id = reported.object_id;
  if (!MakeReported(reported)) {
    ++stats_.reports_too_late;
    return;
  }
  Reference* ref = Find(object_id);
  // We may hold it in a value that we never looked into, and learn only now whose it is.
  if (!ref->owned_by_us && !reported.owner_address.worker_id.IsNil() && !ref->MutableExtra().owner_address) {
    ref->MutableExtra().owner_address = reported.owner_address;
  }
  bool news = false;
  if (reported.has_local_ref) news |= AddBorrower(object_id, ref, worker);
  if (!faults_.Has(Fault::kBorrowersNotMerged)) {
    for (const Address& borrower : reported.borrowers) news |= AddBorrower(object_id, ref, borrower);
  }
  for (const auto& [return_id, owner] : reported.stored_in_objects) {
    if (IsSelf(owner)) {
      AddContainedInOwned(return_id, {object_id});
    } else {
      AddStoredIn(return_id, object_id, owner);
      news = true;
    }
  }
  // The table may have grown.
  ref = Find(object_id);
  if (news && !ref->owned_by_us) SetNestedRefInUse(*ref);
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::AddBorrower(const ObjectId& object_id, Reference* ref, const Address& borrower,
                                                const ObjectId& contained_in_id) {
  // Our own use is in our own counts.
  if (IsSelf(borrower)) return false;
  const auto [entry, inserted] =
      ref->MutableBorrow().borrowers.Emplace(borrower.worker_id, Borrower{borrower, {}, false, false});
  if (!ref->owned_by_us) {
    entry->owner_told = false;
    return inserted;
  }
  if (inserted && faults_.Has(Fault::kBorrowerWithoutSubscription)) return true;
  if (inserted || !contained_in_id.IsNil()) {
    WaitForRefRemoved(object_id, entry, contained_in_id);
  } else if (!faults_.Has(Fault::kSecondReportForgotten)) {
    entry->reported_again = true;
  }
  return inserted;
}

// --- Questions and answers

template <typename Faults>
void BasicReferenceCounter<Faults>::WaitForRefRemoved(const ObjectId& object_id, Borrower* borrower,
                                                      const ObjectId& contained_in_id) {
  const uint64_t number = ++last_question_;
  borrower->unanswered.Insert(number);
  Later([this, address = borrower->address,
         subscription = RefRemovedSubscription{object_id, contained_in_id, options_.self, number}] {
    dependencies_.subscriber->SubscribeRefRemoved(address, subscription);
  });
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::SubscribeRefRemoved(const RefRemovedSubscription& subscription) {
  Operation operation(this);
  const ObjectId& object_id = subscription.object_id;
  const Question question = {subscription.owner_address, subscription.number};
  if (const Reference* const ref = Find(object_id); ref != nullptr && ref->owned_by_us) {
    return Misused("SubscribeRefRemoved", object_id, "is ours: nobody else can ask for it");
  }
  if (!subscription.contained_in_id.IsNil() && !faults_.Has(Fault::kContainedInIgnored)) {
    const Reference* const outer = Find(subscription.contained_in_id);
    // We are asked because we own the outer object: the inner one stays as long as that.
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
  if (ref->RefCount() == 0 || faults_.Has(Fault::kAnsweredWhileInUse)) {
    PublishIfUnused(object_id, ref);
    DeleteIfUnused(object_id, nullptr);
  }
  return absl::OkStatus();
}

template <typename Faults>
void BasicReferenceCounter<Faults>::PublishIfUnused(const ObjectId& object_id, Reference* ref) {
  const bool news = ref->HasBorrowInfo() || ref->has_nested_refs_to_report;
  // Found in a borrowed object: what is known goes the way of that one, because whoever waits for it keeps both.
  const bool goes_with_outer = ref->InBorrowed();
  if (!ref->Asked() && (!news || goes_with_outer || faults_.Has(Fault::kUnaskedReportKept))) return;
  if (ref->extra == nullptr) ref->MutableExtra();
  std::vector<Question> questions = std::move(ref->extra->questions);
  ref->extra->questions.clear();
  if (faults_.Has(Fault::kAnswerForgotten)) questions.clear();
  const std::optional<Address> owner = ref->extra->owner_address;
  const bool told_to_owner = !goes_with_outer;
  const ReferenceTable table = Collect({object_id}, {}, /*for_ref_removed=*/true, told_to_owner);
  // A number of owners can only have asked if the first died and its task ran again elsewhere.
  std::vector<std::pair<Address, RefRemovedMessage>> messages;
  for (const Question& question : questions) {
    auto to = std::find_if(messages.begin(), messages.end(),
                           [&](const auto& message) { return message.first == question.owner; });
    if (to == messages.end()) {
      to = messages.insert(messages.end(), {question.owner, RefRemovedMessage{object_id, {}, table}});
    }
    to->second.numbers.push_back(question.number);
  }
  // Nobody asked, and perhaps nobody will, because those who know that we borrow it may have died.
  if (messages.empty() && owner && !faults_.Has(Fault::kAnswerForgotten)) {
    messages.emplace_back(*owner, RefRemovedMessage{object_id, {}, table});
  }
  for (auto& message : messages) {
    Later([this, message = std::move(message)] {
      dependencies_.publisher->PublishRefRemoved(message.first, message.second);
    });
  }
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::HandleRefRemoved(const Address& borrower,
                                                             const RefRemovedMessage& message) {
  Operation operation(this);
  const auto find_entry = [&]() -> Borrower* {
    Reference* const ref = Find(message.object_id);
    if (ref == nullptr || !ref->owned_by_us || !ref->HasBorrowInfo()) return nullptr;
    return ref->extra->borrow->borrowers.Find(borrower.worker_id);
  };
  // First what the borrower knew, also from a borrower that is gone: others may use the object because of it.
  if (find_entry() != nullptr || !faults_.Has(Fault::kLateMergeDropped)) {
    Merge({message.object_id}, borrower, message.borrowed_refs);
  }
  if (message.numbers.empty()) return absl::OkStatus();
  Borrower* const entry = find_entry();
  if (entry == nullptr) return Repeated(message.object_id, borrower, Notice::kRefRemoved);
  bool answered = faults_.Has(Fault::kOldAnswerAccepted);
  for (const uint64_t number : message.numbers) answered |= entry->unanswered.Erase(number);
  if (!answered) return Repeated(message.object_id, borrower, Notice::kRefRemoved);
  if (!entry->unanswered.empty() && !faults_.Has(Fault::kOldAnswerAccepted)) return absl::OkStatus();
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

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::HandlePublisherFailed(const Address& borrower, const ObjectId& object_id) {
  Operation operation(this);
  if (faults_.Has(Fault::kFailureIgnored)) return absl::OkStatus();
  const Reference* const ref = Find(object_id);
  if (ref == nullptr || !ref->owned_by_us || !ref->HasBorrowInfo() ||
      !ref->extra->borrow->borrowers.contains(borrower.worker_id)) {
    return Repeated(object_id, borrower, Notice::kPublisherFailed);
  }
  CleanupBorrower(object_id, borrower, Notice::kPublisherFailed);
  return absl::OkStatus();
}

template <typename Faults>
void BasicReferenceCounter<Faults>::CleanupBorrower(const ObjectId& object_id, const Address& borrower, Notice first) {
  Find(object_id)->extra->borrow->borrowers.Erase(borrower.worker_id);
  repeated_.Remember(object_id, borrower.worker_id, first);
  DeleteIfUnused(object_id, nullptr);
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::Repeated(const ObjectId& object_id, const Address& borrower, Notice again) {
  if (faults_.Has(Fault::kSecondNoticeFatal) && again != Notice::kSubscription) {
    return absl::InternalError(absl::StrCat("check failed: borrowers.erase(", borrower.worker_id.Hex(), ") for object ",
                                            object_id.Hex(), ", notice: ", NameOf(again)));
  }
  std::optional<std::string> line =
      repeated_.Repeated(object_id, borrower.worker_id, again, dependencies_.clock->NowMs());
  if (line) Log(*std::move(line));
  return absl::OkStatus();
}

// --- The end of objects

template <typename Faults>
void BasicReferenceCounter<Faults>::ReleaseContents(const ObjectId& object_id, Reference* ref, Unused* unused) {
  if (ref->extra == nullptr) return;
  const std::vector<ObjectId> contains = std::move(ref->extra->nested.contains);
  ref->extra->nested.contains.clear();
  for (const ObjectId& inner_id : contains) {
    Reference* const inner = Find(inner_id);
    if (inner == nullptr || inner->extra == nullptr) {
      BrokenInvariant("ReleaseContents", inner_id, "is contained in another, but has no entry for that");
      continue;
    }
    NestedReferenceCount& nested = inner->extra->nested;
    if (!(ref->owned_by_us ? nested.contained_in_owned : nested.contained_in_borrowed_ids).Erase(object_id)) {
      BrokenInvariant("ReleaseContents", inner_id, "does not know that it is contained in another");
    }
  }
  // Handled last to first.
  unused->insert(unused->end(), contains.rbegin(), contains.rend());
}

template <typename Faults>
void BasicReferenceCounter<Faults>::DeleteIfUnused(const ObjectId& object_id, std::vector<ObjectId>* deleted) {
  Unused unused = {object_id};
  while (!unused.empty()) {
    const ObjectId id = unused.back();
    unused.pop_back();
    const auto it = table_.find(id);
    if (it == table_.end()) continue;
    Reference& ref = it->ref;
    if (!ref.owned_by_us && ref.RefCount() == 0) PublishIfUnused(id, &ref);
    if (faults_.Has(Fault::kNestedReleasedEarly) && ref.owned_by_us && ref.RefCount() == 0) {
      ReleaseContents(id, &ref, &unused);
    }
    if (!OutOfScope(ref)) continue;
    if (!ref.out_of_scope) {
      ref.out_of_scope = true;
      ReleaseContents(id, &ref, &unused);
      OnOutOfScopeOrFreed(id, &ref);
      if (deleted != nullptr) deleted->push_back(id);
    }
    if (!ref.ShouldDelete(options_.lineage_pinning)) continue;
    if (ref.owned_by_us && on_lineage_released_) {
      Later([this, id] { ReleaseLineage(id); });
    }
    Erase(it);
  }
}

template <typename Faults>
void BasicReferenceCounter<Faults>::OnOutOfScopeOrFreed(const ObjectId& object_id, Reference* ref) {
  if (ref->extra == nullptr) return;
  for (ObjectCallback& callback : ref->extra->on_out_of_scope_or_freed) {
    Later([callback, object_id] { callback(object_id); });
  }
  if (!faults_.Has(Fault::kCallbackKept)) ref->extra->on_out_of_scope_or_freed.clear();
  UnsetPrimaryCopy(ref);
}

template <typename Faults>
void BasicReferenceCounter<Faults>::Erase(EntryTable::iterator it) {
  const ObjectId object_id = it->object_id;
  Reference& ref = it->ref;
  if (ref.locations_subscribed) {
    Later([this, object_id] { dependencies_.publisher->PublishFailure(object_id); });
  }
  if (ref.owned_by_us) {
    --num_owned_;
    if (options_.lineage_pinning && ref.lineage_eligibility == LineageReconstructionEligibility::kEligible) {
      --num_reconstructable_;
    }
  }
  if (ref.extra != nullptr) {
    if (faults_.Has(Fault::kCallbackKept)) OnOutOfScopeOrFreed(object_id, &ref);
    for (ObjectCallback& callback : ref.extra->on_deleted) {
      Later([callback = std::move(callback), object_id] { callback(object_id); });
    }
  }
  table_.erase(it);
  if (reconstructable_.size() > 2 * num_reconstructable_ + 64) {
    std::erase_if(reconstructable_, [&](const ObjectId& id) { return Find(id) == nullptr; });
  }
  if (table_.empty() && shutdown_) {
    Later(std::exchange(shutdown_, nullptr));
  }
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::AddObjectOutOfScopeOrFreedCallback(const ObjectId& object_id,
                                                                       ObjectCallback callback) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr || ref->freed || ref->out_of_scope) return false;
  ref->MutableExtra().on_out_of_scope_or_freed.push_back(std::move(callback));
  return true;
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::AddObjectRefDeletedCallback(const ObjectId& object_id, ObjectCallback callback) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return false;
  ref->MutableExtra().on_deleted.push_back(std::move(callback));
  return true;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::FreePlasmaObjects(const std::vector<ObjectId>& object_ids) {
  Operation operation(this);
  for (const ObjectId& object_id : object_ids) {
    Reference* const ref = Find(object_id);
    if (ref == nullptr) continue;
    ref->freed = true;
    // Only the owner can free the value; the entry stays, because it says who the owner is.
    if (ref->owned_by_us) OnOutOfScopeOrFreed(object_id, ref);
  }
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::IsPlasmaObjectFreed(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  return ref != nullptr && ref->freed;
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::TryMarkFreedObjectInUseAgain(const ObjectId& object_id) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr || !ref->freed) return false;
  ref->freed = false;
  return true;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::DrainAndShutdown(std::function<void()> shutdown) {
  Operation operation(this);
  if (table_.empty()) {
    Later(std::move(shutdown));
    return;
  }
  Log(absl::StrCat(table_.size(), " objects are still in use; shutting down when the last is gone."));
  shutdown_ = std::move(shutdown);
}

// --- Lineage

template <typename Faults>
void BasicReferenceCounter<Faults>::SetReleaseLineageCallback(LineageReleasedCallback callback) {
  Operation operation(this);
  on_lineage_released_ = std::move(callback);
}

template <typename Faults>
int64_t BasicReferenceCounter<Faults>::ReleaseLineage(const ObjectId& object_id) {
  LineageReleasedCallback callback;
  {
    MutexLock lock(&mutex_);
    callback = on_lineage_released_;
  }
  const ReleasedLineage released = callback(object_id);
  if (faults_.Has(Fault::kLineageLeaked)) return released.bytes;
  Operation operation(this);
  for (const ObjectId& argument_id : released.argument_ids) {
    Reference* const ref = Find(argument_id);
    if (ref == nullptr || ref->lineage_ref_count == 0) {
      BrokenInvariant("ReleaseLineage", argument_id, "has no lineage reference");
      continue;
    }
    --ref->lineage_ref_count;
    if (ref->RefCount() == 0) DeleteIfUnused(argument_id, nullptr);
  }
  return released.bytes;
}

template <typename Faults>
int64_t BasicReferenceCounter<Faults>::EvictLineage(int64_t min_bytes_to_evict) {
  int64_t evicted_bytes = 0;
  while (evicted_bytes < min_bytes_to_evict) {
    std::optional<ObjectId> oldest;
    {
      Operation operation(this);
      if (!on_lineage_released_) return 0;
      while (!oldest && !reconstructable_.empty()) {
        Reference* const ref = Find(reconstructable_.front());
        if (ref != nullptr && ref->lineage_eligibility == LineageReconstructionEligibility::kEligible) {
          oldest = reconstructable_.front();
          ref->lineage_eligibility = LineageReconstructionEligibility::kIneligibleLineageEvicted;
          --num_reconstructable_;
        }
        reconstructable_.pop_front();
      }
    }
    if (!oldest) break;
    evicted_bytes += ReleaseLineage(*oldest);
  }
  return evicted_bytes;
}

template <typename Faults>
LineageReconstructionEligibility BasicReferenceCounter<Faults>::GetLineageReconstructionEligibility(
    const ObjectId& object_id) const {
  if (!options_.lineage_pinning) return LineageReconstructionEligibility::kIneligibleLineageDisabled;
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  return ref == nullptr ? LineageReconstructionEligibility::kIneligibleRefNotFound : ref->lineage_eligibility;
}

// --- Where objects are

template <typename Faults>
ObjectLocations BasicReferenceCounter<Faults>::LocationsOf(const ObjectId& object_id, const Reference& ref) const {
  ObjectLocations locations;
  locations.object_id = object_id;
  locations.object_size_bytes = ref.object_size_bytes;
  locations.pending_creation = ref.pending_creation;
  if (ref.extra == nullptr || ref.extra->placement == nullptr) return locations;
  const Placement& placement = *ref.extra->placement;
  for (const auto& [node_id, nothing] : placement.locations) locations.node_ids.push_back(node_id);
  locations.spilled_url = placement.spilled_url;
  locations.spilled_node_id = placement.spilled_node_id;
  locations.primary_node_id = placement.pinned_at_node_id;
  locations.did_spill = placement.did_spill;
  return locations;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::PushLocations(const ObjectId& object_id, const Reference& ref) {
  if (!ref.locations_subscribed) return;
  Later(
      [this, locations = LocationsOf(object_id, ref)] { dependencies_.publisher->PublishObjectLocations(locations); });
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::AddObjectLocation(const ObjectId& object_id, const NodeId& node_id) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return false;
  if (ref->MutablePlacement().locations.Insert(node_id)) PushLocations(object_id, *ref);
  return true;
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::RemoveObjectLocation(const ObjectId& object_id, const NodeId& node_id) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return false;
  if (ref->MutablePlacement().locations.Erase(node_id)) PushLocations(object_id, *ref);
  return true;
}

template <typename Faults>
std::optional<std::vector<NodeId>> BasicReferenceCounter<Faults>::GetObjectLocations(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref == nullptr) return std::nullopt;
  return LocationsOf(object_id, *ref).node_ids;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::UpdateObjectSize(const ObjectId& object_id, int64_t object_size_bytes) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return;
  ref->object_size_bytes = object_size_bytes;
  PushLocations(object_id, *ref);
}

template <typename Faults>
void BasicReferenceCounter<Faults>::UnsetPrimaryCopy(Reference* ref) {
  if (ref->extra == nullptr || ref->extra->placement == nullptr) return;
  Placement& placement = *ref->extra->placement;
  placement.pinned_at_node_id.reset();
  // What lies in storage that every node reaches does not go with a node.
  if (placement.spilled && !placement.spilled_node_id.IsNil()) {
    placement.spilled = false;
    placement.spilled_url.clear();
    placement.spilled_node_id = NodeId();
  }
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::UpdateObjectPinnedAtRaylet(const ObjectId& object_id,
                                                                       const NodeId& node_id) {
  const bool node_dead = dependencies_.is_node_dead && dependencies_.is_node_dead(node_id);
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr || ref->freed) return absl::OkStatus();
  if (!ref->owned_by_us) return Misused("UpdateObjectPinnedAtRaylet", object_id, "is not ours");
  if (OutOfScope(*ref)) return absl::OkStatus();
  if (node_dead) {
    UnsetPrimaryCopy(ref);
    objects_to_recover_.push_back(object_id);
  } else {
    ref->MutablePlacement().pinned_at_node_id = node_id;
  }
  return absl::OkStatus();
}

template <typename Faults>
std::optional<PinnedOrSpilled> BasicReferenceCounter<Faults>::IsPlasmaObjectPinnedOrSpilled(
    const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref == nullptr) return std::nullopt;
  PinnedOrSpilled result;
  if (!ref->owned_by_us) return result;
  result.owned_by_us = true;
  if (ref->extra != nullptr && ref->extra->placement != nullptr) {
    result.pinned_at = ref->extra->placement->pinned_at_node_id;
    result.spilled = ref->extra->placement->spilled;
  }
  return result;
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::HandleObjectSpilled(const ObjectId& object_id, const std::string& spilled_url,
                                                        const NodeId& spilled_node_id) {
  const bool node_dead =
      !spilled_node_id.IsNil() && dependencies_.is_node_dead && dependencies_.is_node_dead(spilled_node_id);
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return false;
  // The node that spilled it has been told to delete it.
  if (OutOfScope(*ref) && !spilled_node_id.IsNil()) return false;
  Placement& placement = ref->MutablePlacement();
  placement.spilled = true;
  placement.did_spill = true;
  if (node_dead) {
    placement.spilled_node_id = spilled_node_id;
    UnsetPrimaryCopy(ref);
    objects_to_recover_.push_back(object_id);
    return true;
  }
  if (!spilled_url.empty()) placement.spilled_url = spilled_url;
  if (!spilled_node_id.IsNil()) placement.spilled_node_id = spilled_node_id;
  PushLocations(object_id, *ref);
  return true;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::ResetObjectsOnRemovedNode(const NodeId& node_id) {
  Operation operation(this);
  for (const auto& [object_id, ref] : table_) {
    if (ref.extra == nullptr || ref.extra->placement == nullptr) continue;
    Placement& placement = *ref.extra->placement;
    if (placement.pinned_at_node_id == node_id || (placement.spilled && placement.spilled_node_id == node_id)) {
      UnsetPrimaryCopy(&ref);
      if (!OutOfScope(ref)) objects_to_recover_.push_back(object_id);
    }
    if (placement.locations.Erase(node_id)) PushLocations(object_id, ref);
  }
}

template <typename Faults>
std::vector<ObjectId> BasicReferenceCounter<Faults>::FlushObjectsToRecover() {
  MutexLock lock(&mutex_);
  return std::exchange(objects_to_recover_, {});
}

template <typename Faults>
std::optional<LocalityData> BasicReferenceCounter<Faults>::GetLocalityData(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref == nullptr || ref->object_size_bytes < 0) return std::nullopt;
  const ObjectLocations locations = LocationsOf(object_id, *ref);
  LocalityData data = {ref->object_size_bytes, locations.node_ids};
  const std::optional<NodeId>& primary = locations.primary_node_id;
  if (primary && std::find(data.nodes.begin(), data.nodes.end(), *primary) == data.nodes.end()) {
    data.nodes.push_back(*primary);
  }
  return data;
}

template <typename Faults>
absl::StatusOr<bool> BasicReferenceCounter<Faults>::ReportLocalityData(const ObjectId& object_id,
                                                                       const std::vector<NodeId>& locations,
                                                                       int64_t object_size_bytes) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return false;
  if (ref->owned_by_us) return Misused("ReportLocalityData", object_id, "is ours, and not borrowed");
  for (const NodeId& node_id : locations) ref->MutablePlacement().locations.Insert(node_id);
  if (object_size_bytes > 0) ref->object_size_bytes = object_size_bytes;
  return true;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::SetPendingCreation(const ObjectId& object_id, bool pending_creation) {
  Reference* const ref = Find(object_id);
  if (ref == nullptr || ref->pending_creation == pending_creation) return;
  ref->pending_creation = pending_creation;
  PushLocations(object_id, *ref);
}

template <typename Faults>
void BasicReferenceCounter<Faults>::UpdateObjectPendingCreation(const ObjectId& object_id, bool pending_creation) {
  Operation operation(this);
  SetPendingCreation(object_id, pending_creation);
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::IsObjectPendingCreation(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  return ref != nullptr && ref->pending_creation;
}

template <typename Faults>
void BasicReferenceCounter<Faults>::PublishObjectLocationSnapshot(const ObjectId& object_id) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref != nullptr) {
    ref->locations_subscribed = true;
    PushLocations(object_id, *ref);
    return;
  }
  Later([this, object_id] {
    ObjectLocations locations;
    locations.object_id = object_id;
    locations.ref_removed = true;
    dependencies_.publisher->PublishObjectLocations(locations);
    dependencies_.publisher->PublishFailure(object_id);
  });
}

template <typename Faults>
ObjectLocations BasicReferenceCounter<Faults>::FillObjectInformation(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref != nullptr) return LocationsOf(object_id, *ref);
  ObjectLocations locations;
  locations.object_id = object_id;
  locations.ref_removed = true;
  return locations;
}

// --- Questions

template <typename Faults>
size_t BasicReferenceCounter<Faults>::Size() const {
  MutexLock lock(&mutex_);
  return table_.size();
}

template <typename Faults>
size_t BasicReferenceCounter<Faults>::NumObjectsOwnedByUs() const {
  MutexLock lock(&mutex_);
  return num_owned_;
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::HasReference(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  return Find(object_id) != nullptr;
}

template <typename Faults>
bool BasicReferenceCounter<Faults>::OwnedByUs(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  return ref != nullptr && ref->owned_by_us;
}

template <typename Faults>
std::optional<Address> BasicReferenceCounter<Faults>::GetOwner(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref == nullptr) return std::nullopt;
  if (ref->owned_by_us) return options_.self;
  return ref->extra == nullptr ? std::nullopt : ref->extra->owner_address;
}

template <typename Faults>
absl::flat_hash_set<ObjectId> BasicReferenceCounter<Faults>::GetAllInScopeObjectIDs() const {
  MutexLock lock(&mutex_);
  absl::flat_hash_set<ObjectId> object_ids;
  object_ids.reserve(table_.size());
  for (const auto& [object_id, ref] : table_) object_ids.insert(object_id);
  return object_ids;
}

template <typename Faults>
absl::flat_hash_map<ObjectId, ReferenceCounts> BasicReferenceCounter<Faults>::GetAllReferenceCounts() const {
  MutexLock lock(&mutex_);
  absl::flat_hash_map<ObjectId, ReferenceCounts> counts;
  counts.reserve(table_.size());
  for (const auto& [object_id, ref] : table_) {
    counts.emplace(object_id, ReferenceCounts{ref.local_ref_count, ref.submitted_task_ref_count});
  }
  return counts;
}

template <typename Faults>
Stats BasicReferenceCounter<Faults>::GetStats() const {
  MutexLock lock(&mutex_);
  Stats stats = stats_;
  stats.repeated_ref_removed = repeated_.count(Notice::kRefRemoved);
  stats.repeated_publisher_failed = repeated_.count(Notice::kPublisherFailed);
  stats.repeated_subscriptions = repeated_.count(Notice::kSubscription);
  return stats;
}

template <typename Faults>
std::string BasicReferenceCounter<Faults>::DebugString(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref == nullptr) return absl::StrCat("no reference to ", object_id.Hex());
  static const Extra no_extra;
  static const BorrowInfo no_borrow;
  const Extra& extra = ref->extra == nullptr ? no_extra : *ref->extra;
  const BorrowInfo& borrow = extra.borrow == nullptr ? no_borrow : *extra.borrow;
  return absl::StrCat("Reference{", ref->owned_by_us ? "owned" : "borrowed", " local: ", ref->local_ref_count,
                      " submitted: ", ref->submitted_task_ref_count, " lineage: ", ref->lineage_ref_count,
                      " borrowers: ", borrow.borrowers.size(), " stored_in: ", borrow.stored_in_objects.size(),
                      " contained_in_owned: ", extra.nested.contained_in_owned.size(),
                      " contained_in_borrowed: ", extra.nested.contained_in_borrowed_ids.size(),
                      " contains: ", extra.nested.contains.size(), " questions: ", extra.questions.size(),
                      ref->has_nested_refs_to_report ? " nested to report" : "", ref->freed ? " freed" : "",
                      ref->out_of_scope ? " out of scope" : "", "}");
}

template <typename Faults>
absl::Status BasicReferenceCounter<Faults>::CheckInvariants() const {
  MutexLock lock(&mutex_);
  const auto broken = [](const ObjectId& object_id, absl::string_view what) {
    return absl::InternalError(absl::StrCat("object ", object_id.Hex(), " ", what));
  };
  size_t owned = 0;
  for (const auto& [object_id, ref] : table_) {
    owned += ref.owned_by_us ? 1 : 0;
    if (ref.ShouldDelete(options_.lineage_pinning) && !ref.owned_by_us) {
      return broken(object_id, "is borrowed, of no use to anybody, and still there");
    }
    if (ref.Asked() && ref.owned_by_us) return broken(object_id, "is ours, and yet an owner asked for it");
    if (ref.extra == nullptr) continue;
    for (const ObjectId& inner_id : ref.extra->nested.contains) {
      const Reference* const inner = Find(inner_id);
      if (inner == nullptr || inner->extra == nullptr)
        return broken(inner_id, "is contained in another, but not there");
      const NestedReferenceCount& nested = inner->extra->nested;
      if (!(ref.owned_by_us ? nested.contained_in_owned : nested.contained_in_borrowed_ids).contains(object_id)) {
        return broken(inner_id, "does not know that it is contained in another");
      }
    }
    for (const auto* outer_ids :
         {&ref.extra->nested.contained_in_owned, &ref.extra->nested.contained_in_borrowed_ids}) {
      for (const auto& [outer_id, nothing] : *outer_ids) {
        if (Find(outer_id) == nullptr) return broken(outer_id, "contains another, but is not there");
      }
    }
  }
  if (owned != num_owned_) return absl::InternalError("the number of owned objects is wrong");
  return absl::OkStatus();
}

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_REFERENCE_COUNTER_INL_H_
