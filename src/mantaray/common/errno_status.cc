// The mapping from errno to canonical codes.

#include "mantaray/common/errno_status.h"

#include <cerrno>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace mantaray {
namespace {

absl::StatusCode CodeOf(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return absl::StatusCode::kResourceExhausted;
    case ENOENT:
    case ENOTDIR:
      return absl::StatusCode::kNotFound;
    case EEXIST:
    case ENOTEMPTY:
      return absl::StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case EOPNOTSUPP:
    case ENOSYS:
    case EXDEV:
    case EISDIR:
    case EMLINK:
      return absl::StatusCode::kUnimplemented;
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EAGAIN:
    case EBUSY:
    case ENXIO:
    case EIO:
    case ESTALE:
    case ETIMEDOUT:
    case EREMOTEIO:
    case ENODEV:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENOTCONN:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kUnknown;
  }
}

}  // namespace

absl::Status ErrnoStatus(int error_number, absl::string_view operation, absl::string_view path) {
  const std::string reason = std::generic_category().message(error_number);
  return absl::Status(CodeOf(error_number), absl::StrCat(operation, " ", path, ": ", reason));
}

}  // namespace mantaray
