// Host on Linux's /proc, and the real clock.

#ifndef MANTARAY_SPILL_POSIX_HOST_H_
#define MANTARAY_SPILL_POSIX_HOST_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "mantaray/common/clock.h"
#include "mantaray/spill/host.h"

namespace mantaray::spill {

class PosixHost : public Host {
 public:
  bool IsAlive(const ProcessId& process) override;
  // The process with this pid as it is now. NotFound when there is none or it has ended; Unavailable when that cannot
  // be found out.
  static absl::StatusOr<ProcessId> Lookup(int64_t pid);
};

// CLOCK_MONOTONIC.
class RealClock : public Clock {
 public:
  int64_t NowMs() const override;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_POSIX_HOST_H_
