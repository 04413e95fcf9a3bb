// The uses of objects by the process itself: local references, owned, borrowed and nested objects, tasks.
// See reference_counter.h.

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mantaray/refcount/reference_counter.h"
#include "mantaray/refcount/reference_counter_internal.h"

namespace mantaray::refcount {

// --- Local references

absl::Status ReferenceCounter::AddLocalReference(const ObjectId& object_id, absl::string_view call_site) {
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

absl::Status ReferenceCounter::RemoveLocalReference(const ObjectId& object_id, std::vector<ObjectId>* deleted) {
  Operation operation(this);
  return RemoveLocal(object_id, deleted);
}

absl::Status ReferenceCounter::RemoveLocal(const ObjectId& object_id, std::vector<ObjectId>* deleted) {
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return UnknownObject("RemoveLocalReference", object_id);
  if (ref->local_ref_count == 0) return Misused("RemoveLocalReference", object_id, "has no local reference");
  --ref->local_ref_count;
  if (ref->RefCount() == 0) DeleteIfUnused(object_id, deleted);
  return absl::OkStatus();
}

void ReferenceCounter::TryReleaseLocalRefs(const std::vector<ObjectId>& object_ids, std::vector<ObjectId>* deleted) {
  Operation operation(this);
  for (const ObjectId& object_id : object_ids) {
    const Reference* const ref = Find(object_id);
    if (ref != nullptr && ref->local_ref_count > 0) RemoveLocal(object_id, deleted).IgnoreError();
  }
}

void ReferenceCounter::ReleaseAllLocalReferences() {
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

absl::Status ReferenceCounter::AddOwnedObject(const OwnedObject& object) {
  Operation operation(this);
  return AddOwned(object);
}

absl::Status ReferenceCounter::AddOwned(const OwnedObject& object) {
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

absl::Status ReferenceCounter::AddDynamicReturn(const ObjectId& object_id, const ObjectId& generator_id) {
  Operation operation(this);
  return AddGenerated(object_id, generator_id, /*add_local_ref=*/false, "AddDynamicReturn");
}

absl::Status ReferenceCounter::OwnDynamicStreamingTaskReturnRef(const ObjectId& object_id,
                                                                const ObjectId& generator_id) {
  Operation operation(this);
  return AddGenerated(object_id, generator_id, /*add_local_ref=*/true, "OwnDynamicStreamingTaskReturnRef");
}

absl::Status ReferenceCounter::AddGenerated(const ObjectId& object_id, const ObjectId& generator_id, bool add_local_ref,
                                            absl::string_view operation) {
  const Reference* const generator = Find(generator_id);
  // The generator is gone. Its object was never used or is known already, so no process waits for it.
  if (generator == nullptr) return absl::OkStatus();
  if (!generator->owned_by_us) return Misused(operation, generator_id, "is not ours");
  // If the object has an entry already, an earlier run of the task has added it.
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

absl::Status ReferenceCounter::AddBorrowedObject(const ObjectId& object_id, const ObjectId& outer_id,
                                                 const Address& owner_address, bool foreign_owner_already_monitoring) {
  Operation operation(this);
  if (object_id == outer_id) return Misused("AddBorrowedObject", object_id, "cannot contain itself");
  AddBorrowed(object_id, outer_id, owner_address);
  Reference* const ref = Find(object_id);
  if (foreign_owner_already_monitoring && ref != nullptr) ref->foreign_owner_already_monitoring = true;
  return absl::OkStatus();
}

void ReferenceCounter::AddBorrowed(const ObjectId& object_id, const ObjectId& outer_id, const Address& owner_address) {
  const Reference* outer = outer_id.IsNil() ? nullptr : Find(outer_id);
  // Only the lineage of the outer object is left.
  if (outer != nullptr && outer->out_of_scope) outer = nullptr;
  const bool found_in_owned = outer != nullptr && outer->owned_by_us;
  const bool found_in_borrowed = outer != nullptr && !found_in_owned;
  Reference* ref = Find(object_id);
  if (ref == nullptr) {
    // The object is neither used nor inside an object that is used, so there is nothing to keep.
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

void ReferenceCounter::SetNestedRefInUse(const Reference& ref) {
  if (!ref.InBorrowed()) return;
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

absl::Status ReferenceCounter::AddNestedObjectIds(const ObjectId& object_id, const std::vector<ObjectId>& inner_ids,
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

void ReferenceCounter::AddContainedInOwned(const ObjectId& object_id, const std::vector<ObjectId>& inner_ids) {
  const Reference* const outer = Find(object_id);
  // No process can open a value that is gone. An own object's entry that is not marked as owned was made when another
  // process sent a reference to an object that this process had freed.
  if (outer == nullptr || !outer->owned_by_us || outer->out_of_scope) return;
  for (const ObjectId& inner_id : inner_ids) {
    // Otherwise the object would keep itself.
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

void ReferenceCounter::AddStoredIn(const ObjectId& object_id, const ObjectId& inner_id, const Address& owner_address) {
  Reference* const inner = Find(inner_id);
  if (inner == nullptr) return;
  if (inner->owned_by_us) {
    AddBorrower(inner_id, inner, owner_address, object_id);
  } else {
    inner->MutableBorrow().stored_in_objects.Emplace(object_id, StoredIn{owner_address}).first->owner_told = false;
  }
}

absl::Status ReferenceCounter::AddBorrowerAddress(const ObjectId& object_id, const Address& borrower) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return UnknownObject("AddBorrowerAddress", object_id);
  if (!ref->owned_by_us) return Misused("AddBorrowerAddress", object_id, "is not ours");
  if (IsSelf(borrower)) return Misused("AddBorrowerAddress", object_id, "cannot be borrowed by its owner");
  AddBorrower(object_id, ref, borrower);
  return absl::OkStatus();
}

// --- Tasks

absl::Status ReferenceCounter::CheckSubmitted(const std::vector<ObjectId>& argument_ids, absl::string_view operation) {
  // The counts are decreased and restored, because the same argument may occur several times.
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

void ReferenceCounter::AddSubmitted(const ObjectId& argument_id, bool keep_lineage) {
  Reference& ref = *table_.FindOrAdd(argument_id).first;
  const bool was_in_use = ref.RefCount() > 0;
  ++ref.submitted_task_ref_count;
  if (keep_lineage) ++ref.lineage_ref_count;
  ref.out_of_scope = false;
  if (!was_in_use) SetNestedRefInUse(ref);
}

absl::Status ReferenceCounter::UpdateSubmittedTaskReferences(const std::vector<ObjectId>& return_ids,
                                                             const std::vector<ObjectId>& argument_ids_to_add,
                                                             const std::vector<ObjectId>& argument_ids_to_remove,
                                                             std::vector<ObjectId>* deleted) {
  Operation operation(this);
  absl::Status removable = CheckSubmitted(argument_ids_to_remove, "UpdateSubmittedTaskReferences");
  if (!removable.ok()) return removable;
  for (const ObjectId& return_id : return_ids) SetPendingCreation(return_id, true);
  for (const ObjectId& argument_id : argument_ids_to_add) AddSubmitted(argument_id, /*keep_lineage=*/true);
  RemoveSubmitted(argument_ids_to_remove, /*release_lineage=*/true, deleted);
  return absl::OkStatus();
}

absl::Status ReferenceCounter::UpdateResubmittedTaskReferences(const std::vector<ObjectId>& argument_ids) {
  Operation operation(this);
  for (const ObjectId& argument_id : argument_ids) {
    if (Find(argument_id) == nullptr) return UnknownObject("UpdateResubmittedTaskReferences", argument_id);
  }
  for (const ObjectId& argument_id : argument_ids) AddSubmitted(argument_id, /*keep_lineage=*/false);
  return absl::OkStatus();
}

absl::Status ReferenceCounter::UpdateFinishedTaskReferences(const std::vector<ObjectId>& return_ids,
                                                            const std::vector<ObjectId>& argument_ids,
                                                            bool release_lineage, const Address& worker,
                                                            const ReferenceTable& borrowed_refs,
                                                            std::vector<ObjectId>* deleted) {
  Operation operation(this);
  absl::Status finishing = CheckSubmitted(argument_ids, "UpdateFinishedTaskReferences");
  if (!finishing.ok()) return finishing;
  for (const ObjectId& return_id : return_ids) SetPendingCreation(return_id, false);
  // Merge the report first, so that everything that the worker still uses has a borrower before the argument is
  // released.
  Merge(argument_ids, worker, borrowed_refs);
  RemoveSubmitted(argument_ids, release_lineage, deleted);
  return absl::OkStatus();
}

void ReferenceCounter::RemoveSubmitted(const std::vector<ObjectId>& argument_ids, bool release_lineage,
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

}  // namespace mantaray::refcount
