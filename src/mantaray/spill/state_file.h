// Files of lines that each IO worker keeps in its node's state directory: owner books and journals.

#ifndef MANTARAY_SPILL_STATE_FILE_H_
#define MANTARAY_SPILL_STATE_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mantaray/spill/file_system.h"

namespace mantaray::spill {

// Makes the file, and the state directory that it lies in with its parent.
absl::StatusOr<OwnedFile> CreateStateFile(FileSystem* fs, const std::string& path);

// The lines of a file without their ends. A last line that a crash cut off is left out.
absl::StatusOr<std::vector<std::string>> ReadStateFile(FileSystem* fs, const std::string& path);

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_STATE_FILE_H_
