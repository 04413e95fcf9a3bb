// Unbuffered reading of records that are larger than a window, the disk kept busy.
//
// A record is read in buffers by the thread in the background, which always has the next one to go on with while the
// last one is copied and checksummed. Large objects that were spilled together are usually restored together too, one
// after the other, each by a call of its own: when a record began where the one before it ended, the first buffer of
// the next is read while this one's last is copied. It is kept for a while, for whoever asks for that record.
//
// A buffer that nobody asks for is a read for nothing, so a jump starts none. Thread-safe.

#ifndef MANTARAY_SPILL_LARGE_READS_H_
#define MANTARAY_SPILL_LARGE_READS_H_

#include <cstdint>
#include <future>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "mantaray/common/clock.h"
#include "mantaray/common/mutex.h"
#include "mantaray/common/parallel.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/io_buffers.h"
#include "mantaray/spill/windows.h"

namespace mantaray::spill {

// A window that is being read in the background. Waits for it when it goes out of scope, because the read uses what its
// maker owns, and lets go of what was read.
class PendingWindow {
 public:
  PendingWindow() = default;
  PendingWindow(std::future<std::unique_ptr<Window>> window, uint64_t size_bytes)
      : window_(std::move(window)), size_bytes_(size_bytes) {}
  PendingWindow(PendingWindow&&) = default;
  PendingWindow& operator=(PendingWindow&& other) noexcept;
  PendingWindow(const PendingWindow&) = delete;
  PendingWindow& operator=(const PendingWindow&) = delete;
  ~PendingWindow() { Drop(); }

  bool valid() const { return window_.valid(); }
  // What was asked for.
  uint64_t size_bytes() const { return size_bytes_; }
  // Null when it could not be read. Once.
  std::unique_ptr<Window> Take() { return window_.get(); }

 private:
  void Drop() {
    if (window_.valid()) window_.get();
  }

  std::future<std::unique_ptr<Window>> window_;
  uint64_t size_bytes_ = 0;
};

class LargeReads {
 public:
  static constexpr int64_t kKeepMs = 2000;

  LargeReads(FileSystem* fs, const Clock* clock, Parallel* parallel, IoBuffers* buffers)
      : fs_(fs), clock_(clock), parallel_(parallel), buffers_(buffers) {}
  LargeReads(const LargeReads&) = delete;
  LargeReads& operator=(const LargeReads&) = delete;

  // Starts to read up to `size_bytes`, a buffer's at most, in the background. `file` is open for unbuffered reads.
  PendingWindow Start(const std::shared_ptr<const OwnedFile>& file, uint64_t offset, uint64_t size_bytes);
  // The same at once. Null when it cannot be read.
  std::unique_ptr<Window> Read(const std::shared_ptr<const OwnedFile>& file, uint64_t offset, uint64_t size_bytes);

  // The beginning of the record at `offset`: what was read ahead, be it short of a buffer, else started now.
  PendingWindow StartHead(const std::shared_ptr<const OwnedFile>& file, uint64_t offset, uint64_t record_bytes);
  // The record's last read is under way; the disk may go on to the record behind it, which is taken to be as large.
  void GoOn(const std::shared_ptr<const OwnedFile>& file, uint64_t offset, uint64_t record_bytes);

  // Drops what nobody has asked for.
  void Tick();

 private:
  // An offset in a segment.
  struct SegmentPosition {
    uint64_t device = 0;
    uint64_t inode = 0;
    uint64_t offset = 0;
    bool operator==(const SegmentPosition&) const = default;
  };

  FileSystem* const fs_;
  const Clock* const clock_;
  Parallel* const parallel_;
  IoBuffers* const buffers_;
  Mutex mutex_;
  SegmentPosition last_end_ ABSL_GUARDED_BY(mutex_);  // where the last record that was asked for ended
  bool forward_ ABSL_GUARDED_BY(mutex_) = false;
  SegmentPosition ahead_at_ ABSL_GUARDED_BY(mutex_);
  int64_t ahead_ms_ ABSL_GUARDED_BY(mutex_) = 0;
  PendingWindow ahead_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_LARGE_READS_H_
