// Bugs of the protocol that a simulation can plant, with their names for command lines and documents. The reference
// counter itself has none of them: a FaultyCounter (faulty_counter.h) misbehaves at its edges.

#ifndef MANTARAY_SIM_SEEDED_FAULTS_H_
#define MANTARAY_SIM_SEEDED_FAULTS_H_

#include <array>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace mantaray::sim {

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
  // What a process knows about an object that it goes on using is handed to a caller, and forgotten: as Ray does.
  kHandedOverWhileInUse,
  // A borrowed object that goes out of scope again releases its contents again, as Ray does.
  kReleasedAgain,
};

struct SeededFault {
  Fault fault;
  absl::string_view name;
  absl::string_view summary;
};

inline constexpr std::array<SeededFault, 24> kSeededFaults = {{
    {Fault::kSecondNoticeFatal, "second-notice-fatal",
     "clean-up of a borrower that is gone already is fatal: the upstream race"},
    {Fault::kLateMergeDropped, "late-merge-dropped",
     "new borrowers in a message from a borrower that is gone are not merged"},
    {Fault::kBorrowersNotMerged, "borrowers-not-merged", "a borrower's further borrowers are not merged"},
    {Fault::kNestedNotMerged, "nested-not-merged", "what is nested in a reported object is not merged"},
    {Fault::kBorrowerWithoutSubscription, "borrower-without-subscription",
     "a new borrower is never asked when it stops"},
    {Fault::kNestedReleasedEarly, "nested-released-early",
     "contents go with the owner's own last reference, although others borrow the object"},
    {Fault::kLineageLeaked, "lineage-leaked", "lineage references are not given back"},
    {Fault::kStoredInNotReported, "stored-in-not-reported",
     "return values that an object was stored in are not reported"},
    {Fault::kBorrowersNotReported, "borrowers-not-reported",
     "processes that an object was handed on to are not reported"},
    {Fault::kContainedInIgnored, "contained-in-ignored",
     "the owner of an outer object is told what is in it, and forgets it"},
    {Fault::kPinDeductedTwice, "pin-deducted-twice",
     "the pin that holds an argument during its task is subtracted twice"},
    {Fault::kAnsweredWhileInUse, "answered-while-in-use", "a borrower answers although it uses the object"},
    {Fault::kAnswerForgotten, "answer-forgotten", "a borrower never answers a question it got before"},
    {Fault::kSecondReportForgotten, "second-report-forgotten",
     "a borrower reported again while its answer is on the way is not asked again"},
    {Fault::kOldAnswerAccepted, "old-answer-accepted", "an answer to an older question counts"},
    {Fault::kReleasedBeforeMerge, "released-before-merge",
     "a finished task's arguments are let go before its report is merged"},
    {Fault::kNestedUseNotPropagated, "nested-use-not-propagated",
     "an object's use is not made known to the objects it was found in"},
    {Fault::kCallbackKept, "callback-kept", "out-of-scope callbacks are called again"},
    {Fault::kFailureIgnored, "failure-ignored", "a borrower's death is not acted upon"},
    {Fault::kResubmissionNotCounted, "resubmission-not-counted", "a resubmitted task does not count its arguments"},
    {Fault::kResurrectedByReport, "resurrected-by-report",
     "a late report brings the entry of an object that is gone back"},
    {Fault::kUnaskedReportKept, "unasked-report-kept",
     "what nobody will ask for is kept for ever instead of being told"},
    {Fault::kHandedOverWhileInUse, "handed-over-while-in-use",
     "what a process knows about an object that it goes on using goes to a caller, and is forgotten"},
    {Fault::kReleasedAgain, "released-again",
     "a borrowed object that goes out of scope again releases its contents again: ray #57985"},
}};

// Nothing when there is none of that name; "none" is kNone.
inline std::optional<Fault> FaultOf(absl::string_view name) {
  if (name == "none") return Fault::kNone;
  for (const SeededFault& seeded : kSeededFaults) {
    if (seeded.name == name) return seeded.fault;
  }
  return std::nullopt;
}

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_SEEDED_FAULTS_H_
