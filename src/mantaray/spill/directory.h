// The directories that spilling may use: what each file system can do and how much room it has to give.
//
// A directory that has vanished or is full is passed over and asked again at the next batch; it is never re-created,
// because below a lost mount point that would fill another disk. Not thread-safe.
//
// The reserve holds although several workers look at the same free space: blocks are taken under a lock of the
// configured directory, which all raylets share that spill there, after another look. Where a file system cannot
// reserve blocks, or lock, each batch is only held against the room that was there when it began.

#ifndef MANTARAY_SPILL_DIRECTORY_H_
#define MANTARAY_SPILL_DIRECTORY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "mantaray/spill/file_system.h"

namespace mantaray::spill {

// What a file system was found able to do. Each false is one step back; see docs/spilling.md.
struct Capabilities {
  bool unnamed_files = false;  // O_TMPFILE
  bool per_object = false;     // hard links and hole punching: every object is given back by itself
  uint64_t link_max = 0;
  std::string missing;  // what it lacks, for the one line that says so; empty when nothing
};

struct DirectoryRoom {
  size_t directory = 0;  // index
  uint64_t free_bytes = 0;
  uint64_t usable_bytes = 0;  // free without the reserve
  absl::Status status;        // not OK: why it cannot be used

  // "1000 bytes free, 500 of them usable above the reserve"
  std::string ToString() const;
};

class DirectorySet {
 public:
  // `reserve_bytes` unset: 1 GiB, but at most a twentieth of the file system.
  DirectorySet(FileSystem* fs, std::vector<std::string> paths, std::optional<uint64_t> reserve_bytes)
      : fs_(fs), paths_(std::move(paths)), reserve_bytes_(reserve_bytes) {}

  const std::vector<std::string>& paths() const { return paths_; }

  // All directories, most usable room first; the unusable ones last.
  std::vector<DirectoryRoom> Rooms();

  // Gives the open file of this directory blocks for [0, size_bytes), all of them above the reserve. ResourceExhausted
  // when there is no such room any more; Unimplemented where the file system cannot reserve.
  absl::Status Allocate(size_t directory, int fd, uint64_t size_bytes);

  // Tries the file system out, once a directory, with files in `scratch_directory` (which lies on it).
  const Capabilities& Probe(size_t directory, const std::string& scratch_directory);

 private:
  DirectoryRoom RoomOf(size_t directory);
  Capabilities TryOut(const std::string& scratch_directory);

  FileSystem* const fs_;
  const std::vector<std::string> paths_;
  const std::optional<uint64_t> reserve_bytes_;
  std::map<size_t, Capabilities> probed_;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_DIRECTORY_H_
