// The locations of objects, and the queries of the reference counter.
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

// --- Where objects are

ObjectLocations ReferenceCounter::LocationsOf(const ObjectId& object_id, const Reference& ref) const {
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

void ReferenceCounter::PushLocations(const ObjectId& object_id, const Reference& ref) {
  if (!ref.locations_subscribed) return;
  Later(
      [this, locations = LocationsOf(object_id, ref)] { dependencies_.publisher->PublishObjectLocations(locations); });
}

bool ReferenceCounter::AddObjectLocation(const ObjectId& object_id, const NodeId& node_id) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return false;
  if (ref->MutablePlacement().locations.Insert(node_id)) PushLocations(object_id, *ref);
  return true;
}

bool ReferenceCounter::RemoveObjectLocation(const ObjectId& object_id, const NodeId& node_id) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return false;
  if (ref->MutablePlacement().locations.Erase(node_id)) PushLocations(object_id, *ref);
  return true;
}

std::optional<std::vector<NodeId>> ReferenceCounter::GetObjectLocations(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref == nullptr) return std::nullopt;
  return LocationsOf(object_id, *ref).node_ids;
}

void ReferenceCounter::UpdateObjectSize(const ObjectId& object_id, int64_t object_size_bytes) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return;
  ref->object_size_bytes = object_size_bytes;
  PushLocations(object_id, *ref);
}

void ReferenceCounter::UnsetPrimaryCopy(Reference* ref) {
  if (ref->extra == nullptr || ref->extra->placement == nullptr) return;
  Placement& placement = *ref->extra->placement;
  placement.pinned_at_node_id.reset();
  // A value in storage that every node can reach is not lost with a node.
  if (placement.spilled && !placement.spilled_node_id.IsNil()) {
    placement.spilled = false;
    placement.spilled_url.clear();
    placement.spilled_node_id = NodeId();
  }
}

absl::Status ReferenceCounter::UpdateObjectPinnedAtRaylet(const ObjectId& object_id, const NodeId& node_id) {
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

std::optional<PinnedOrSpilled> ReferenceCounter::IsPlasmaObjectPinnedOrSpilled(const ObjectId& object_id) const {
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

bool ReferenceCounter::HandleObjectSpilled(const ObjectId& object_id, const std::string& spilled_url,
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

void ReferenceCounter::ResetObjectsOnRemovedNode(const NodeId& node_id) {
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

std::vector<ObjectId> ReferenceCounter::FlushObjectsToRecover() {
  MutexLock lock(&mutex_);
  return std::exchange(objects_to_recover_, {});
}

std::optional<LocalityData> ReferenceCounter::GetLocalityData(const ObjectId& object_id) const {
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

absl::StatusOr<bool> ReferenceCounter::ReportLocalityData(const ObjectId& object_id,
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

void ReferenceCounter::SetPendingCreation(const ObjectId& object_id, bool pending_creation) {
  Reference* const ref = Find(object_id);
  if (ref == nullptr || ref->pending_creation == pending_creation) return;
  ref->pending_creation = pending_creation;
  PushLocations(object_id, *ref);
}

void ReferenceCounter::UpdateObjectPendingCreation(const ObjectId& object_id, bool pending_creation) {
  Operation operation(this);
  SetPendingCreation(object_id, pending_creation);
}

bool ReferenceCounter::IsObjectPendingCreation(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  return ref != nullptr && ref->pending_creation;
}

void ReferenceCounter::PublishObjectLocationSnapshot(const ObjectId& object_id) {
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

ObjectLocations ReferenceCounter::FillObjectInformation(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref != nullptr) return LocationsOf(object_id, *ref);
  ObjectLocations locations;
  locations.object_id = object_id;
  locations.ref_removed = true;
  return locations;
}

// --- Questions

size_t ReferenceCounter::Size() const {
  MutexLock lock(&mutex_);
  return table_.size();
}

size_t ReferenceCounter::NumObjectsOwnedByUs() const {
  MutexLock lock(&mutex_);
  return num_owned_;
}

bool ReferenceCounter::HasReference(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  return Find(object_id) != nullptr;
}

bool ReferenceCounter::OwnedByUs(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  return ref != nullptr && ref->owned_by_us;
}

std::optional<Address> ReferenceCounter::GetOwner(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  if (ref == nullptr) return std::nullopt;
  if (ref->owned_by_us) return options_.self;
  return ref->extra == nullptr ? std::nullopt : ref->extra->owner_address;
}

absl::flat_hash_set<ObjectId> ReferenceCounter::GetAllInScopeObjectIDs() const {
  MutexLock lock(&mutex_);
  absl::flat_hash_set<ObjectId> object_ids;
  object_ids.reserve(table_.size());
  for (const auto& [object_id, ref] : table_) object_ids.insert(object_id);
  return object_ids;
}

absl::flat_hash_map<ObjectId, ReferenceCounts> ReferenceCounter::GetAllReferenceCounts() const {
  MutexLock lock(&mutex_);
  absl::flat_hash_map<ObjectId, ReferenceCounts> counts;
  counts.reserve(table_.size());
  for (const auto& [object_id, ref] : table_) {
    counts.emplace(object_id, ReferenceCounts{ref.local_ref_count, ref.submitted_task_ref_count});
  }
  return counts;
}

Stats ReferenceCounter::GetStats() const {
  MutexLock lock(&mutex_);
  Stats stats = stats_;
  stats.repeated_ref_removed = repeated_.count(Notice::kRefRemoved);
  stats.repeated_publisher_failed = repeated_.count(Notice::kPublisherFailed);
  stats.repeated_subscriptions = repeated_.count(Notice::kSubscription);
  return stats;
}

std::string ReferenceCounter::DebugString(const ObjectId& object_id) const {
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

absl::Status ReferenceCounter::CheckInvariants() const {
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
