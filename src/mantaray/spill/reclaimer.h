// Gives the disk of deleted objects back.
//
// Deleting an object removes its link at once. Its blocks are punched out of the segment only after a grace time,
// because a reader that opened the file before the delete (the raylet, serving another node) must not take a hole's
// zeros for data. With a segment's last link the kernel frees the whole file, and a reader that has it open keeps it
// whole.
//
// Pending punches are bounded in number and in open files. Past a bound only the batch directory is remembered, and its
// dead ranges are found again later from the names of its links ("scrubbing"), as they are after the death of a
// process that had punches pending.
//
// Survives: an inode that is used again within the grace time, deleting what is gone, deleting twice, other processes
// deleting from the same segment at the same moment, a death at any operation. Thread-safe; no lock is held during file
// operations.

#ifndef MANTARAY_SPILL_RECLAIMER_H_
#define MANTARAY_SPILL_RECLAIMER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "mantaray/common/clock.h"
#include "mantaray/common/mutex.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

struct ReclaimerOptions {
  int64_t punch_delay_ms = 2000;
  size_t max_pending_files = 128;
  size_t max_pending_ranges = 65536;
};

class Reclaimer {
 public:
  Reclaimer(FileSystem* fs, const Clock* clock, const ReclaimerOptions& options)
      : fs_(fs), clock_(clock), options_(options) {}

  // Removes the object's link and queues its blocks. OK also when it was gone already.
  absl::Status Delete(const ParsedUrl& url);

  // Queues every range of the segments in this batch directory that no link keeps alive.
  void QueueScrub(const std::string& batch_directory);

  // Punches what is due. Cheap when nothing is.
  void Tick();

  // Punches everything pending without waiting any longer. For the end of a process, after the grace time.
  void Flush();

  // When the last pending punch will be due, or -1 with nothing pending.
  int64_t LastDueMs() const;
  size_t pending_ranges() const;

 private:
  using FileKey = std::pair<uint64_t, uint64_t>;  // device, inode
  struct Range {
    FileKey file;
    // Which of the files of that key: as soon as one is freed, the kernel gives its inode to another.
    uint64_t file_number = 0;
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
    int64_t due_ms = 0;
  };
  struct PendingFile {
    std::shared_ptr<OwnedFile> file;
    uint64_t number = 0;
    size_t ranges = 0;
  };

  void Queue(const FileKey& key, OwnedFile file, const std::string& batch_directory,
             const std::vector<std::pair<uint64_t, uint64_t>>& ranges);
  void Forget(const FileKey& key);
  void PunchDue(int64_t now_ms);
  void ScrubNext();
  void Scrub(const std::string& batch_directory);

  FileSystem* const fs_;
  const Clock* const clock_;
  const ReclaimerOptions options_;

  mutable Mutex mutex_;
  std::map<FileKey, PendingFile> files_ ABSL_GUARDED_BY(mutex_);
  std::deque<Range> ranges_ ABSL_GUARDED_BY(mutex_);  // ascending due time
  uint64_t next_file_number_ ABSL_GUARDED_BY(mutex_) = 1;
  std::set<std::string> to_scrub_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_RECLAIMER_H_
