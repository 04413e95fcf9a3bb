// Reports at once when objects of this process go out of scope, on releases whose Python interface has no callback.
//
// Ray's counter keeps a list of functions for each object, and calls them when the object goes out of scope or its
// value is freed. The method that adds such a function is exported. So no function is replaced, and objects that are
// not watched cost nothing. The counter itself is found by one call that goes through a slot for a moment (Capture).
//
// Ray calls back under its own lock, on any thread. So the callback only puts the id into a list and writes to an event
// file descriptor. The reader of the descriptor takes the list.

#ifndef MANTARAY_INTERPOSE_SCOPE_WATCH_H_
#define MANTARAY_INTERPOSE_SCOPE_WATCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/common/ids.h"
#include "mantaray/common/mutex.h"
#include "mantaray/interpose/elf_library.h"
#include "mantaray/interpose/interposition.h"
#include "mantaray/interpose/ray_abi.h"

namespace mantaray::interpose {

// The watch of a process. It is never destroyed, because Ray may hold callbacks until the end.
class ScopeWatch {
 public:
  // Returns the watch of this process. Refused for the same reasons as AttachRefcountGuard; then nothing is changed.
  static absl::StatusOr<ScopeWatch*> Of(const std::string& library_path);

  // Finds the counter of the current core worker: `ask` must make Ray look up an object's owner on this thread. Call it
  // again after each start of Ray. From then on, callbacks of an earlier core worker are dropped, because a new cluster
  // uses the same ids again. NotFound: `ask` did not reach the counter.
  absl::Status Capture(const std::function<void()>& ask);

  // Asks Ray for a callback for an object. False: it is out of scope, freed, or unknown. Call this and the next two
  // methods only while the captured core worker runs.
  bool Add(const ObjectId& object_id);

  // Whether the value of an object was freed although references to it remain.
  bool IsFreed(const ObjectId& object_id) const;

  // A descriptor that is readable when Take would return something.
  int descriptor() const { return descriptor_; }

  // Returns the objects that went out of scope, or were freed, since the last call, in order.
  std::vector<ObjectId> Take();

 private:
  ScopeWatch(RayFunctions ray, Interposition owner_lookup, int descriptor)
      : ray_(ray), owner_lookup_(std::move(owner_lookup)), descriptor_(descriptor) {}

  static void OnOutOfScope(const void* functor, const RayObjectId* object_id);

  const RayFunctions ray_;
  Interposition owner_lookup_;
  const int descriptor_;
  // Set by Capture, which never runs at the same time as other methods.
  RayCounter* counter_ = nullptr;
  // How many counters there have been. Each callback carries the number of its counter.
  uintptr_t generation_ = 0;
  Mutex mutex_;
  std::vector<std::pair<uintptr_t, ObjectId>> gone_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_SCOPE_WATCH_H_
