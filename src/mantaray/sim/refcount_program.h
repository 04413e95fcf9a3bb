// Random programs for a world of reference counters: what the processes do, and when.
//
// A step names what it works on by a number that is reduced to what is there at that moment, so that a program from
// which steps were taken away is a program still. A step that finds nothing to work on does nothing.

#ifndef MANTARAY_SIM_REFCOUNT_PROGRAM_H_
#define MANTARAY_SIM_REFCOUNT_PROGRAM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "mantaray/sim/network.h"

namespace mantaray::sim {

enum class StepKind : uint8_t {
  kPut,      // makes an object; with nested ids if it holds any and `nest` says so
  kCall,     // submits a task to another process, with up to two arguments
  kDrop,     // lets go of a reference
  kLook,     // gets a value, and takes references to what is in it
  kFree,     // frees a value by hand
  kKill,     // the process dies
  kRebuild,  // a return value was lost and is made again
  kEvict,    // gives up the lineage of the oldest return value
};

// What the callee of a task does with it.
struct Script {
  bool look = false;          // gets the arguments' values, and with them references to what is in them
  bool keep = false;          // stores the first argument's reference in its own state
  bool keep_inner = false;    // stores references found in the arguments
  bool return_arg = false;    // returns the first argument's reference in a value
  bool return_inner = false;  // returns a reference found in an argument
  bool return_held = false;   // returns a reference from its own state
  bool return_new = false;    // returns a reference to a new object that contains the first argument
  bool pass_on = false;       // calls another process with what it has
  bool retry = false;         // whether the task may run again
  uint32_t pick = 0;          // chooses among what the callee has
  int64_t duration_ms = 0;

  static constexpr int kFlags = 9;
  // The flags by number, for a shrinker.
  bool* Flag(int number);
  std::string ToString() const;
};

struct Step {
  StepKind kind = StepKind::kPut;
  // Stays the same when other steps are taken away; everything random about the step comes from it.
  uint32_t number = 0;
  int64_t at_ms = 0;
  uint32_t process = 0;
  uint32_t pick = 0;
  uint32_t other = 0;
  bool nest = false;
  // What the callee does, what the one that it calls does, and so on.
  std::vector<Script> scripts;
};

struct Program {
  uint64_t seed = 0;
  uint32_t processes = 0;
  FaultOptions faults;
  std::vector<Step> steps;
};

struct ProgramOptions {
  uint32_t processes = 4;
  uint32_t steps = 30;
};

constexpr uint32_t kMaxProcesses = 63;

Program GenerateProgram(uint64_t seed, const ProgramOptions& options);

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_REFCOUNT_PROGRAM_H_
