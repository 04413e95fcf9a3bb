// Tells at once when objects of this process go out of scope, on the releases of Ray whose Python has no such callback.
//
// Ray's counter keeps a list of functions for each object, which it calls when the object goes out of scope or its
// value is freed. The method that adds one is exported, so no function is replaced for this: nothing costs anything
// while nothing is watched. The counter itself is found through one call that goes through a slot for a moment
// (Capture).
//
// Ray calls back under its own lock, on any thread, so all that happens there is that the id is put into a list and an
// event file descriptor is written. Whoever reads the descriptor takes the list.

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

// One for the process; its objects are never destroyed, since Ray may hold callbacks until the end.
class ScopeWatch {
 public:
  // Returns the watch of this process. Refused as AttachRefcountGuard is; nothing is changed then.
  static absl::StatusOr<ScopeWatch*> Of(const std::string& library_path);

  // Finds the counter of the core worker that now runs: `ask` must make Ray look up an object's owner on this thread.
  // Call it again after each start of Ray; what an earlier core worker still tells is dropped from then on, since a new
  // cluster gives the same ids again. NotFound: `ask` did not reach the counter.
  absl::Status Capture(const std::function<void()>& ask);

  // Has Ray call back for an object. False: it is out of scope, freed, or unknown. Only while the core worker that was
  // captured runs; so are the next two.
  bool Add(const ObjectId& object_id);

  // Whether the value of an object was freed although there are references.
  bool IsFreed(const ObjectId& object_id) const;

  // Readable when there is something to take.
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
  // Set by Capture, which does not run beside other methods.
  RayCounter* counter_ = nullptr;
  // How many counters there have been. Each callback carries the number of its counter.
  uintptr_t generation_ = 0;
  Mutex mutex_;
  std::vector<std::pair<uintptr_t, ObjectId>> gone_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_SCOPE_WATCH_H_
