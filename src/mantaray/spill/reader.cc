// Checked reading.

#include "mantaray/spill/reader.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mantaray/common/crc32c.h"

namespace mantaray::spill {
namespace {

constexpr uint64_t kPieceBytes = 256 << 10;  // out of memory: read, then checksummed while in the processor's cache
constexpr uint64_t kSharedPieceBytes = 128 << 10;  // the same by two threads, which should end together
constexpr uint64_t kDiskPieceBytes = 8 << 20;      // out of a disk: large requests, whatever its read-ahead
constexpr uint64_t kSplitBytes = 1536 << 10;       // below, waking a second thread costs more than it brings
constexpr size_t kReadsInFlight = 2;

}  // namespace

absl::StatusOr<uint64_t> ActualObjectBytes(FileSystem* fs, int fd, uint64_t offset) {
  const absl::Status other = absl::NotFoundError("not an object by itself");
  const absl::StatusOr<FileInfo> info = fs->Stat(fd);
  if (!info.ok()) return info.status();
  std::array<char, kLengthsBytes> bytes{};
  const absl::StatusOr<uint64_t> count = fs->Read(fd, bytes.data(), bytes.size(), offset);
  if (!count.ok()) return count.status();
  const auto lengths = PeekLengths(std::span(bytes).first(*count));
  if (!lengths || info->link_count != 1) return other;
  const uint64_t object_bytes = lengths->object_bytes();
  return info->size_bytes == offset + RecordBytes(object_bytes) ? absl::StatusOr<uint64_t>(object_bytes) : other;
}

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
  if (!count.ok()) return count.status();
  if (*count == bytes.size()) return absl::OkStatus();
  return Damage(absl::StrFormat("file truncated in its %s: expected %u bytes, found %u", what, bytes.size(), *count));
}

absl::Status ObjectReader::ReadAndCheck(const ObjectId& object_id) {
  const uint64_t object_bytes = url_.object_bytes;
  if (object_bytes < kLengthsBytes || object_bytes > kMaxObjectBytes) return Damage("impossible size in the URL");
  if (source_.direct != nullptr) ReadEnds();
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
    return Damage(absl::StrCat("another object: expected ", object_id.Hex(), ", found ", trailer->object_id.Hex()));
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
  // Two streams are faster out of memory; out of a disk one is, which the kernel's read-ahead follows.
  const bool in_memory = source_.window != nullptr || source_.cached;
  if (in_memory && payload.size() >= kSplitBytes) return ReadShared(payload, parallel);
  uint32_t crc = 0;
  absl::Status status = absl::UnavailableError("not open for unbuffered reads");
  if (source_.direct != nullptr) status = ReadDirect(payload, &crc);
  if (absl::IsUnavailable(status)) {
    crc = 0;
    status = ReadPart(0, payload, in_memory ? kPieceBytes : kDiskPieceBytes, &crc);
  }
  if (!status.ok()) return status;
  return CheckCrc("payload", payload_crc_, crc);
}

absl::Status ObjectReader::VerifyPayload() {
  if (checked_) return absl::OkStatus();
  std::vector<char> buffer(kPieceBytes);
  uint32_t crc = 0;
  for (uint64_t done = 0; done < lengths_.payload_bytes;) {
    const std::span<char> piece =
        std::span(buffer).first(std::min<uint64_t>(kPieceBytes, lengths_.payload_bytes - done));
    if (absl::Status status = ReadPart(done, piece, kPieceBytes, &crc); !status.ok()) return status;
    done += piece.size();
  }
  return CheckCrc("payload", payload_crc_, crc);
}

