// The library that is preloaded into raylets (posix_pull_check_preload.cc). It is part of the module for Python, so
// that no other file has to be shipped and found. A starting node hands it to its raylet as a file in memory.

#ifndef MANTARAY_SPILL_POSIX_PULL_CHECK_LIBRARY_H_
#define MANTARAY_SPILL_POSIX_PULL_CHECK_LIBRARY_H_

#include <cstddef>

#include "absl/status/statusor.h"

namespace mantaray::spill {

// Defined in a source that the build makes from the library.
extern const unsigned char kPullCheckLibrary[];
extern const size_t kPullCheckLibraryBytes;

// Returns the descriptor of a new file in memory that holds the library. The caller closes it.
absl::StatusOr<int> OpenPullCheckLibrary();

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_POSIX_PULL_CHECK_LIBRARY_H_
