// Reading ahead across objects.
//
// Every restore opens its own link, so the kernel sees each object as a new file and starts from nothing. Objects that
// were spilled together are usually wanted together: the tracker remembers, by segment, how far restores have come, and
// while they move forward it asks for a window that doubles up to the limit. A jump starts small again, so that
// scattered restores do not read megabytes for nothing. Where the kernel's own window is as large (a device set to
// that), it is left to the kernel, which does it with larger pages and so for less. Pure but for the hint it gives. Not
// thread-safe.

#ifndef MANTARAY_SPILL_READ_AHEAD_H_
#define MANTARAY_SPILL_READ_AHEAD_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

#include "mantaray/spill/file_system.h"

namespace mantaray::spill {

class ReadAheadTracker {
 public:
  // `max_bytes` 0 turns it off.
  ReadAheadTracker(FileSystem* fs, uint64_t max_bytes) : fs_(fs), max_bytes_(max_bytes) {}

  // Call before reading [offset, offset + size_bytes) of the open segment.
  void Advise(int fd, uint64_t offset, uint64_t size_bytes);

 private:
  struct Stream {
    uint64_t position = 0;  // end of the last object read
    uint64_t ahead = 0;     // end of what was asked for
    uint64_t window_bytes = 0;
    uint64_t used_at = 0;
  };

  FileSystem* const fs_;
  const uint64_t max_bytes_;
  uint64_t uses_ = 0;
  std::map<uint64_t, bool> left_to_kernel_;                  // by device
  std::map<std::pair<uint64_t, uint64_t>, Stream> streams_;  // by device and inode
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_READ_AHEAD_H_
