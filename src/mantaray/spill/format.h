// The byte layout of a spill segment. docs/spill-format.md tells it in prose; this header is the other half of it.
//
//   segment := record*                       every record starts on a multiple of kBlockBytes
//   record  := object trailer padding        padding: zeros up to the next multiple of kBlockBytes
//   object  := address_size metadata_size payload_size (little-endian uint64 each) address metadata payload
//   trailer := kTrailerBytes bytes, see below
//
// `object` is Ray's own layout, byte for byte: the raylet reads it from the file by itself when another node pulls a
// spilled object. Ray never looks behind the object, which is where the trailer lies. All integers are little-endian.
//
//   offset size  trailer field
//        0    8  magic "MRAYSPL\n"
//        8    2  format version (1)
//       10    2  trailer size (84)
//       12    4  reserved, zero
//       16   28  object id
//       44    8  offset of the object in the segment
//       52    8  header size: 24 + address + metadata
//       60    8  payload size
//       68    4  CRC32C of the header bytes
//       72    4  CRC32C of the payload
//       76    4  reserved, zero
//       80    4  CRC32C of the trailer bytes 0..79

#ifndef MANTARAY_SPILL_FORMAT_H_
#define MANTARAY_SPILL_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/ids.h"

namespace mantaray::spill {

inline constexpr size_t kBlockBytes = 4096;
inline constexpr size_t kObjectIdBytes = ObjectId::kBytes;
inline constexpr size_t kLengthsBytes = 24;
inline constexpr size_t kTrailerBytes = 84;
inline constexpr uint16_t kFormatVersion = 1;
// Larger lengths in a header are damage: no object store is that large.
inline constexpr uint64_t kMaxObjectBytes = uint64_t{1} << 46;

using TrailerBytes = std::array<char, kTrailerBytes>;

struct Lengths {
  uint64_t address_bytes = 0;
  uint64_t metadata_bytes = 0;
  uint64_t payload_bytes = 0;

  uint64_t header_bytes() const { return kLengthsBytes + address_bytes + metadata_bytes; }
  uint64_t object_bytes() const { return header_bytes() + payload_bytes; }
};

struct Trailer {
  ObjectId object_id;
  uint64_t offset = 0;
  uint64_t header_bytes = 0;
  uint64_t payload_bytes = 0;
  uint32_t header_crc = 0;
  uint32_t payload_crc = 0;
};

// Bytes that an object of `object_bytes` takes in a segment, trailer and padding included.
constexpr uint64_t RecordBytes(uint64_t object_bytes) {
  return (object_bytes + kTrailerBytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

// The 24 bytes an object starts with.
std::array<char, kLengthsBytes> EncodeLengths(const Lengths& lengths);

// The lengths as they stand there, unchecked. Nothing when the bytes are too few or a length is absurd.
std::optional<Lengths> PeekLengths(std::span<const char> bytes);

// Fails with DataLoss when the bytes are too few, a length is absurd, or the lengths do not add up to `object_bytes`.
absl::StatusOr<Lengths> ParseLengths(std::span<const char> bytes, uint64_t object_bytes);

TrailerBytes EncodeTrailer(const Trailer& trailer);

// Fails with DataLoss naming what is wrong: size, magic, checksum, version, reserved bytes, lengths. Never reads beyond
// `bytes`.
absl::StatusOr<Trailer> ParseTrailer(std::span<const char> bytes);

// Whether the trailer belongs to an object of these lengths at this offset. DataLoss says expected and found.
absl::Status CheckTrailer(const Trailer& trailer, const Lengths& lengths, uint64_t offset);

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_FORMAT_H_
