// Reads one spilled object back, checked.
//
// Survives, as DataLoss that names path, offset, size, expected and found: truncated file, bad lengths, damaged header,
// flipped payload bits, missing or foreign trailer, a hole where the object was. A file that is gone is NotFound.
//
// An object up to kWholeObjectBytes is read into a buffer and checked before anything is handed out. A larger one has
// its header checked first, and its payload while it streams into the caller's memory: a mismatch shows at the end of
// ReadPayload, and the caller must not publish what it got. Not thread-safe.
//
// Bytes come from a window if there is one; else past the page cache if the file is open for that, in buffers of which
// two are filled by the disk while another is copied and checksummed; else through the page cache.

#ifndef MANTARAY_SPILL_READER_H_
#define MANTARAY_SPILL_READER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/parallel.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/large_reads.h"
#include "mantaray/spill/names.h"
#include "mantaray/spill/windows.h"

namespace mantaray::spill {

inline constexpr uint64_t kWholeObjectBytes = 64 << 10;

// Where an object's bytes come from.
struct ObjectSource {
  OwnedFile file;                        // the URL's path, opened
  uint64_t inode = 0;                    // of that file
  std::shared_ptr<const Window> window;  // holds the whole record, or null
  bool cached = false;                   // whether the page cache seems to hold it
  // The same file, unbuffered, and who reads it; only for what is larger than a window.
  std::shared_ptr<const OwnedFile> direct;
  LargeReads* large_reads = nullptr;
};

// The size of the one object in a file that Engine::Replace wrote, whatever its name says. NotFound when it is another
// file, with several links or other records.
absl::StatusOr<uint64_t> ActualObjectBytes(FileSystem* fs, int fd, uint64_t offset);

class ObjectReader {
 public:
  // `object_id` is what the caller expects to find in the source.
  static absl::StatusOr<ObjectReader> Open(FileSystem* fs, const ParsedUrl& url, ObjectSource source,
                                           const ObjectId& object_id);

  absl::string_view owner_address() const;
  absl::string_view metadata() const;
  uint64_t payload_bytes() const { return lengths_.payload_bytes; }
  // Which file was opened; its name may mean another one by now.
  uint64_t inode() const { return source_.inode; }
  // Whether ReadPayload can still find damage.
  bool checked() const { return checked_; }

  // Fills `payload`, which must have payload_bytes() bytes. May be called again (it reads again). A large payload
  // that lies in memory is read by two threads at once, if `parallel` has them.
  absl::Status ReadPayload(std::span<char> payload, Parallel* parallel);

  // Reads the payload as ReadPayload does, without keeping it.
  absl::Status VerifyPayload();

 private:
  ObjectReader(FileSystem* fs, ParsedUrl url, ObjectSource source)
      : fs_(fs), url_(std::move(url)), source_(std::move(source)) {}

  absl::Status ReadAndCheck(const ObjectId& object_id);
  absl::Status ReadExactly(uint64_t offset, std::span<char> bytes, absl::string_view what);
  void ReadEnds();
  void StartReads(uint64_t at);
  absl::Status ReadShared(std::span<char> payload, Parallel* parallel);
  absl::Status ReadDirect(std::span<char> payload, uint32_t* crc);
  absl::Status ReadPart(uint64_t offset, std::span<char> part, uint64_t piece_bytes, uint32_t* crc);
  absl::Status CheckCrc(absl::string_view what, uint32_t expected, uint32_t found) const;
  absl::Status Damage(absl::string_view problem) const;

  FileSystem* fs_;
  ParsedUrl url_;
  ObjectSource source_;
  Lengths lengths_;
  uint32_t payload_crc_ = 0;
  bool checked_ = false;
  // Of an unbuffered record: its first bytes and the blocks with its end, and what is being read.
  std::unique_ptr<Window> head_;
  std::unique_ptr<Window> tail_;
  std::deque<PendingWindow> pending_;
  uint64_t started_bytes_ = 0;  // of the record, asked for by now
  std::vector<char> bytes_;     // the header, or the whole object and its trailer
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_READER_H_
