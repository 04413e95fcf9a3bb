// Restoring past the page cache: a segment is read in windows, and the objects that lie in one are served from memory.
//
// Objects that were spilled together are usually wanted together, but each is restored by a call of its own. So the
// first object of a segment is read by itself, and while restores move forward the window doubles up to a bound, and
// the next one is read in the background while this one is served. The page cache is left alone: what is restored lies
// in the object store afterwards, and a second copy in the cache would only count against the machine's memory. A
// reader that takes less than a third of what its windows hold (the neighbours are dead, or many workers restore them)
// is no stream: it is left to the page cache, which all processes share.
//
// A window keeps its segment open, so that the kernel cannot give the inode to another file while the window is
// remembered; what has not been used for kKeepMs is dropped. Thread-safe.

#ifndef MANTARAY_SPILL_WINDOWS_H_
#define MANTARAY_SPILL_WINDOWS_H_

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/clock.h"
#include "mantaray/common/mutex.h"
#include "mantaray/common/parallel.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/io_buffers.h"

namespace mantaray::spill {

// Bytes of a segment in memory.
struct Window {
  std::shared_ptr<const OwnedFile> file;  // unbuffered
  IoBuffers::Lease buffer;
  uint64_t start = 0;  // where in the buffer the bytes begin
  uint64_t offset = 0;
  uint64_t size_bytes = 0;

  uint64_t end() const { return offset + size_bytes; }
  // The part [from, from + wanted_bytes) of the segment, empty when it is not all here.
  absl::string_view Find(uint64_t from, uint64_t wanted_bytes) const;
};

class WindowCache {
 public:
  static constexpr int64_t kKeepMs = 2000;
  // A larger record does not come from a window. The rest of a buffer is room for the part of a record that lies in
  // the window before.
  static constexpr uint64_t kMaxRecordBytes = IoBuffers::kBufferBytes / 2;

  // `max_bytes`: bound of a window beyond the record that is wanted, 0 means no reading ahead.
  WindowCache(FileSystem* fs, const Clock* clock, Parallel* parallel, IoBuffers* buffers, uint64_t max_bytes);
  // Waits for reads in the background.
  ~WindowCache();
  WindowCache(const WindowCache&) = delete;
  WindowCache& operator=(const WindowCache&) = delete;

  // A window that holds [offset, offset + wanted_bytes) of the segment, read now or earlier. `offset` is a block's,
  // `path` one of the segment's links, `fd` the same file opened. Null: read it through the page cache, because the
  // file system has no unbuffered reads, the record is too large, or this is no stream.
  std::shared_ptr<const Window> Get(const std::string& path, int fd, uint64_t offset, uint64_t wanted_bytes);

  // Drops what has not been used lately.
  void Tick();

 private:
  using WindowPtr = std::shared_ptr<Window>;

  struct Stream {
    std::shared_ptr<const OwnedFile> file;
    std::shared_ptr<const Window> window;
    std::shared_future<WindowPtr> next;  // begins where `window` ends
    uint64_t segment_bytes = 0;
    uint64_t next_bytes = 0;    // size of the next window while restores move forward
    uint64_t wanted_bytes = 0;  // of the current window
    uint64_t largest_record_bytes = 0;
    bool sparse = false;
    int64_t used_ms = 0;
  };

  void Move(Stream* stream, uint64_t offset, uint64_t wanted_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<const Window> TakeNext(Stream* stream, uint64_t offset, uint64_t wanted_bytes);
  void StartNext(Stream* stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  WindowPtr Load(const std::shared_ptr<const OwnedFile>& file, uint64_t start, uint64_t offset,
                 uint64_t size_bytes) const;
  void DropOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  FileSystem* const fs_;
  const Clock* const clock_;
  Parallel* const parallel_;
  IoBuffers* const buffers_;
  const uint64_t max_bytes_;
  Mutex mutex_;
  std::map<std::pair<uint64_t, uint64_t>, Stream> streams_ ABSL_GUARDED_BY(mutex_);  // by device and inode
  // The last read in the background: with it, all before are done. (Without its window, which it would keep.)
  std::shared_future<void> last_started_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_WINDOWS_H_
