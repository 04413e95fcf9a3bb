// What the engine asks about the machine: which processes live.

#ifndef MANTARAY_SPILL_HOST_H_
#define MANTARAY_SPILL_HOST_H_

#include "absl/status/statusor.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

class Host {
 public:
  virtual ~Host() = default;
  // Whether this very process, not a later one with its pid, still runs. Unsure is alive. Thread-safe.
  virtual bool IsAlive(const ProcessId& process) = 0;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_HOST_H_
