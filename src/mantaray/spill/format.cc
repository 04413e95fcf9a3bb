// Encoding and bounded parsing of the segment format.

#include "mantaray/spill/format.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mantaray/common/crc32c.h"

namespace mantaray::spill {
namespace {

constexpr absl::string_view kMagic = "MRAYSPL\n";
constexpr size_t kVersionAt = 8;
constexpr size_t kTrailerSizeAt = 10;
constexpr size_t kReservedAt = 12;
constexpr size_t kObjectIdAt = 16;
constexpr size_t kOffsetAt = 44;
constexpr size_t kHeaderSizeAt = 52;
constexpr size_t kPayloadSizeAt = 60;
constexpr size_t kHeaderCrcAt = 68;
constexpr size_t kPayloadCrcAt = 72;
constexpr size_t kReservedTooAt = 76;
constexpr size_t kTrailerCrcAt = 80;

template <typename Integer>
void Put(char* at, Integer value) {
  for (size_t i = 0; i < sizeof(Integer); ++i) at[i] = static_cast<char>(value >> (8 * i));
}

template <typename Integer>
Integer Get(const char* at) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(Integer); ++i) value |= uint64_t{static_cast<unsigned char>(at[i])} << (8 * i);
  return static_cast<Integer>(value);
}

}  // namespace

std::array<char, kLengthsBytes> EncodeLengths(const Lengths& lengths) {
  std::array<char, kLengthsBytes> bytes{};
  Put<uint64_t>(bytes.data(), lengths.address_bytes);
  Put<uint64_t>(bytes.data() + 8, lengths.metadata_bytes);
  Put<uint64_t>(bytes.data() + 16, lengths.payload_bytes);
  return bytes;
}

std::optional<Lengths> PeekLengths(std::span<const char> bytes) {
  if (bytes.size() < kLengthsBytes) return std::nullopt;
  const Lengths lengths{.address_bytes = Get<uint64_t>(bytes.data()),
                        .metadata_bytes = Get<uint64_t>(bytes.data() + 8),
                        .payload_bytes = Get<uint64_t>(bytes.data() + 16)};
  const bool absurd = lengths.address_bytes > kMaxObjectBytes || lengths.metadata_bytes > kMaxObjectBytes ||
                      lengths.payload_bytes > kMaxObjectBytes;
  return absurd ? std::nullopt : std::optional<Lengths>(lengths);
}

absl::StatusOr<Lengths> ParseLengths(std::span<const char> bytes, uint64_t object_bytes) {
  if (bytes.size() < kLengthsBytes) {
    return absl::DataLossError(
        absl::StrCat("truncated header: expected ", kLengthsBytes, " bytes, found ", bytes.size()));
  }
  const Lengths lengths{.address_bytes = Get<uint64_t>(bytes.data()),
                        .metadata_bytes = Get<uint64_t>(bytes.data() + 8),
                        .payload_bytes = Get<uint64_t>(bytes.data() + 16)};
  if (lengths.address_bytes > kMaxObjectBytes || lengths.metadata_bytes > kMaxObjectBytes ||
      lengths.payload_bytes > kMaxObjectBytes || lengths.object_bytes() != object_bytes) {
    return absl::DataLossError(absl::StrFormat(
        "bad lengths in header: expected them to add up to %u bytes, found address %u, metadata %u, payload %u",
        object_bytes, lengths.address_bytes, lengths.metadata_bytes, lengths.payload_bytes));
  }
  return lengths;
}

TrailerBytes EncodeTrailer(const Trailer& trailer) {
  TrailerBytes bytes{};
  std::memcpy(bytes.data(), kMagic.data(), kMagic.size());
  Put<uint16_t>(bytes.data() + kVersionAt, kFormatVersion);
  Put<uint16_t>(bytes.data() + kTrailerSizeAt, kTrailerBytes);
  std::memcpy(bytes.data() + kObjectIdAt, trailer.object_id.Binary().data(), kObjectIdBytes);
  Put<uint64_t>(bytes.data() + kOffsetAt, trailer.offset);
  Put<uint64_t>(bytes.data() + kHeaderSizeAt, trailer.header_bytes);
  Put<uint64_t>(bytes.data() + kPayloadSizeAt, trailer.payload_bytes);
  Put<uint32_t>(bytes.data() + kHeaderCrcAt, trailer.header_crc);
  Put<uint32_t>(bytes.data() + kPayloadCrcAt, trailer.payload_crc);
  Put<uint32_t>(bytes.data() + kTrailerCrcAt, Crc32c(bytes.data(), kTrailerCrcAt));
  return bytes;
}

absl::StatusOr<Trailer> ParseTrailer(std::span<const char> bytes) {
  if (bytes.size() < kTrailerBytes) {
    return absl::DataLossError(
        absl::StrCat("truncated trailer: expected ", kTrailerBytes, " bytes, found ", bytes.size()));
  }
  const char* data = bytes.data();
  if (absl::string_view(data, kMagic.size()) != kMagic) {
    return absl::DataLossError("bad trailer magic: the object's trailer is missing or overwritten");
  }
  const auto expected_crc = Get<uint32_t>(data + kTrailerCrcAt);
  const uint32_t found_crc = Crc32c(data, kTrailerCrcAt);
  if (expected_crc != found_crc) {
    return absl::DataLossError(
        absl::StrFormat("trailer checksum mismatch: expected %08x, found %08x", expected_crc, found_crc));
  }
  const auto version = Get<uint16_t>(data + kVersionAt);
  const auto size = Get<uint16_t>(data + kTrailerSizeAt);
  if (version != kFormatVersion || size != kTrailerBytes) {
    return absl::DataLossError(
        absl::StrFormat("unknown trailer version: expected version %u of %u bytes, found version %u of %u bytes",
                        kFormatVersion, kTrailerBytes, version, size));
  }
  if (Get<uint32_t>(data + kReservedAt) != 0 || Get<uint32_t>(data + kReservedTooAt) != 0) {
    return absl::DataLossError("bad trailer: reserved bytes are not zero");
  }
  Trailer trailer;
  trailer.object_id = *ObjectId::FromBinary({data + kObjectIdAt, kObjectIdBytes});
  trailer.offset = Get<uint64_t>(data + kOffsetAt);
  trailer.header_bytes = Get<uint64_t>(data + kHeaderSizeAt);
  trailer.payload_bytes = Get<uint64_t>(data + kPayloadSizeAt);
  trailer.header_crc = Get<uint32_t>(data + kHeaderCrcAt);
  trailer.payload_crc = Get<uint32_t>(data + kPayloadCrcAt);
  if (trailer.header_bytes < kLengthsBytes || trailer.header_bytes > kMaxObjectBytes ||
      trailer.payload_bytes > kMaxObjectBytes) {
    return absl::DataLossError(
        absl::StrFormat("bad lengths in trailer: header %u, payload %u", trailer.header_bytes, trailer.payload_bytes));
  }
  return trailer;
}

absl::Status CheckTrailer(const Trailer& trailer, const Lengths& lengths, uint64_t offset) {
  if (trailer.header_bytes != lengths.header_bytes() || trailer.payload_bytes != lengths.payload_bytes) {
    return absl::DataLossError(
        absl::StrFormat("trailer of another object: expected header %u and payload %u bytes, found %u and %u",
                        lengths.header_bytes(), lengths.payload_bytes, trailer.header_bytes, trailer.payload_bytes));
  }
  if (trailer.offset != offset) {
    return absl::DataLossError(
        absl::StrFormat("misplaced object: expected at offset %u, written for offset %u", offset, trailer.offset));
  }
  return absl::OkStatus();
}

}  // namespace mantaray::spill
