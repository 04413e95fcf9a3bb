// What the engine asks about the machine: which processes live, and which files the raylet reads.

#ifndef MANTARAY_SPILL_HOST_H_
#define MANTARAY_SPILL_HOST_H_

#include <cstdint>
#include <set>
#include <utility>

#include "absl/status/statusor.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

// Open files, as device and inode.
using OpenFiles = std::set<std::pair<uint64_t, uint64_t>>;

class Host {
 public:
  virtual ~Host() = default;
  // Whether this very process, not a later one with its pid, still runs. Unsure is alive. Thread-safe.
  virtual bool IsAlive(const ProcessId& process) = 0;
  // What the raylet of this worker has open for the whole of the call, at least. An error when that cannot be found
  // out. Thread-safe.
  virtual absl::StatusOr<OpenFiles> FilesOfRaylet() = 0;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_HOST_H_
