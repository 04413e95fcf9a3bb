// The common part of all operations of the reference counter: the table, and the effects that run without the lock.

#include "mantaray/refcount/reference_counter.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "mantaray/refcount/reference_counter_internal.h"

namespace mantaray::refcount {

absl::Status UnknownObject(absl::string_view operation, const ObjectId& object_id) {
  return absl::NotFoundError(absl::StrCat(operation, ": object ", object_id.Hex(), " is not in the table"));
}

absl::Status Misused(absl::string_view operation, const ObjectId& object_id, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(operation, ": object ", object_id.Hex(), " ", what));
}

ReferenceCounter::ReferenceCounter(Dependencies dependencies, Options options)
    : dependencies_(std::move(dependencies)), options_(std::move(options)) {}

void ReferenceCounter::Later(std::function<void()> effect) { effects_.push_back(std::move(effect)); }

void ReferenceCounter::RunEffects() {
  for (bool done_one = false;; done_one = true) {
    std::function<void()> effect;
    {
      MutexLock lock(&mutex_);
      if (done_one) running_effects_ = false;
      // The thread that runs effects goes on until none is left, so that effects run in order and one at a time.
      if (running_effects_ || effects_.empty()) return;
      running_effects_ = true;
      effect = std::move(effects_.front());
      effects_.pop_front();
    }
    effect();
  }
}

void ReferenceCounter::Log(std::string line) {
  if (dependencies_.log) Later([this, line = std::move(line)] { dependencies_.log(line); });
}

void ReferenceCounter::BrokenInvariant(absl::string_view operation, const ObjectId& object_id, absl::string_view what) {
  ++stats_.broken_invariants;
  Log(absl::StrCat("Broken invariant in ", operation, ": object ", object_id.Hex(), " ", what));
}

}  // namespace mantaray::refcount
