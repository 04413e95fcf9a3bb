// One seeded world of spilling: several IO workers with an engine each, disks in memory, readers, a raylet that knows
// what has been reported to it, and faults. For tests.
//
// A world is a run of some dozens of actions. Before each operation on its file system a worker may be refused it, be
// killed, or be overtaken by an action of another worker, so crashes and interleavings happen at every operation of
// Spill, Open, Replace, Delete, Tick (with its sweeps) and Close. Afterwards faults end, time passes, and the world is
// judged:
//
// - every object that the raylet knows as spilled is read back with the right bytes; nothing is ever read wrong;
// - no object is reported damaged or lost that is neither;
// - a reader that opened an object before its delete reads all of it: for as long as it has it open if it locks, or if
//   it is the raylet and its open files can be seen, and otherwise for the grace time;
// - a segment holds exactly the blocks of its live objects, and when all objects are deleted, no file is left.
//
// Two leaks are known and allowed for, of copies that were never reported because their worker died before that: the
// copy of an object that was let go before it was spilled again, and the copy on a disk that could not be looked at for
// as long as the worker lived that spilled the object again. They go with the node's directory.

#ifndef MANTARAY_SPILL_ENGINE_WORLD_H_
#define MANTARAY_SPILL_ENGINE_WORLD_H_

#include <cstdint>
#include <string>

#include "mantaray/spill/engine_bugs.h"

namespace mantaray::spill {

struct WorldOutcome {
  std::string violation;  // empty: none
  uint64_t operations = 0;
  uint64_t crashes = 0;
  uint64_t faults = 0;
  uint64_t overtakings = 0;
};

// Runs the world of this seed. With `trace`, each action is printed.
WorldOutcome RunWorld(uint64_t seed, Bug bug, bool trace);

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_ENGINE_WORLD_H_
