// The directories that spilling may use: what each file system can do and how much room it has to give.
//
// A directory that has vanished or is full is passed over and asked again at the next batch. A node directory that
// somebody removed is made again; a configured directory is not, and nothing is made on another disk than the one that
// the directory lay on before, because below a lost mount point that would fill the wrong disk. Not thread-safe.
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
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
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
  // `paths`: node directories. `devices`: the file systems that they lay on when the node started; 0 or missing: the
  // one on which the directory is first found. `reserve_bytes` unset: 1 GiB, but at most a twentieth of the file
  // system.
  DirectorySet(FileSystem* fs, std::vector<std::string> paths, std::vector<uint64_t> devices,
               std::optional<uint64_t> reserve_bytes)
      : fs_(fs), paths_(std::move(paths)), devices_(std::move(devices)), reserve_bytes_(reserve_bytes) {
    devices_.resize(paths_.size());
  }

  const std::vector<std::string>& paths() const { return paths_; }

  // All directories, most usable room first; the unusable ones last.
  std::vector<DirectoryRoom> Rooms();

  // The directory below which this path lies; nothing when it is none of them.
  std::optional<size_t> Find(absl::string_view path) const;
  // Whether the configured directory is there, on its disk. Unavailable when it is not, which may pass.
  absl::Status CheckPresent(size_t directory);
  // ResourceExhausted when the directory has less room above the reserve.
  absl::Status CheckRoom(size_t directory, uint64_t size_bytes);
  // Makes the node directory if it is missing.
  absl::Status Ensure(size_t directory);

  // Gives the open file of this directory blocks for [0, size_bytes), all of them above the reserve. ResourceExhausted
  // when there is no such room any more; Unimplemented where the file system cannot reserve.
  absl::Status Allocate(size_t directory, int fd, uint64_t size_bytes);

  // What an earlier Probe found, or null.
  const Capabilities* Probed(size_t directory) const;
  // Tries the file system out, once a directory, with files in `scratch_directory` (which lies on it). A trial that
  // failed for another reason than a missing ability (a full disk, no descriptors left) is that error, and repeated at
  // the next call.
  absl::StatusOr<Capabilities> Probe(size_t directory, const std::string& scratch_directory);

 private:
  DirectoryRoom RoomOf(size_t directory);
  absl::StatusOr<SpaceInfo> SpaceOf(size_t directory);
  absl::StatusOr<Capabilities> TryOut(const std::string& scratch_directory);

  FileSystem* const fs_;
  const std::vector<std::string> paths_;
  std::vector<uint64_t> devices_;
  const std::optional<uint64_t> reserve_bytes_;
  std::map<size_t, Capabilities> probed_;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_DIRECTORY_H_
