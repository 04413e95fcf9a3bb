// The reference counter's code. Included where it is compiled: for use in reference_counter.cc, with seeded faults in
// src/mantaray/sim. This file has what every operation needs, and includes the parts at its end.

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

}  // namespace mantaray::refcount

// In this order: a part may use what is defined in one before it.
// clang-format off
#include "mantaray/refcount/reference_counter_uses_inl.h"
#include "mantaray/refcount/reference_counter_borrowing_inl.h"
#include "mantaray/refcount/reference_counter_ends_inl.h"
#include "mantaray/refcount/reference_counter_locations_inl.h"
// clang-format on

#endif  // MANTARAY_REFCOUNT_REFERENCE_COUNTER_INL_H_
