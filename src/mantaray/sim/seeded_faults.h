// The names of the protocol bugs that can be planted, for command lines and documents.

#ifndef MANTARAY_SIM_SEEDED_FAULTS_H_
#define MANTARAY_SIM_SEEDED_FAULTS_H_

#include <array>
#include <optional>

#include "absl/strings/string_view.h"
#include "mantaray/refcount/faults.h"

namespace mantaray::sim {

struct SeededFault {
  refcount::Fault fault;
  absl::string_view name;
  absl::string_view summary;
};

inline constexpr std::array<SeededFault, 24> kSeededFaults = {{
    {refcount::Fault::kSecondNoticeFatal, "second-notice-fatal",
     "clean-up of a borrower that is gone already is fatal: the upstream race"},
    {refcount::Fault::kLateMergeDropped, "late-merge-dropped",
     "new borrowers in a message from a borrower that is gone are not merged"},
    {refcount::Fault::kBorrowersNotMerged, "borrowers-not-merged", "a borrower's further borrowers are not merged"},
    {refcount::Fault::kNestedNotMerged, "nested-not-merged", "what is nested in a reported object is not merged"},
    {refcount::Fault::kBorrowerWithoutSubscription, "borrower-without-subscription",
     "a new borrower is never asked when it stops"},
    {refcount::Fault::kNestedReleasedEarly, "nested-released-early",
     "contents go with the owner's own last reference, although others borrow the object"},
    {refcount::Fault::kLineageLeaked, "lineage-leaked", "lineage references are not given back"},
    {refcount::Fault::kStoredInNotReported, "stored-in-not-reported",
     "return values that an object was stored in are not reported"},
    {refcount::Fault::kBorrowersNotReported, "borrowers-not-reported",
     "processes that an object was handed on to are not reported"},
    {refcount::Fault::kContainedInIgnored, "contained-in-ignored",
     "the owner of an outer object is told what is in it, and forgets it"},
    {refcount::Fault::kPinDeductedTwice, "pin-deducted-twice",
     "the pin that holds an argument during its task is subtracted twice"},
    {refcount::Fault::kAnsweredWhileInUse, "answered-while-in-use", "a borrower answers although it uses the object"},
    {refcount::Fault::kAnswerForgotten, "answer-forgotten", "a borrower never answers a question it got before"},
    {refcount::Fault::kSecondReportForgotten, "second-report-forgotten",
     "a borrower reported again while its answer is on the way is not asked again"},
    {refcount::Fault::kOldAnswerAccepted, "old-answer-accepted", "an answer to an older question counts"},
    {refcount::Fault::kReleasedBeforeMerge, "released-before-merge",
     "a finished task's arguments are let go before its report is merged"},
    {refcount::Fault::kNestedUseNotPropagated, "nested-use-not-propagated",
     "an object's use is not made known to the objects it was found in"},
    {refcount::Fault::kCallbackKept, "callback-kept", "out-of-scope callbacks are called again"},
    {refcount::Fault::kFailureIgnored, "failure-ignored", "a borrower's death is not acted upon"},
    {refcount::Fault::kResubmissionNotCounted, "resubmission-not-counted",
     "a resubmitted task does not count its arguments"},
    {refcount::Fault::kResurrectedByReport, "resurrected-by-report",
     "a late report brings the entry of an object that is gone back"},
    {refcount::Fault::kUnaskedReportKept, "unasked-report-kept",
     "what nobody will ask for is kept for ever instead of being told"},
    {refcount::Fault::kForgottenWhileNested, "forgotten-while-nested",
     "what has to be told together with an outer object is forgotten when told early"},
    {refcount::Fault::kHandedOverWhileInUse, "handed-over-while-in-use",
     "what a process knows about an object that it goes on using goes to a caller, and is forgotten"},
}};

// Nothing when there is none of that name; "none" is kNone.
inline std::optional<refcount::Fault> FaultOf(absl::string_view name) {
  if (name == "none") return refcount::Fault::kNone;
  for (const SeededFault& seeded : kSeededFaults) {
    if (seeded.name == name) return seeded.fault;
  }
  return std::nullopt;
}

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_SEEDED_FAULTS_H_
