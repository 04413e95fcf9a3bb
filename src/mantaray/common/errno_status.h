// From errno to absl::Status. This is the only place that decides the mapping.
//
// ResourceExhausted means "no room on this file system" and nothing else (ENOSPC, EDQUOT), because callers answer it by
// trying another directory. Unavailable means "the same call may succeed later": no file descriptors or memory left, an
// I/O error of the device, a network file system or a disk that is away for a moment. An I/O error is never DataLoss:
// that code is for bytes that were read and found wrong.

#ifndef MANTARAY_COMMON_ERRNO_STATUS_H_
#define MANTARAY_COMMON_ERRNO_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mantaray {

// A status for `error_number`, worded "<operation> <path>: <strerror>".
absl::Status ErrnoStatus(int error_number, absl::string_view operation, absl::string_view path);

}  // namespace mantaray

#endif  // MANTARAY_COMMON_ERRNO_STATUS_H_
