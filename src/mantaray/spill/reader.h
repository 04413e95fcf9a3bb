// Reads one spilled object back, checked.
//
// Survives, as DataLoss that names path, offset, size, expected and found: truncated file, bad lengths, damaged header,
// flipped payload bits, missing or foreign trailer, a hole where the object was. A file that is gone is NotFound.
//
// An object up to kWholeObjectBytes is read into a buffer and checked before anything is handed out. A larger one has
// its header checked first, and its payload while it streams into the caller's memory: a mismatch shows at the end of
// ReadPayload, and the caller must not publish what it got. Not thread-safe.

#ifndef MANTARAY_SPILL_READER_H_
#define MANTARAY_SPILL_READER_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/parallel.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

inline constexpr uint64_t kWholeObjectBytes = 64 << 10;

class ObjectReader {
 public:
  // `file` is the URL's path, opened; `object_id` is what the caller expects to find in it.
  static absl::StatusOr<ObjectReader> Open(FileSystem* fs, const ParsedUrl& url, OwnedFile file,
                                           const ObjectId& object_id);

  absl::string_view owner_address() const;
  absl::string_view metadata() const;
  uint64_t payload_bytes() const { return lengths_.payload_bytes; }
  // Whether ReadPayload can still find damage.
  bool checked() const { return checked_; }

  // Fills `payload`, which must have payload_bytes() bytes. May be called again (it reads again). A large payload
  // that lies in the page cache is read in two halves, handed to `parallel`.
  absl::Status ReadPayload(std::span<char> payload, Parallel* parallel);

 private:
  ObjectReader(FileSystem* fs, ParsedUrl url, OwnedFile file) : fs_(fs), url_(std::move(url)), file_(std::move(file)) {}

  absl::Status ReadAndCheck(const ObjectId& object_id);
  absl::Status ReadExactly(uint64_t offset, std::span<char> bytes, absl::string_view what);
  absl::Status ReadPart(uint64_t offset, std::span<char> part, uint64_t piece_bytes, uint32_t* crc);
  absl::Status CheckCrc(absl::string_view what, uint32_t expected, uint32_t found) const;
  absl::Status Damage(absl::string_view problem) const;

  FileSystem* fs_;
  ParsedUrl url_;
  OwnedFile file_;
  Lengths lengths_;
  uint32_t payload_crc_ = 0;
  bool checked_ = false;
  std::vector<char> bytes_;  // the header, or the whole object and its trailer
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_READER_H_
