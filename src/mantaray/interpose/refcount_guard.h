// Prevents that a second notice about one borrower ends the process.
//
// The owner of an object asks each borrower to report when it releases the object. The answer is a "reference removed"
// message. The death of a borrower causes a "publisher failed" notice instead. Ray up to 2.55 ends the owner's process
// when it gets both (`Check failed: it->second.mutable_borrow()->borrowers.erase(borrower_addr)`). The guard replaces
// these methods:
//
//   WaitForRefRemoved              records (object, borrower), because Ray calls it for each borrower that it adds
//   CleanupBorrowersOnRefRemoved   lets the first notice through, and counts each further one
//   SubscriberChannel::Unsubscribe on Ray 2.48 and 2.49 only: after a message Ray gives up its subscription, and ends
//                                  the process if a failure of the borrower has done so already
//
// A further "reference removed" message may name new borrowers, which are merged if the object still lives. For that
// the guard takes a local reference, so that the object stays, and adds the borrower again without asking it anything.
// Then Ray handles the message, merges its content and removes the borrower. Finally the guard drops the reference.
//
// Faults it survives: notices in any order and number, on any threads, and a late message before or after the object is
// gone. The guard cannot distinguish a late notice from the answer to a question that the owner has since asked the
// same borrower about the same object. Ray cannot either.
//
// Locking: `clean-ups` is held while one notice is handled, so that two notices about one borrower cannot overlap. Ray
// takes the counter's lock inside it. The lock of the guard's own book-keeping is the innermost, because
// WaitForRefRemoved runs under Ray's lock.

#ifndef MANTARAY_INTERPOSE_REFCOUNT_GUARD_H_
#define MANTARAY_INTERPOSE_REFCOUNT_GUARD_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace mantaray::interpose {

struct RefcountGuardCounts {
  bool attached = false;
  // How many pairs of object and borrower the owner waits for now.
  uint64_t waiting = 0;
  // How many first notices there were, and how many further ones of each kind.
  uint64_t first_notices = 0;
  uint64_t repeated_ref_removed = 0;
  uint64_t repeated_publisher_failed = 0;
  // How many repeated messages had their new borrowers merged because the object lived.
  uint64_t merged_late = 0;
};

// Attaches the guard to a loaded library of Ray. Call it before the process has a core worker, because the guard must
// see every borrower. A second call does nothing.
//
// Returns why the guard was refused. Then nothing is changed; see ElfLibrary, Interposition and RayFunctions.
absl::Status AttachRefcountGuard(const std::string& library_path);

// Takes the guard back. FailedPrecondition: somebody else has changed a slot since.
absl::Status DetachRefcountGuard();

RefcountGuardCounts RefcountGuardCountsOfNow();

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_REFCOUNT_GUARD_H_
