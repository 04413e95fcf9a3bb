// Explores many random worlds on all cores, and makes the program of a failing one short.

#ifndef MANTARAY_SIM_REFCOUNT_EXPLORER_H_
#define MANTARAY_SIM_REFCOUNT_EXPLORER_H_

#include <cstdint>
#include <functional>
#include <optional>

#include "mantaray/sim/refcount_program.h"
#include "mantaray/sim/refcount_world.h"
#include "mantaray/sim/seeded_faults.h"

namespace mantaray::sim {

struct ExploreOptions {
  ProgramOptions program;
  uint64_t first_seed = 0;
  uint64_t seeds = 1000;
  Fault fault = Fault::kNone;
  uint32_t threads = 2;
  // How often `keep_going` is asked.
  int64_t progress_interval_ms = 500;
};

struct Explored {
  uint64_t worlds = 0;
  uint64_t events = 0;
  // The lowest seed whose world was violated, all lower ones having been tried.
  std::optional<uint64_t> failing_seed;
  Outcome outcome;
  // Whether `keep_going` put an end to it.
  bool stopped = false;
};

// Runs the worlds of consecutive seeds until one is violated or all are done. `keep_going(worlds so far)` is called
// from the calling thread now and then; false ends the exploration.
Explored Explore(const ExploreOptions& options, const std::function<bool(uint64_t)>& keep_going);

// A shorter program with the same kind of violation: steps taken away, tasks that do less, a better network, fewer
// processes. Deterministic; runs at most `max_runs` worlds.
Program Shrink(const Program& program, Fault fault, Violation violation, uint32_t max_runs = 4000);

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_REFCOUNT_EXPLORER_H_
