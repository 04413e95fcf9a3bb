// Writes one segment and gives it its names.
//
// Survives: running out of space at any operation and any error of the file system (nothing is left behind under a name
// that a URL refers to); a crash at any operation (before the first link the kernel reclaims the blocks by itself,
// afterwards the links lie in a temporary batch directory that the next worker sweeps).
//
// Data goes to the file straight from where it lies (vectored writes out of plasma's memory), checksummed a piece at a
// time just before it is written, while it is in the processor's cache. Only the direct mode copies, because O_DIRECT
// wants aligned memory. Not thread-safe; one writer belongs to one call.

#ifndef MANTARAY_SPILL_WRITER_H_
#define MANTARAY_SPILL_WRITER_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/parallel.h"
#include "mantaray/spill/directory.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/io_buffers.h"
#include "mantaray/spill/owner_book.h"
#include "mantaray/spill/packer.h"

namespace mantaray::spill {

// An object as it lies in memory; the memory must stay as it is until the call returns.
struct ObjectToSpill {
  ObjectId object_id;
  absl::string_view owner_address;
  absl::string_view metadata;
  absl::string_view payload;

  Lengths lengths() const { return {owner_address.size(), metadata.size(), payload.size()}; }
  uint64_t record_bytes() const { return RecordBytes(lengths().object_bytes()); }
};

// What becomes of the page cache of what was written.
enum class CacheMode {
  kKeep,    // leave it, as Ray does; only write-back is started early
  kDrop,    // give the pages back once they are on disk
  kDirect,  // never enter it (O_DIRECT); as kDrop where the file system cannot
};

// Where an object came to lie, `name` inside the batch directory.
struct Placement {
  size_t object = 0;  // index into the objects given
  std::string name;
  uint64_t offset = 0;
  uint64_t object_bytes = 0;
};

// A range of which the page cache may hold what the disk does not hold yet.
struct CachedRange {
  OwnedFile file;
  uint64_t offset = 0;
  uint64_t size_bytes = 0;
  bool drop = false;   // from the page cache, once it is on disk
  int failures = 0;    // of writing it back
  bool clean = false;  // although the disk refused it: to be written again before anything else
  std::string batch_directory;
};

struct WrittenSegment {
  std::vector<Placement> placements;
  std::vector<CachedRange> still_cached;
};

class SegmentWriter {
 public:
  SegmentWriter(FileSystem* fs, Parallel* parallel, IoBuffers* buffers, OwnerBook* book, CacheMode mode)
      : fs_(fs), parallel_(parallel), buffers_(buffers), book_(book), mode_(mode) {}

  // Gives a file of this descriptor blocks for so many bytes; see DirectorySet::Allocate.
  using Allocate = std::function<absl::Status(int, uint64_t)>;

  // Writes the planned objects into a new segment and names it inside `batch_directory`, which must exist.
  // ResourceExhausted when there is no room. In every failure nothing of the segment is left, except for left_names().
  absl::StatusOr<WrittenSegment> Write(const std::string& batch_directory, const Capabilities& capabilities,
                                       const Allocate& allocate, uint64_t segment_number,
                                       std::span<const ObjectToSpill> objects, const SegmentPlan& plan);

  // Names in the batch directory that nobody needs and that could not be removed.
  const std::vector<std::string>& left_names() const { return left_names_; }

  // Writes one object into the empty file, at this offset, and waits until the disk has it.
  absl::Status WriteAt(int fd, const ObjectToSpill& object, uint64_t offset);

 private:
  absl::Status WriteRecords(int fd, std::span<const ObjectToSpill> objects, const SegmentPlan& plan,
                            std::vector<Placement>* placements);
  absl::Status WriteDirect(int fd, const std::function<uint64_t(char*, uint64_t)>& fill);
  absl::Status WriteCached(int fd, uint64_t offset, const std::function<absl::string_view(uint64_t)>& next);
  void RemoveName(const std::string& batch_directory, const std::string& name);
  absl::Status Pace(int fd, uint64_t written_bytes, uint64_t* started_bytes);
  absl::Status NameObjects(int fd, const std::string& batch_directory, std::span<const ObjectToSpill> objects,
                           std::vector<Placement>* placements);

  FileSystem* const fs_;
  Parallel* const parallel_;
  IoBuffers* const buffers_;
  OwnerBook* const book_;
  const CacheMode mode_;
  uint64_t dropped_bytes_ = 0;  // of the current segment
  std::vector<std::string> left_names_;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_WRITER_H_
