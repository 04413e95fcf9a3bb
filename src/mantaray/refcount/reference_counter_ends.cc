// The end of objects, and of their lineage.
// See reference_counter.h.

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mantaray/refcount/reference_counter.h"
#include "mantaray/refcount/reference_counter_internal.h"

namespace mantaray::refcount {

// --- The end of objects

void ReferenceCounter::ReleaseContents(const ObjectId& object_id, Reference* ref, Unused* unused) {
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
  // The list is handled from its end.
  unused->insert(unused->end(), contains.rbegin(), contains.rend());
}

void ReferenceCounter::DeleteIfUnused(const ObjectId& object_id, std::vector<ObjectId>* deleted) {
  Unused unused = {object_id};
  while (!unused.empty()) {
    const ObjectId id = unused.back();
    unused.pop_back();
    const auto it = table_.find(id);
    if (it == table_.end()) continue;
    Reference& ref = it->ref;
    if (!ref.owned_by_us && ref.RefCount() == 0) PublishIfUnused(id, &ref);
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

void ReferenceCounter::OnOutOfScopeOrFreed(const ObjectId& object_id, Reference* ref) {
  if (ref->extra == nullptr) return;
  for (ObjectCallback& callback : ref->extra->on_out_of_scope_or_freed) {
    Later([callback, object_id] { callback(object_id); });
  }
  ref->extra->on_out_of_scope_or_freed.clear();
  UnsetPrimaryCopy(ref);
}

void ReferenceCounter::Erase(EntryTable::iterator it) {
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

bool ReferenceCounter::AddObjectOutOfScopeOrFreedCallback(const ObjectId& object_id, ObjectCallback callback) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr || ref->freed || ref->out_of_scope) return false;
  ref->MutableExtra().on_out_of_scope_or_freed.push_back(std::move(callback));
  return true;
}

bool ReferenceCounter::AddObjectRefDeletedCallback(const ObjectId& object_id, ObjectCallback callback) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr) return false;
  ref->MutableExtra().on_deleted.push_back(std::move(callback));
  return true;
}

void ReferenceCounter::FreePlasmaObjects(const std::vector<ObjectId>& object_ids) {
  Operation operation(this);
  for (const ObjectId& object_id : object_ids) {
    Reference* const ref = Find(object_id);
    if (ref == nullptr) continue;
    ref->freed = true;
    // Only the owner can free the value. The entry stays, because it names the owner.
    if (ref->owned_by_us) OnOutOfScopeOrFreed(object_id, ref);
  }
}

bool ReferenceCounter::IsPlasmaObjectFreed(const ObjectId& object_id) const {
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  return ref != nullptr && ref->freed;
}

bool ReferenceCounter::TryMarkFreedObjectInUseAgain(const ObjectId& object_id) {
  Operation operation(this);
  Reference* const ref = Find(object_id);
  if (ref == nullptr || !ref->freed) return false;
  ref->freed = false;
  return true;
}

void ReferenceCounter::DrainAndShutdown(std::function<void()> shutdown) {
  Operation operation(this);
  if (table_.empty()) {
    Later(std::move(shutdown));
    return;
  }
  Log(absl::StrCat(table_.size(), " objects are still in use; shutting down when the last is gone."));
  shutdown_ = std::move(shutdown);
}

// --- Lineage

void ReferenceCounter::SetReleaseLineageCallback(LineageReleasedCallback callback) {
  Operation operation(this);
  on_lineage_released_ = std::move(callback);
}

int64_t ReferenceCounter::ReleaseLineage(const ObjectId& object_id) {
  LineageReleasedCallback callback;
  {
    MutexLock lock(&mutex_);
    callback = on_lineage_released_;
  }
  const ReleasedLineage released = callback(object_id);
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

int64_t ReferenceCounter::EvictLineage(int64_t min_bytes_to_evict) {
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

LineageReconstructionEligibility ReferenceCounter::GetLineageReconstructionEligibility(
    const ObjectId& object_id) const {
  if (!options_.lineage_pinning) return LineageReconstructionEligibility::kIneligibleLineageDisabled;
  MutexLock lock(&mutex_);
  const Reference* const ref = Find(object_id);
  return ref == nullptr ? LineageReconstructionEligibility::kIneligibleRefNotFound : ref->lineage_eligibility;
}

}  // namespace mantaray::refcount
