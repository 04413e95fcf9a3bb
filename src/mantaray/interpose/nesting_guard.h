// Keeps a process alive when Ray lets go of an outer object a second time.
//
// When an object that contains references goes out of scope, Ray tells each inner object that the outer one is gone,
// and ends the process if an inner object has not heard of the outer one
// (`Check failed: inner_it->second.mutable_nested()->contained_in_borrowed_ids.erase(id)`, ray #57985). Ray keeps the
// entry of an object that is out of scope as long as a task that may run again needs it, and the entry goes on naming
// the inner objects. If such an object is borrowed once more and dropped, or if the owner's question "tell me when you
// no longer use it" arrives late, it goes out of scope again and the check fails. All releases from 2.48 to 2.60 do
// this.
//
// The guard replaces these methods of Ray's counter. All of them run under Ray's lock.
//
//   DeleteReferenceInternal      remembers the inner objects that were let go of, if the outer entry stays
//   find, of the table           answers "not found" to the loop in DeleteReferenceInternal for an inner object that
//   the
//                                outer one has let go of already, so that the loop goes on to the next
//   EraseReference               forgets an outer object whose entry goes
//   AddBorrowedObjectInternal,   forget that the outer object has let go of the inner one, because Ray links them anew
//   AddNestedObjectIdsInternal
//
// Faults it survives: an outer object that goes out of scope any number of times, with any of its inner objects still
// in use, and linked again or not in between. What an inner object is kept by is not changed.
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
  // Outer objects that are out of scope and whose entries Ray keeps, now.
  uint64_t kept_outer_objects = 0;
  // How often an inner object was let go of again, each of which would have ended the process.
  uint64_t repeated_releases = 0;
};

// Attaches the guard to a loaded library of Ray's. Call it before the process has a core worker: the guard has to see
// every object that is let go of. A second call does nothing.
//
// Returns why the guard was refused, and then nothing is changed: see ElfLibrary, Interposition and RayFunctions.
absl::Status AttachNestingGuard(const std::string& library_path);

// Takes the guard back. FailedPrecondition: somebody else has changed a slot since.
absl::Status DetachNestingGuard();

NestingGuardCounts NestingGuardCountsOfNow();

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_NESTING_GUARD_H_
