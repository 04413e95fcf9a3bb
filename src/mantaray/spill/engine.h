// The spill engine of one IO worker: where batches go, what becomes of them, and cleaning up after workers that died.
//
// Survives, besides what its parts survive: a directory that is full, vanishes or fails in the middle of a batch (the
// batch goes on in the next directory); no room anywhere (the objects that fitted are reported as a prefix, which is
// how Ray takes partial success); an IO worker killed at any point (its half-made batches are removed, its pending
// punches are done, and the batch whose report never reached the raylet is dropped object by object as those are
// spilled again).
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
#include "mantaray/spill/large_reads.h"
#include "mantaray/spill/read_ahead.h"
#include "mantaray/spill/reader.h"
#include "mantaray/spill/reclaimer.h"
#include "mantaray/spill/windows.h"
#include "mantaray/spill/writer.h"

namespace mantaray::spill {

struct EngineOptions {
  std::vector<std::string> node_directories;  // must exist
  ProcessId self;
  uint64_t max_segment_bytes = uint64_t{128} << 20;
  // Bound where objects cannot be given back one by one: the smaller, the sooner a file dies.
  uint64_t max_fused_bytes = uint64_t{16} << 20;
  std::optional<uint64_t> reserve_bytes;
  CacheMode cache_mode = CacheMode::kDirect;
  uint64_t read_ahead_bytes = IoBuffers::kBufferBytes;
  ReclaimerOptions reclaimer;
};

class Engine {
 public:
  Engine(FileSystem* fs, const Clock* clock, Host* host, Parallel* parallel, EngineOptions options);

  // Spills the objects and returns their URLs, in order. Fewer URLs than objects: the rest found no room.
  // ResourceExhausted, naming directories, needed and free bytes, when not even the first did.
  absl::StatusOr<std::vector<std::string>> Spill(std::span<const ObjectToSpill> objects);

  // Opens a spilled object for reading. DataLoss when it is damaged; it has then been set aside.
  absl::StatusOr<ObjectReader> Open(const std::string& url, const ObjectId& object_id);

  // Renames a damaged object's link, so that it is not tried for ever.
  void SetAside(const std::string& url);

  // Deletes the objects. Goes on after a failure and returns the first.
  absl::Status Delete(std::span<const std::string> urls);

  // To be called a few times a second: due punches, page cache to drop, dead workers to sweep up after.
  void Tick();

  // How long Close has to wait until the readers of what was deleted have had their grace time.
  int64_t CloseDelayMs() const;
  // Punches what is pending. Nothing else may be called afterwards.
  void Close();

  // What each directory's file system lacks, "path: hard links, hole punching"; empty when nothing. Probes.
  std::vector<std::string> Limitations();

 private:
  struct Batch;

  ObjectSource SourceOf(const ParsedUrl& url, OwnedFile file);
  void Place(Batch* batch, const SegmentPlan& plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TryDirectory(Batch* batch, size_t directory, const SegmentPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::string> BatchDirectory(Batch* batch, size_t directory);
  absl::Status EnsureWorkerDirectory(size_t directory);
  void Publish(Batch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Plan(Batch* batch, const std::vector<size_t>& objects);
  void RemoveTemporary(const std::string& path);
  std::vector<std::string> TakePrefix(Batch* batch);
  std::string WorkerPath(size_t directory) const;
  void DropCached(uint64_t keep_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SweepDeadWorkers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SweepWorker(const std::string& worker_directory);
  void LoadSuspects(const ProcessId& dead) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropSuspects(std::span<const ObjectToSpill> objects, size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  FileSystem* const fs_;
  const Clock* const clock_;
  Host* const host_;
  Parallel* const parallel_;
  const EngineOptions options_;
  Reclaimer reclaimer_;
  IoBuffers buffers_;
  Windows windows_;
  LargeReads large_reads_;

  mutable Mutex mutex_;
  DirectorySet directories_ ABSL_GUARDED_BY(mutex_);
  ReadAheadTracker read_ahead_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_batch_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<ProcessId> known_dead_ ABSL_GUARDED_BY(mutex_);
  // Links of batches whose report may never have reached the raylet, by object.
  std::map<ObjectId, std::string> suspects_ ABSL_GUARDED_BY(mutex_);
  std::deque<CachedRange> still_cached_ ABSL_GUARDED_BY(mutex_);
  uint64_t still_cached_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_trim_ms_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_sweep_ms_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_ENGINE_H_
