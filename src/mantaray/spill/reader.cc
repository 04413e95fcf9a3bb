// Checked reading.

#include "mantaray/spill/reader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mantaray/common/crc32c.h"

namespace mantaray::spill {
namespace {

constexpr uint64_t kPieceBytes = 256 << 10;    // out of memory: read, then checksummed while in the processor's cache
constexpr uint64_t kDiskPieceBytes = 8 << 20;  // out of a disk: large requests, whatever its read-ahead
constexpr uint64_t kSplitBytes = 512 << 10;    // below, waking a second thread costs more than it brings

std::string Hex(const ObjectId& id) { return absl::BytesToHexString(absl::string_view(id.data(), id.size())); }

}  // namespace

absl::StatusOr<ObjectReader> ObjectReader::Open(FileSystem* fs, const ParsedUrl& url, ObjectSource source,
                                                const ObjectId& object_id) {
  ObjectReader reader(fs, url, std::move(source));
  if (absl::Status status = reader.ReadAndCheck(object_id); !status.ok()) return status;
  return reader;
}

absl::Status ObjectReader::Damage(absl::string_view problem) const {
  return absl::DataLossError(absl::StrFormat("damaged spilled object in %s at offset %u, size %u: %s", url_.path,
                                             url_.offset, url_.object_bytes, problem));
}

absl::Status ObjectReader::CheckCrc(absl::string_view what, uint32_t expected, uint32_t found) const {
  if (expected == found) return absl::OkStatus();
  return Damage(absl::StrFormat("%s checksum mismatch: expected %08x, found %08x", what, expected, found));
}

absl::Status ObjectReader::ReadExactly(uint64_t offset, std::span<char> bytes, absl::string_view what) {
  const std::array<const Window*, 3> in_memory = {source_.window.get(), head_.get(), tail_.get()};
  for (const Window* window : in_memory) {
    const absl::string_view found = window == nullptr ? absl::string_view() : window->Find(offset, bytes.size());
    if (found.empty()) continue;
    std::copy(found.begin(), found.end(), bytes.begin());
    return absl::OkStatus();
  }
  const absl::StatusOr<uint64_t> count = fs_->Read(source_.file.fd(), bytes.data(), bytes.size(), offset);
  if (!count.ok()) {
    return absl::Status(count.status().code(), absl::StrCat(url_.path, ": ", count.status().message()));
  }
  if (*count == bytes.size()) return absl::OkStatus();
  return Damage(absl::StrFormat("file truncated in its %s: expected %u bytes, found %u", what, bytes.size(), *count));
}

absl::Status ObjectReader::ReadAndCheck(const ObjectId& object_id) {
  const uint64_t object_bytes = url_.object_bytes;
  if (object_bytes < kLengthsBytes || object_bytes > kMaxObjectBytes) return Damage("impossible size in the URL");
  if (source_.direct.valid()) ReadEnds();
  const bool whole = object_bytes <= kWholeObjectBytes;
  bytes_.resize(whole ? object_bytes + kTrailerBytes : std::min<uint64_t>(object_bytes, kBlockBytes));
  if (absl::Status status = ReadExactly(url_.offset, bytes_, "object"); !status.ok()) return status;

  const absl::StatusOr<Lengths> lengths = ParseLengths(bytes_, object_bytes);
  if (!lengths.ok()) return Damage(lengths.status().message());
  lengths_ = *lengths;
  TrailerBytes trailer_bytes{};
  if (whole) {
    std::memcpy(trailer_bytes.data(), bytes_.data() + object_bytes, kTrailerBytes);
  } else {
    const uint64_t read_bytes = bytes_.size();
    bytes_.resize(lengths_.header_bytes());
    if (read_bytes < bytes_.size()) {
      const std::span<char> rest = std::span(bytes_).subspan(read_bytes);
      if (absl::Status status = ReadExactly(url_.offset + read_bytes, rest, "header"); !status.ok()) return status;
    }
    if (absl::Status status = ReadExactly(url_.offset + object_bytes, trailer_bytes, "trailer"); !status.ok()) {
      return status;
    }
  }
  const absl::StatusOr<Trailer> trailer = ParseTrailer(trailer_bytes);
  if (!trailer.ok()) return Damage(trailer.status().message());
  if (absl::Status status = CheckTrailer(*trailer, lengths_, url_.offset); !status.ok())
    return Damage(status.message());
  if (trailer->object_id != object_id) {
    return Damage(absl::StrCat("another object: expected ", Hex(object_id), ", found ", Hex(trailer->object_id)));
  }
  if (absl::Status status = CheckCrc("header", trailer->header_crc, Crc32c(bytes_.data(), lengths_.header_bytes()));
      !status.ok()) {
    return status;
  }
  payload_crc_ = trailer->payload_crc;
  if (!whole) return absl::OkStatus();
  checked_ = true;
  return CheckCrc("payload", payload_crc_, Crc32c(bytes_.data() + lengths_.header_bytes(), lengths_.payload_bytes));
}

absl::string_view ObjectReader::owner_address() const {
  return {bytes_.data() + kLengthsBytes, lengths_.address_bytes};
}

absl::string_view ObjectReader::metadata() const {
  return {bytes_.data() + kLengthsBytes + lengths_.address_bytes, lengths_.metadata_bytes};
}

absl::Status ObjectReader::ReadPayload(std::span<char> payload, Parallel* parallel) {
  if (payload.size() != lengths_.payload_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("buffer of %u bytes for a payload of %u bytes", payload.size(), lengths_.payload_bytes));
  }
  if (checked_) {
    std::memcpy(payload.data(), bytes_.data() + lengths_.header_bytes(), payload.size());
    return absl::OkStatus();
  }
  // The second thread has to wake up first, so it gets the smaller part.
  const uint64_t cut = payload.size() / 8 * 5 / kBlockBytes * kBlockBytes;
  // Two streams are faster out of memory; out of a disk one is, which the kernel's read-ahead follows.
  const bool in_memory =
      source_.window != nullptr ||
      (payload.size() >= kSplitBytes && fs_->IsCached(source_.file.fd(), url_.offset + lengths_.header_bytes() + cut));
  if (payload.size() < kSplitBytes || !in_memory) {
    uint32_t crc = 0;
    absl::Status status = absl::UnavailableError("not open for unbuffered reads");
    if (source_.direct.valid()) status = ReadDirect(payload, parallel, &crc);
    if (absl::IsUnavailable(status)) {
      crc = 0;
      status = ReadPart(0, payload, in_memory ? kPieceBytes : kDiskPieceBytes, &crc);
    }
    if (!status.ok()) return status;
    return CheckCrc("payload", payload_crc_, crc);
  }
  std::array<uint32_t, 2> crcs{};
  std::array<absl::Status, 2> statuses;
  parallel->RunBoth([&] { statuses[0] = ReadPart(0, payload.first(cut), kPieceBytes, &crcs[0]); },
                    [&] { statuses[1] = ReadPart(cut, payload.subspan(cut), kPieceBytes, &crcs[1]); });
  for (const absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }
  return CheckCrc("payload", payload_crc_, Crc32cCombine(crcs[0], crcs[1], payload.size() - cut));
}

