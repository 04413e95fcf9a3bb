// Host on Linux's /proc.

#ifndef MANTARAY_SPILL_POSIX_HOST_H_
#define MANTARAY_SPILL_POSIX_HOST_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "mantaray/spill/host.h"

namespace mantaray::spill {

class PosixHost : public Host {
 public:
  // `raylet_pid`: the raylet that this worker serves; 0 when it is not known.
  explicit PosixHost(int64_t raylet_pid = 0) : raylet_pid_(raylet_pid) {}

  bool IsAlive(const ProcessId& process) override;
  absl::StatusOr<OpenFiles> FilesOfRaylet() override;
  // The process with this pid as it is now. NotFound when there is none or it has ended; Unavailable when that cannot
  // be found out.
  static absl::StatusOr<ProcessId> Lookup(int64_t pid);

 private:
  const int64_t raylet_pid_;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_POSIX_HOST_H_
