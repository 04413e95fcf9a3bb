// Shared by the parts of the reference counter. Only reference_counter*.cc include it.

#ifndef MANTARAY_REFCOUNT_REFERENCE_COUNTER_INTERNAL_H_
#define MANTARAY_REFCOUNT_REFERENCE_COUNTER_INTERNAL_H_

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "mantaray/refcount/reference_counter.h"

namespace mantaray::refcount {

absl::Status UnknownObject(absl::string_view operation, const ObjectId& object_id);
absl::Status Misused(absl::string_view operation, const ObjectId& object_id, absl::string_view what);

// Holds the lock. When it releases the lock, it runs the effects that were queued meanwhile.
class ABSL_SCOPED_LOCKABLE ReferenceCounter::Operation {
 public:
  explicit Operation(ReferenceCounter* counter) ABSL_EXCLUSIVE_LOCK_FUNCTION(counter->mutex_) : counter_(counter) {
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
  ReferenceCounter* const counter_;
};

// In the header, because almost every operation calls them.
inline Reference* ReferenceCounter::Find(const ObjectId& object_id) { return table_.Find(object_id); }
inline const Reference* ReferenceCounter::Find(const ObjectId& object_id) const { return table_.Find(object_id); }

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_REFERENCE_COUNTER_INTERNAL_H_
