// Protocol bugs that a simulation can plant in its own reference counters, to see that it finds them.
//
// A BasicReferenceCounter is compiled with one of two policies. The real one is NoFaults: `Has` is a constant, so no
// branch for a fault is left in it. SeededFaults is for src/mantaray/sim alone.

#ifndef MANTARAY_REFCOUNT_FAULTS_H_
#define MANTARAY_REFCOUNT_FAULTS_H_

#include <cstdint>

namespace mantaray::refcount {

enum class Fault : uint8_t {
  kNone,
  // Clean-up of a borrower that is gone already ends the process: the race that crashed real clusters.
  kSecondNoticeFatal,
  // A message from a borrower that is no longer known is not searched for new borrowers.
  kLateMergeDropped,
  // A borrower's list of further borrowers is not merged at all.
  kBorrowersNotMerged,
  // What is nested in a reported object is not merged.
  kNestedNotMerged,
  // A new borrower is written down, but never asked when it stops.
  kBorrowerWithoutSubscription,
  // An object's contents are let go when the owner's own count is zero, although others still borrow it.
  kNestedReleasedEarly,
  // Lineage references are not given back when a return value goes.
  kLineageLeaked,
  // A return value that an object was stored in is not reported.
  kStoredInNotReported,
  // Processes that an object was handed on to are not reported.
  kBorrowersNotReported,
  // The owner of an outer object is told what is in it, and forgets it.
  kContainedInIgnored,
  // The pin that holds an argument while its task runs is subtracted twice.
  kPinDeductedTwice,
  // A borrower answers at once, although it still uses the object.
  kAnsweredWhileInUse,
  // A borrower that stops using an object does not answer the question it was asked before.
  kAnswerForgotten,
  // A borrower reported again while its answer is on the way is not asked again.
  kSecondReportForgotten,
  // Any answer counts, also one to an older question that arrives again.
  kOldAnswerAccepted,
  // A finished task's arguments are let go before its report is merged.
  kReleasedBeforeMerge,
  // An object's use is not made known to the objects it was found in.
  kNestedUseNotPropagated,
  // Out-of-scope callbacks are kept after they ran.
  kCallbackKept,
  // A borrower's failure is not acted upon.
  kFailureIgnored,
  // A resubmitted task does not count its arguments.
  kResubmissionNotCounted,
  // A late report about an object that is gone brings its entry back.
  kResurrectedByReport,
  // What nobody will ask for is kept for ever instead of being told to the owner.
  kUnaskedReportKept,
  // What is to be reported together with an outer object is forgotten when it is told early.
  kForgottenWhileNested,
  // What a process knows about an object that it goes on using is handed to a caller, and forgotten: as Ray does.
  kHandedOverWhileInUse,
};

struct NoFaults {
  static constexpr bool Has(Fault) { return false; }
};

// One fault at a time.
struct SeededFaults {
  Fault fault = Fault::kNone;
  bool Has(Fault other) const { return fault == other; }
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_FAULTS_H_
