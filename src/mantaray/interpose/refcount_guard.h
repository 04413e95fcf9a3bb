// Keeps a second notice about one borrower from ending the process.
//
// The owner of an object asks each borrower to tell when it lets go. The answer is a "reference removed" message; a
// borrower that dies causes a "publisher failed" notice instead. Ray up to 2.55 ends the owner's process when it gets
// both (`Check failed: it->second.mutable_borrow()->borrowers.erase(borrower_addr)`). The guard replaces these methods:
//
//   WaitForRefRemoved              notes (object, borrower), since Ray calls it for each borrower that it adds
//   CleanupBorrowersOnRefRemoved   lets the first notice through, and counts each further one
//   SubscriberChannel::Unsubscribe on Ray 2.48 and 2.49 only: after a message Ray gives up its subscription, and ends
//   the
//                                  process if a failure of the borrower has done so already
//
// A further "reference removed" message may name new borrowers. They are merged if the object still lives: the guard
// takes a local reference, so that the object stays; adds the borrower again without asking it anything; lets Ray
// handle the message, which merges what it says and removes the borrower; and drops the reference.
//
// Faults it survives: notices in any order and number, on any threads; a late message before or after the object is
// gone. What it does not tell apart: a late notice and the answer to a question that the owner asked the same borrower
// about the same object in the meantime. Ray does not either.
//
// Locking: `clean-ups` is held while one notice is handled, so that two about one borrower cannot overlap. Ray's lock
// of the counter is taken inside it. The lock of the guard's own book-keeping is the innermost: WaitForRefRemoved runs
// under Ray's lock.

#ifndef MANTARAY_INTERPOSE_REFCOUNT_GUARD_H_
#define MANTARAY_INTERPOSE_REFCOUNT_GUARD_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace mantaray::interpose {

struct RefcountGuardCounts {
  bool attached = false;
  // Pairs of object and borrower that the owner waits for now.
  uint64_t waiting = 0;
  // First notices, and the further ones by kind.
  uint64_t first_notices = 0;
  uint64_t repeated_ref_removed = 0;
  uint64_t repeated_publisher_failed = 0;
  // Repeated messages whose new borrowers were merged because the object lived.
  uint64_t merged_late = 0;
};

// Attaches the guard to a loaded library of Ray's. Call it before the process has a core worker: the guard has to see
// every borrower. A second call does nothing.
//
// Returns why the guard was refused, and then nothing is changed: see ElfLibrary, Interposition and RayFunctions.
absl::Status AttachRefcountGuard(const std::string& library_path);

// Takes the guard back. FailedPrecondition: somebody else has changed a slot since.
absl::Status DetachRefcountGuard();

RefcountGuardCounts RefcountGuardCountsOfNow();

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_REFCOUNT_GUARD_H_
