// The spill engine of one IO worker: spills, opens, deletes, puts rebuilt objects back, and does what is due.
//
// Survives, besides what its parts survive (placer.h, sweeper.h, reclaimer.h, reader.h): a disk that is away for a
// while (that is never taken for a lost file, and deletes are done when it is back); bytes that the disk refused
// although the page cache took them (they are written again as long as the page cache has them); an IO worker killed at
// any point.
//
// Thread-safe. Everything outside is handed in: file system, clock, host, a second thread.

#ifndef MANTARAY_SPILL_ENGINE_H_
#define MANTARAY_SPILL_ENGINE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/common/clock.h"
#include "mantaray/common/mutex.h"
#include "mantaray/common/parallel.h"
#include "mantaray/spill/directory.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/host.h"
#include "mantaray/spill/io_buffers.h"
#include "mantaray/spill/journal.h"
#include "mantaray/spill/large_reads.h"
#include "mantaray/spill/owner_book.h"
#include "mantaray/spill/placer.h"
#include "mantaray/spill/read_ahead.h"
#include "mantaray/spill/reader.h"
#include "mantaray/spill/reclaimer.h"
#include "mantaray/spill/sweeper.h"
#include "mantaray/spill/windows.h"
#include "mantaray/spill/writer.h"

namespace mantaray::spill {

struct EngineOptions {
  std::vector<std::string> node_directories;
  // The file systems that they lay on when the node started, 0 for not known; see DirectorySet.
  std::vector<uint64_t> devices;
  // Where the workers of this node keep their owner books; empty: nowhere.
  std::string state_directory;
  ProcessId self;
  uint64_t max_segment_bytes = uint64_t{128} << 20;
  // Bound where objects cannot be given back one by one: the smaller, the sooner a file dies.
  uint64_t max_fused_bytes = uint64_t{16} << 20;
  std::optional<uint64_t> reserve_bytes;
  CacheMode cache_mode = CacheMode::kDirect;
  uint64_t read_ahead_bytes = IoBuffers::kBufferBytes;
  ReclaimerOptions reclaimer;
};

// What this engine has done since it started, and what it has still to do.
struct EngineStats {
  uint64_t spilled_objects = 0;
  uint64_t spilled_bytes = 0;
  uint64_t opened_objects = 0;
  uint64_t opened_bytes = 0;
  uint64_t deleted_objects = 0;
  uint64_t damaged_objects = 0;
  uint64_t lost_objects = 0;
  uint64_t repaired_objects = 0;
  uint64_t io_errors = 0;         // of reads; the caller tries again
  uint64_t writeback_errors = 0;  // bytes that the disk refused and that are written again
  uint64_t refused_spills = 0;    // calls that found no room
  uint64_t deferred_deletes = 0;  // waiting for a disk that is away
  ReclaimerStats reclaimer;
};

class Engine {
 public:
  Engine(FileSystem* fs, const Clock* clock, Host* host, Parallel* parallel, EngineOptions options);

  // Spills the objects and returns their URLs, in order. Fewer URLs than objects: the rest found no room.
  // ResourceExhausted, naming directories, needed and free bytes, when not even the first did.
  absl::StatusOr<std::vector<std::string>> Spill(std::span<const ObjectToSpill> objects);

  // Whether segments written from now on stay in the page cache, whatever the mode of the options. Reads follow the
  // mode of the options: what the page cache holds is read from there in every mode.
  void KeepInCache(bool keep);

  // Opens a spilled object for reading. DataLoss when it is damaged; it has then been set aside. NotFound when its file
  // is gone although its disk is there. Every other error may pass: call again.
  absl::StatusOr<ObjectReader> Open(const std::string& url, const ObjectId& object_id);

  // Renames a damaged object's link, so that it is not tried for ever; `inode` is the file that was read. Returns
  // whether that file was still the object's: it is not when the object was deleted, or put back, while it was read.
  bool SetAside(const std::string& url, uint64_t inode);

  // Writes an object again under the URL that Ray knows, after its file was lost or damaged. The object may have
  // another size than before. ResourceExhausted when its directory has no room; Unimplemented where objects are fused.
  absl::Status Replace(const std::string& url, const ObjectToSpill& object);

  // The serialized address of the object's owner, from the owner book or else from the object's file. NotFound when
  // neither is left.
  absl::StatusOr<std::string> OwnerOf(const std::string& url);

  // Deletes the objects. Goes on after a failure and returns the first.
  absl::Status Delete(std::span<const std::string> urls);

  // To be called a few times a second: due punches, page cache to drop, dead workers to sweep up after.
  void Tick();

  // Punches what can be punched, and returns how long Close has to wait until the readers of the rest have had their
  // grace time.
  int64_t CloseDelayMs();
  // Punches what is pending. Nothing else may be called afterwards.
  void Close();

  // What each directory's file system lacks, "path: hard links, hole punching"; empty when nothing. Probes.
  std::vector<std::string> Limitations();
  // Why directories cannot be used just now, "path: reason"; empty when all can.
  std::vector<std::string> Unusable();
  EngineStats Stats();

 private:
  ObjectSource SourceOf(const ParsedUrl& url, OwnedFile file, uint64_t inode);
  bool IsFile(const std::string& path, uint64_t inode);
  // Puts a rebuilt copy back that another worker had set aside in place of the damaged one, before it met an error or
  // died. Returns whether there was one.
  bool PutBack(const ParsedUrl& url, const ObjectId& object_id);
  absl::StatusOr<OwnedFile> OpenFile(const ParsedUrl& url);
  absl::StatusOr<ObjectReader> OpenReplaced(const ParsedUrl& url, const ObjectId& object_id);
  absl::Status DeleteOne(const std::string& url);
  bool Defer(const std::string& url);
  void DropUnneeded(std::span<const std::string> urls);
  void DropFirstCopies(std::span<const std::string> urls);
  absl::Status MoveInto(const std::string& from, const std::string& path, size_t directory)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RetryDeletes(bool at_once);
  bool SettleOldest();
  bool Settle(CachedRange* range);
  bool WriteAgain(const CachedRange& range);

  FileSystem* const fs_;
  const Clock* const clock_;
  Parallel* const parallel_;
  const EngineOptions options_;
  Reclaimer reclaimer_;
  IoBuffers buffers_;
  WindowCache windows_;
  LargeReads large_reads_;
  OwnerBook book_;
  Journal journal_;

  mutable Mutex mutex_;
  DirectorySet directories_ ABSL_GUARDED_BY(mutex_);
  Placer placer_ ABSL_GUARDED_BY(mutex_);
  Sweeper sweeper_ ABSL_GUARDED_BY(mutex_);
  ReadAheadTracker read_ahead_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_repair_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_trim_ms_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_sweep_ms_ ABSL_GUARDED_BY(mutex_) = 0;

  // Never held during file operations, nor while mutex_ is waited for.
  mutable Mutex small_mutex_;
  std::deque<CachedRange> still_cached_ ABSL_GUARDED_BY(small_mutex_);
  uint64_t still_cached_bytes_ ABSL_GUARDED_BY(small_mutex_) = 0;
  int64_t next_settle_ms_ ABSL_GUARDED_BY(small_mutex_) = 0;
  std::set<std::string> deferred_deletes_ ABSL_GUARDED_BY(small_mutex_);
  int64_t next_delete_ms_ ABSL_GUARDED_BY(small_mutex_) = 0;
  EngineStats stats_ ABSL_GUARDED_BY(small_mutex_);
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_ENGINE_H_
