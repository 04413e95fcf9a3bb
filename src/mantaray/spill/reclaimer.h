// Gives the disk of deleted objects back.
//
// Deleting an object removes its link at once, so nobody can open it any more. Its blocks are punched out of the
// segment when nobody can be reading them, because a reader that opened the file before the delete must not take a
// hole's zeros for data. That is so as soon as nobody else has the file open, which the kernel says
// (FileSystem::Fence). A file that others have open is punched under the exclusive lock of the range, which readers of
// ours share as long as they read, and if the raylet, which takes no locks when it serves another node, does not have
// it open. Only a raylet that cannot be looked at has a grace time instead. With a segment's last link the kernel frees
// the whole file, and a reader that has it open keeps it whole.
//
// The dead ranges of a segment wait together, and every segment is served when its ranges are due, however many
// segments there are. Open files are bounded: past the bound a segment is opened again by one of its links, found by
// inode in the batch directory, when its ranges are due. Past the bound of ranges only the batch directory is
// remembered, and its dead ranges are found again later from the names of its links ("scrubbing"), as they are after
// the death of a process that had punches pending.
//
// Survives: an inode that is used again within the grace time, deleting what is gone, deleting twice, other processes
// deleting from the same segment at the same moment, a punch or a lookup that fails (it is tried again later), a death
// at any operation. Thread-safe; no lock is held during file operations.

#ifndef MANTARAY_SPILL_RECLAIMER_H_
#define MANTARAY_SPILL_RECLAIMER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/common/clock.h"
#include "mantaray/common/mutex.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/host.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

struct ReclaimerOptions {
  int64_t punch_delay_ms = 2000;                // the grace time
  size_t max_pending_files = 128;               // segments kept open for their punches
  size_t max_pending_ranges = size_t{1} << 20;  // and one segment's gaps more
};

struct ReclaimerStats {
  uint64_t punched_bytes = 0;
  uint64_t failed_punches = 0;   // tried again later
  uint64_t delayed_punches = 0;  // a reader held the range
  uint64_t pending_bytes = 0;
};

class Reclaimer {
 public:
  Reclaimer(FileSystem* fs, const Clock* clock, Host* host, const ReclaimerOptions& options)
      : fs_(fs), clock_(clock), host_(host), options_(options) {}

  // Removes the object's link and the link that was set aside as damaged, and queues their blocks. NotFound when both
  // were gone already.
  absl::Status Delete(const ParsedUrl& url);

  // Queues every range of the segments in this batch directory that no link keeps alive.
  void QueueScrub(const std::string& batch_directory);

  // Punches what is due. Cheap when nothing is.
  void Tick();

  // Tries to punch everything that is pending. For the end of a process.
  void Flush();

  // When the last grace time of a pending punch would end, or -1 with nothing pending.
  int64_t LastGraceEndMs() const;
  // Whether nothing is pending.
  bool idle() const;
  size_t pending_ranges() const;
  ReclaimerStats stats() const;

 private:
  using FileKey = std::pair<uint64_t, uint64_t>;  // device, inode
  struct Range {
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
    int64_t due_ms = 0;   // of the next attempt
    int64_t dead_ms = 0;  // its link was gone by then
  };
  static bool DueEarlier(const Range& a, const Range& b) { return a.due_ms < b.due_ms; }
  struct PendingFile {
    std::string batch_directory;
    // Open, so that the kernel cannot give the inode to another file; null past the bound of open files.
    std::shared_ptr<OwnedFile> file;
    std::deque<Range> ranges;  // ascending due time
    int64_t retry_delay_ms = 0;
  };
  // What a listing told of the segments in one batch directory, by inode.
  struct SegmentLinks {
    std::string any_link;
    std::vector<std::pair<uint64_t, uint64_t>> live;  // offset, size
    uint64_t live_bytes = 0;
  };
  struct Listing {
    absl::Status status;
    bool empty = false;
    std::map<uint64_t, SegmentLinks> segments;
  };
  // Of one round of turns, by batch directory.
  using Listings = std::map<std::string, Listing>;
  // What one turn punches of one file.
  struct Turn {
    FileKey key;
    PendingFile pending;
  };

  absl::Status DeleteLink(const std::string& path, const LinkName& link);
  bool IsAway(const std::string& batch_directory);
  bool RemoveIfEmpty(const std::string& batch_directory);
  void Queue(const FileKey& key, OwnedFile file, const std::string& batch_directory, const std::vector<Range>& ranges);
  void PutBack(Turn turn);
  void Forget(const FileKey& key);
  bool TakeDue(int64_t now_ms, bool retries, std::vector<Turn>* turns);
  void PunchTurns(std::vector<Turn> turns);
  int64_t RayletDelayMs(const FileKey& key, int64_t dead_ms, int64_t now_ms);
  int64_t LockOut(const FileKey& key, int fd, const Range& range, int64_t now_ms);
  static Range Merge(const std::deque<Range>& ranges, size_t first, size_t* next);
  bool PunchRange(int fd, const Range& range);
  void Punch(Turn turn, int64_t now_ms, Listings* listings);
  std::shared_ptr<OwnedFile> Reopen(const Turn& turn, Listings* listings,
                                    std::vector<std::pair<uint64_t, uint64_t>>* live, bool* gone);
  Listing List(const std::string& batch_directory);
  bool ScrubNext();
  bool Scrub(const std::string& batch_directory);

  static constexpr int64_t kNeverMs = int64_t{1} << 60;

  FileSystem* const fs_;
  const Clock* const clock_;
  Host* const host_;
  const ReclaimerOptions options_;

  mutable Mutex mutex_;
  std::map<FileKey, PendingFile> files_ ABSL_GUARDED_BY(mutex_);
  size_t open_files_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t pending_ranges_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, int64_t> to_scrub_ ABSL_GUARDED_BY(mutex_);  // when
  ReclaimerStats stats_ ABSL_GUARDED_BY(mutex_);
  // What the raylet had open when it was looked at last.
  absl::StatusOr<OpenFiles> files_of_raylet_ ABSL_GUARDED_BY(mutex_) = absl::UnavailableError("not looked at");
  int64_t looked_ms_ ABSL_GUARDED_BY(mutex_) = -kNeverMs;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_RECLAIMER_H_
