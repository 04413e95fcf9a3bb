// The preloaded library as a file in memory.

#include "mantaray/spill/posix_pull_check_library.h"

#include <linux/memfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "mantaray/common/errno_status.h"

namespace mantaray::spill {

absl::StatusOr<int> OpenPullCheckLibrary() {
  constexpr char kName[] = "mantaray-pull-check";
  // The C library of the oldest systems that we support has no function for it.
  const auto fd = static_cast<int>(syscall(SYS_memfd_create, kName, MFD_CLOEXEC));
  if (fd < 0) return ErrnoStatus(errno, "make a file in memory", kName);
  for (size_t done = 0; done < kPullCheckLibraryBytes;) {
    const ssize_t count = write(fd, kPullCheckLibrary + done, kPullCheckLibraryBytes - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const absl::Status status = ErrnoStatus(errno, "write a file in memory", kName);
      close(fd);
      return status;
    }
    done += static_cast<size_t>(count);
  }
  return fd;
}

}  // namespace mantaray::spill
