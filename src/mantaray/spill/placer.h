// Where the objects of a batch go: segments over directories, published as batch directories.
//
// Survives: a directory that is full, vanishes or fails in the middle of a batch (the batch goes on in the next
// directory); no room anywhere (the objects that fitted are reported as a prefix, which is how Ray takes partial
// success). Not thread-safe.

#ifndef MANTARAY_SPILL_PLACER_H_
#define MANTARAY_SPILL_PLACER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/common/parallel.h"
#include "mantaray/spill/directory.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/io_buffers.h"
#include "mantaray/spill/owner_book.h"
#include "mantaray/spill/packer.h"
#include "mantaray/spill/writer.h"

namespace mantaray::spill {

struct PlacerOptions {
  ProcessId self;
  uint64_t max_segment_bytes = 0;
  uint64_t max_fused_bytes = 0;  // bound where objects cannot be given back one by one
  CacheMode cache_mode = CacheMode::kDirect;
};

class Placer {
 public:
  Placer(FileSystem* fs, Parallel* parallel, IoBuffers* buffers, DirectorySet* directories, OwnerBook* book,
         const PlacerOptions& options)
      : fs_(fs), parallel_(parallel), buffers_(buffers), directories_(directories), book_(book), options_(options) {}

  // See Engine::Spill. Appends the ranges that the page cache still holds to `still_cached`, and to `unneeded` the URLs
  // of what was written but is not reported, which the caller deletes.
  absl::StatusOr<std::vector<std::string>> Spill(std::span<const ObjectToSpill> objects,
                                                 std::deque<CachedRange>* still_cached,
                                                 std::vector<std::string>* unneeded);

  // Tries again to remove temporary directories that could not be removed.
  void Tick();

  // What the file system of a directory can do; see DirectorySet::Probe.
  absl::StatusOr<Capabilities> Probe(size_t directory);
  // Makes a directory below this worker's own, which is made if need be.
  absl::Status MakeInWorkerDirectory(size_t directory, const std::string& path);
  // Removes such a directory, and the worker's own if nothing else is in it.
  void RemoveFromWorkerDirectory(size_t directory, const std::string& path);
  std::string WorkerPath(size_t directory) const;
  // What becomes of the page cache of segments that are written from now on.
  void set_cache_mode(CacheMode mode) { options_.cache_mode = mode; }

 private:
  struct Batch;

  absl::Status EnsureWorkerDirectory(size_t directory);
  absl::StatusOr<std::string> BatchDirectory(Batch* batch, size_t directory);
  absl::Status TryDirectory(Batch* batch, size_t directory, const SegmentPlan& plan);
  void PlaceSegment(Batch* batch, const SegmentPlan& plan);
  void Publish(Batch* batch);
  void Plan(Batch* batch, const std::vector<size_t>& objects);
  std::vector<std::string> TakePrefix(const Batch& batch, std::vector<std::string>* unneeded) const;

  FileSystem* const fs_;
  Parallel* const parallel_;
  IoBuffers* const buffers_;
  DirectorySet* const directories_;
  OwnerBook* const book_;
  PlacerOptions options_;
  uint64_t next_batch_ = 0;
  // Temporary directories that are still there, and the directory each lies below.
  std::map<std::string, size_t> leftovers_;
};

// Removes a temporary directory with what is in it. Returns false when something of it is still there.
bool RemoveTemporaryBatch(FileSystem* fs, const std::string& path);

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_PLACER_H_
