// Keeps a process alive when an outer object goes out of scope a second time.
//
// When an object that contains references goes out of scope, Ray removes it from the entry of each inner object, and
// ends the process if the entry of an inner object does not name it
// (`Check failed: inner_it->second.mutable_nested()->contained_in_borrowed_ids.erase(id)`, ray #57985). Ray keeps the
// entry of an object that is out of scope as long as a task that may run again needs it, and the entry still names the
// inner objects. If such an object is borrowed once more and dropped, or if the owner's question "tell me when you no
// longer use it" arrives late, the object goes out of scope again and the check fails. All releases from 2.48 to 2.60
// do this.
//
// The guard replaces these methods of Ray's counter. All of them run under Ray's lock.
//
//   DeleteReferenceInternal      remembers which inner objects were released, if the outer entry stays
//   find, of the table           returns "not found" to the loop in DeleteReferenceInternal for an inner object that
//                                was released before, so that the loop goes on to the next
//   EraseReference               forgets an outer object whose entry is erased
//   AddBorrowedObjectInternal,   forget that the outer object has released the inner one, because Ray links them anew
//   AddNestedObjectIdsInternal
//
// Faults it survives: an outer object that goes out of scope any number of times, while any of its inner objects are
// in use, and whether or not they are linked again in between. Nothing else that keeps an inner object is changed.
//
// Locking: the lock of the guard's own book-keeping is the innermost.

#ifndef MANTARAY_INTERPOSE_NESTING_GUARD_H_
#define MANTARAY_INTERPOSE_NESTING_GUARD_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace mantaray::interpose {

struct NestingGuardCounts {
  bool attached = false;
  // How many outer objects are out of scope now while Ray keeps their entries.
  uint64_t kept_outer_objects = 0;
  // How often an inner object was released again. Each time would have ended the process.
  uint64_t repeated_releases = 0;
};

// Attaches the guard to a loaded library of Ray. Call it before the process has a core worker, because the guard must
// see every object that is released. A second call does nothing.
//
// Returns why the guard was refused. Then nothing is changed; see ElfLibrary, Interposition and RayFunctions.
absl::Status AttachNestingGuard(const std::string& library_path);

// Takes the guard back. FailedPrecondition: somebody else has changed a slot since.
absl::Status DetachNestingGuard();

NestingGuardCounts NestingGuardCountsOfNow();

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_NESTING_GUARD_H_