// Two threads take pieces in turn, so that it does not matter when the second one comes.
absl::Status ObjectReader::ReadShared(std::span<char> payload, Parallel* parallel) {
  const size_t pieces = (payload.size() + kSharedPieceBytes - 1) / kSharedPieceBytes;
  std::vector<uint32_t> crcs(pieces);
  std::array<absl::Status, 2> statuses;
  std::atomic<size_t> next = 0;
  const auto piece_of = [&](size_t piece) {
    const uint64_t at = piece * kSharedPieceBytes;
    return payload.subspan(at, std::min<uint64_t>(kSharedPieceBytes, payload.size() - at));
  };
  const auto take = [&](absl::Status* status) {
    for (size_t piece = next++; piece < pieces && status->ok(); piece = next++) {
      *status = ReadPart(piece * kSharedPieceBytes, piece_of(piece), kSharedPieceBytes, &crcs[piece]);
    }
  };
  parallel->RunBoth([&] { take(&statuses[0]); }, [&] { take(&statuses[1]); });
  for (const absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }
  uint32_t crc = 0;
  for (size_t piece = 0; piece < pieces; ++piece) crc = Crc32cCombine(crc, crcs[piece], piece_of(piece).size());
  return CheckCrc("payload", payload_crc_, crc);
}

// Reads the record's first buffer and the blocks with its trailer; those behind the first are on their way afterwards.
// When that fails, the page cache serves instead.
void ObjectReader::ReadEnds() {
  const uint64_t record_bytes = RecordBytes(url_.object_bytes);
  StartReads(0);
  if (const uint64_t tail_bytes = 2 * kBlockBytes; record_bytes > IoBuffers::kBufferBytes) {
    tail_ = source_.large_reads->Read(source_.direct, url_.offset + record_bytes - tail_bytes, tail_bytes);
  }
  head_ = pending_.front().Take();
  pending_.pop_front();
}

// Fills the queue with reads from `at` of the record on; it goes on where it is unless it is empty.
void ObjectReader::StartReads(uint64_t at) {
  const uint64_t record_bytes = RecordBytes(url_.object_bytes);
  if (pending_.empty()) started_bytes_ = at;
  while (pending_.size() < kReadsInFlight && started_bytes_ < record_bytes) {
    const uint64_t offset = url_.offset + started_bytes_;
    const uint64_t rest_bytes = record_bytes - started_bytes_;
    pending_.push_back(started_bytes_ == 0 ? source_.large_reads->StartHead(source_.direct, offset, rest_bytes)
                                           : source_.large_reads->Start(source_.direct, offset, rest_bytes));
    started_bytes_ += pending_.back().size_bytes();
  }
}

// Unavailable when it cannot be read in this way.
absl::Status ObjectReader::ReadDirect(std::span<char> payload, uint32_t* crc) {
  const uint64_t record_bytes = RecordBytes(url_.object_bytes);
  const uint64_t payload_at = url_.offset + lengths_.header_bytes();
  std::unique_ptr<Window> current = std::move(head_);
  if (current == nullptr) pending_.clear();  // from the beginning
  bool gone_on = false;
  for (uint64_t copied = 0; copied < payload.size();) {
    StartReads(current == nullptr ? 0 : current->end() - url_.offset);
    if (current == nullptr) {
      current = pending_.front().Take();
      pending_.pop_front();
    }
    if (started_bytes_ >= record_bytes && !std::exchange(gone_on, true)) {
      source_.large_reads->GoOn(source_.direct, url_.offset, record_bytes);
    }
    const uint64_t from = payload_at + copied;
    if (current == nullptr || from < current->offset || from >= current->end()) {
      return absl::UnavailableError("an unbuffered read failed");
    }
    const uint64_t count = std::min<uint64_t>(current->end() - from, payload.size() - copied);
    const absl::string_view bytes = current->Find(from, count);
    for (uint64_t done = 0; done < count; done += kPieceBytes) {
      const absl::string_view piece = bytes.substr(done, kPieceBytes);
      std::memcpy(payload.data() + copied + done, piece.data(), piece.size());
      *crc = Crc32cExtend(*crc, piece.data(), piece.size());
    }
    copied += count;
    current = nullptr;
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
