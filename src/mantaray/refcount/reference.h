// One entry of a reference counter's table. Most objects are owned, not nested and not borrowed. Everything that they
// do not need is behind pointers, so such an entry takes 64 bytes with its id.

#ifndef MANTARAY_REFCOUNT_REFERENCE_H_
#define MANTARAY_REFCOUNT_REFERENCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mantaray/common/ids.h"
#include "mantaray/refcount/messages.h"
#include "mantaray/refcount/ordered_map.h"

namespace mantaray::refcount {

// Whether a lost object can be computed again by running its task again.
enum class LineageReconstructionEligibility : uint8_t {
  kEligible,
  kIneligiblePut,
  kIneligibleNoRetries,
  kIneligibleLineageEvicted,
  kIneligibleLineageDisabled,
  kIneligibleRefNotFound,
};

using ObjectCallback = std::function<void(const ObjectId&)>;

struct NestedReferenceCount {
  // The objects whose values contain this object: those that this process owns, and those that it borrowed.
  OrderedSet<ObjectId> contained_in_owned;
  OrderedSet<ObjectId> contained_in_borrowed_ids;
  // The reverse of both. Each inner id occurs once, because the inner object's own sets are checked first.
  std::vector<ObjectId> contains;
};

// A process that uses an object.
struct Borrower {
  Address address;
  // Only at the owner: the questions that the borrower has not answered.
  OrderedSet<uint64_t> unanswered;
  // Only at the owner: whether the borrower was reported again after the last question, so that its next answer may be
  // older than that report.
  bool reported_again = false;
  // Only at a borrower: whether the object's owner was told, and nothing has changed since.
  bool owner_told = false;
};

// A return value of a task, owned by another process.
struct StoredIn {
  Address owner;
  bool owner_told = false;
};

struct BorrowInfo {
  OrderedMap<WorkerId, Borrower> borrowers;
  // Only at a borrower: the return values of tasks in which the object was stored, and their owners.
  OrderedMap<ObjectId, StoredIn> stored_in_objects;

  bool empty() const { return borrowers.empty() && stored_in_objects.empty(); }
};

// A question of an owner, to be answered when the reference is no longer used.
struct Question {
  Address owner;
  uint64_t number;
};

struct Placement {
  OrderedSet<NodeId> locations;
  std::optional<NodeId> pinned_at_node_id;
  std::string spilled_url;
  NodeId spilled_node_id;
  bool spilled = false;
  bool did_spill = false;
};

struct Extra {
  NestedReferenceCount nested;
  std::unique_ptr<BorrowInfo> borrow;
  std::unique_ptr<Placement> placement;
  std::optional<Address> owner_address;  // of a borrowed object, once known
  std::vector<Question> questions;
  std::vector<ObjectCallback> on_out_of_scope_or_freed;
  std::vector<ObjectCallback> on_deleted;
  std::string call_site;
};

struct Reference {
  uint32_t local_ref_count = 0;
  uint32_t submitted_task_ref_count = 0;
  // How many tasks may run again and have this object as an argument.
  uint32_t lineage_ref_count = 0;
  LineageReconstructionEligibility lineage_eligibility = LineageReconstructionEligibility::kEligible;
  bool owned_by_us : 1 = false;
  bool pending_creation : 1 = false;
  // Whether the program has freed the value.
  bool freed : 1 = false;
  // Whether the value is gone and the entry only remains for its lineage.
  bool out_of_scope : 1 = false;
  // Whether an object found in this object's value is or was in use, and no process was told.
  bool has_nested_refs_to_report : 1 = false;
  // Whether the owner has asked, or another process will make it ask: a caller that was told of this process's use, or
  // the process that put the object into a value of this process.
  bool owner_will_ask : 1 = false;
  bool foreign_owner_already_monitoring : 1 = false;
  bool locations_subscribed : 1 = false;
  int64_t object_size_bytes = -1;
  std::unique_ptr<Extra> extra;

  Extra& MutableExtra() {
    if (extra == nullptr) extra = std::make_unique<Extra>();
    return *extra;
  }
  BorrowInfo& MutableBorrow() {
    std::unique_ptr<BorrowInfo>& borrow = MutableExtra().borrow;
    if (borrow == nullptr) borrow = std::make_unique<BorrowInfo>();
    return *borrow;
  }
  Placement& MutablePlacement() {
    std::unique_ptr<Placement>& placement = MutableExtra().placement;
    if (placement == nullptr) placement = std::make_unique<Placement>();
    return *placement;
  }

  // How often this process uses the object: Ray's RefCount.
  uint64_t RefCount() const {
    return uint64_t{local_ref_count} + submitted_task_ref_count +
           (extra == nullptr ? 0 : extra->nested.contained_in_owned.size());
  }
  bool HasBorrowInfo() const { return extra != nullptr && extra->borrow != nullptr && !extra->borrow->empty(); }
  bool InBorrowed() const { return extra != nullptr && !extra->nested.contained_in_borrowed_ids.empty(); }
  bool Asked() const { return extra != nullptr && !extra->questions.empty(); }

  // Whether no process that this process knows of can reach the value.
  bool OutOfScope(bool lineage_pinning) const {
    if (RefCount() > 0 || has_nested_refs_to_report || InBorrowed() || HasBorrowInfo()) return false;
    // A value that cannot be computed again must stay as long as a task that needs it may run again.
    return !(lineage_pinning && owned_by_us && lineage_eligibility != LineageReconstructionEligibility::kEligible &&
             lineage_ref_count > 0);
  }
  bool ShouldDelete(bool lineage_pinning) const {
    return OutOfScope(lineage_pinning) && (!lineage_pinning || lineage_ref_count == 0);
  }
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_REFERENCE_H_
