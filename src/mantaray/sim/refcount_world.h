// A deterministic world of processes, each with a reference counter of its own, under virtual time.
//
// The world knows the truth: who holds which reference, what is in which value, and how each reference came to its
// holder. After every event it compares that with what the reference counters did.
//
// - Safety: no object is freed while a live process can reach it and its owner lives. A reference counts as reachable
//   only if the word of it cannot have died: if every process that it was handed through, and that has not yet told the
//   owner about it, lives. (No protocol in which borrowers report through those they got an object from can do more:
//   whoever dies takes with it what it alone knew.)
// - Liveness: when everybody has let go and all messages have arrived, every table is empty.
// - No operation fails, no count goes below zero, every out-of-scope callback is called exactly once.
//
// Survived faults: messages that are slow, overtake each other, arrive again or wait for a cut link to heal; deaths of
// any process at any time; notices of failure that are late, doubled, and come although there was an answer.

#ifndef MANTARAY_SIM_REFCOUNT_WORLD_H_
#define MANTARAY_SIM_REFCOUNT_WORLD_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "mantaray/sim/refcount_program.h"
#include "mantaray/sim/seeded_faults.h"
#include "mantaray/sim/trace.h"

namespace mantaray::sim {

enum class Violation : uint8_t {
  kNone,
  kUnsafe,        // a reachable object was freed
  kLeak,          // something was left in a table
  kFailure,       // an operation failed
  kCallback,      // a callback was called twice, or not at all
  kInconsistent,  // a table does not agree with itself
  kRestless,      // the messages do not come to an end
};

absl::string_view NameOf(Violation violation);

struct Outcome {
  Violation violation = Violation::kNone;
  // Names processes and objects as the trace does.
  std::string what;
  uint64_t events = 0;
  // A hash of everything that happened: equal for equal runs.
  uint64_t fingerprint = 0;
};

// Runs a program to its end, or to the first violation. The counters are ReferenceCounters, with a fault
// FaultyCounters. `trace` may be null.
Outcome RunProgram(const Program& program, Fault fault = Fault::kNone, Trace* trace = nullptr);

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_REFCOUNT_WORLD_H_