// Reads the record's first buffer and the blocks with its trailer. When that fails, the page cache serves instead.
void ObjectReader::ReadEnds() {
  const uint64_t record_bytes = RecordBytes(url_.object_bytes);
  const uint64_t tail_bytes = std::min<uint64_t>(record_bytes, 2 * kBlockBytes);
  head_ = ReadWindow(0, std::min(IoBuffers::kBufferBytes, record_bytes));
  tail_ = ReadWindow(record_bytes - tail_bytes, tail_bytes);
}

// A part of the record, read unbuffered; null when that cannot be done.
std::unique_ptr<Window> ObjectReader::ReadWindow(uint64_t at, uint64_t size_bytes) {
  auto window = std::make_unique<Window>();
  window->buffer = source_.buffers->Take();
  if (window->buffer.data() == nullptr) return nullptr;
  window->offset = url_.offset + at;
  const absl::StatusOr<uint64_t> read =
      fs_->Read(source_.direct.fd(), window->buffer.data(), size_bytes, window->offset);
  if (!read.ok()) return nullptr;
  window->size_bytes = *read;
  return window;
}

// Unavailable when it cannot be read in this way.
absl::Status ObjectReader::ReadDirect(std::span<char> payload, Parallel* parallel, uint32_t* crc) {
  tail_ = nullptr;  // its buffer is wanted
  std::unique_ptr<Window> current = std::move(head_);
  if (current == nullptr) current = ReadWindow(0, IoBuffers::kBufferBytes);
  const uint64_t payload_at = url_.offset + lengths_.header_bytes();
  for (uint64_t copied = 0; copied < payload.size();) {
    const uint64_t from = payload_at + copied;
    if (current == nullptr || from < current->offset || from >= current->end()) {
      return absl::UnavailableError("an unbuffered read failed");
    }
    const uint64_t count = std::min<uint64_t>(current->end() - from, payload.size() - copied);
    const absl::string_view bytes = current->Find(from, count);
    const auto copy = [&] {
      for (uint64_t done = 0; done < count; done += kPieceBytes) {
        const absl::string_view piece = bytes.substr(done, kPieceBytes);
        std::memcpy(payload.data() + copied + done, piece.data(), piece.size());
        *crc = Crc32cExtend(*crc, piece.data(), piece.size());
      }
    };
    const uint64_t next_at = current->end() - url_.offset;
    const uint64_t rest_bytes = RecordBytes(url_.object_bytes) - std::min(RecordBytes(url_.object_bytes), next_at);
    std::unique_ptr<Window> next;
    if (copied + count < payload.size()) {
      parallel->RunBoth(copy, [&] { next = ReadWindow(next_at, std::min(IoBuffers::kBufferBytes, rest_bytes)); });
    } else {
      copy();
    }
    copied += count;
    current = std::move(next);
  }
  return absl::OkStatus();
}

absl::Status ObjectReader::ReadPart(uint64_t offset, std::span<char> part, uint64_t piece_bytes, uint32_t* crc) {
  const uint64_t start = url_.offset + lengths_.header_bytes() + offset;
  for (uint64_t done = 0; done < part.size();) {
    const std::span<char> piece = part.subspan(done, std::min<uint64_t>(piece_bytes, part.size() - done));
    if (absl::Status status = ReadExactly(start + done, piece, "payload"); !status.ok()) return status;
    *crc = Crc32cExtend(*crc, piece.data(), piece.size());
    done += piece.size();
  }
  return absl::OkStatus();
}

}  // namespace mantaray::spill
