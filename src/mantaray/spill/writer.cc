// Segment writing: records into a sink, then names.

#include "mantaray/spill/writer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mantaray/common/crc32c.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {
namespace {

constexpr uint64_t kPieceBytes = 256 << 10;        // checksummed, then written, while it is in the cache
constexpr uint64_t kFlushBytes = 1 << 20;          // vectors gathered for one system call
constexpr uint64_t kWritebackStepBytes = 8 << 20;  // write-back is started in steps of this
constexpr uint64_t kDropLagBytes = 128 << 20;      // kDrop: dirty bytes of one segment before waiting for the disk
constexpr uint64_t kDirectBufferBytes = 8 << 20;

constexpr std::array<char, kBlockBytes> kZeros{};

// Where the bytes of a segment go, in order.
class Sink {
 public:
  virtual ~Sink() = default;
  // `bytes` must stay valid until the next Flush.
  virtual absl::Status Append(absl::string_view bytes) = 0;
  virtual absl::Status Flush() = 0;
};

// Gathers vectors and writes them through the page cache.
class CachedSink : public Sink {
 public:
  CachedSink(FileSystem* fs, int fd, bool drop, uint64_t* dropped_bytes)
      : fs_(fs), fd_(fd), drop_(drop), dropped_bytes_(dropped_bytes) {}

  absl::Status Append(absl::string_view bytes) override {
    if (bytes.empty()) return absl::OkStatus();
    vectors_.push_back({const_cast<char*>(bytes.data()), bytes.size()});
    pending_bytes_ += bytes.size();
    return pending_bytes_ >= kFlushBytes ? Flush() : absl::OkStatus();
  }

  absl::Status Flush() override {
    if (absl::Status status = fs_->Write(fd_, &vectors_, written_bytes_); !status.ok()) return status;
    vectors_.clear();
    written_bytes_ += std::exchange(pending_bytes_, 0);
    Pace();
    return absl::OkStatus();
  }

 private:
  // Starts write-back early and in even steps instead of leaving a storm for later; kDrop gives back what is on disk.
  void Pace() {
    while (written_bytes_ - started_bytes_ >= kWritebackStepBytes) {
      fs_->StartWriteback(fd_, started_bytes_, kWritebackStepBytes);
      started_bytes_ += kWritebackStepBytes;
    }
    while (drop_ && written_bytes_ - *dropped_bytes_ >= kDropLagBytes + kWritebackStepBytes) {
      fs_->WaitWriteback(fd_, *dropped_bytes_, kWritebackStepBytes);
      fs_->DropCache(fd_, *dropped_bytes_, kWritebackStepBytes);
      *dropped_bytes_ += kWritebackStepBytes;
    }
  }

  FileSystem* const fs_;
  const int fd_;
  const bool drop_;
  uint64_t* const dropped_bytes_;
  std::vector<iovec> vectors_;
  uint64_t pending_bytes_ = 0;
  uint64_t written_bytes_ = 0;
  uint64_t started_bytes_ = 0;
};

// Copies into an aligned buffer and writes that past the page cache.
class DirectSink : public Sink {
 public:
  DirectSink(FileSystem* fs, int fd, uint64_t segment_bytes)
      : fs_(fs), fd_(fd), capacity_(std::min(kDirectBufferBytes, RecordBytes(segment_bytes))) {
    buffer_.reset(static_cast<char*>(std::aligned_alloc(kBlockBytes, capacity_)));
  }

  absl::Status Append(absl::string_view bytes) override {
    if (buffer_ == nullptr) return absl::UnavailableError("out of memory for the direct write buffer");
    while (!bytes.empty()) {
      const uint64_t count = std::min<uint64_t>(bytes.size(), capacity_ - used_);
      std::memcpy(buffer_.get() + used_, bytes.data(), count);
      used_ += count;
      bytes.remove_prefix(count);
      if (used_ == capacity_) {
        if (absl::Status status = WriteOut(); !status.ok()) return status;
      }
    }
    return absl::OkStatus();
  }

  // Only what fills whole blocks can go; records do, so at a record's end this writes everything.
  absl::Status Flush() override { return used_ % kBlockBytes == 0 ? WriteOut() : absl::OkStatus(); }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  absl::Status WriteOut() {
    if (used_ == 0) return absl::OkStatus();
    std::vector<iovec> vectors{{buffer_.get(), used_}};
    if (absl::Status status = fs_->Write(fd_, &vectors, written_bytes_); !status.ok()) return status;
    written_bytes_ += std::exchange(used_, 0);
    return absl::OkStatus();
  }

  FileSystem* const fs_;
  const int fd_;
  const uint64_t capacity_;
  std::unique_ptr<char, Free> buffer_;
  uint64_t used_ = 0;
  uint64_t written_bytes_ = 0;
};

// What a record has besides the caller's memory; lives until the segment is written.
struct RecordFrame {
  std::array<char, kLengthsBytes> lengths{};
  TrailerBytes trailer{};
};

absl::Status AppendPayload(Sink* sink, absl::string_view payload, uint32_t* crc) {
  while (!payload.empty()) {
    const absl::string_view piece = payload.substr(0, kPieceBytes);
    *crc = Crc32cExtend(*crc, piece.data(), piece.size());
    if (absl::Status status = sink->Append(piece); !status.ok()) return status;
    payload.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

absl::Status AppendRecord(Sink* sink, const ObjectToSpill& object, uint64_t offset, RecordFrame* frame) {
  const Lengths lengths = object.lengths();
  frame->lengths = EncodeLengths(lengths);
  const absl::string_view lengths_bytes(frame->lengths.data(), frame->lengths.size());
  Trailer trailer{.object_id = object.object_id,
                  .offset = offset,
                  .header_bytes = lengths.header_bytes(),
                  .payload_bytes = lengths.payload_bytes};
  for (absl::string_view part : {lengths_bytes, object.owner_address, object.metadata}) {
    trailer.header_crc = Crc32cExtend(trailer.header_crc, part.data(), part.size());
    if (absl::Status status = sink->Append(part); !status.ok()) return status;
  }
  if (absl::Status status = AppendPayload(sink, object.payload, &trailer.payload_crc); !status.ok()) return status;
  frame->trailer = EncodeTrailer(trailer);
  if (absl::Status status = sink->Append({frame->trailer.data(), kTrailerBytes}); !status.ok()) return status;
  const uint64_t padding = object.record_bytes() - lengths.object_bytes() - kTrailerBytes;
  return sink->Append({kZeros.data(), padding});
}

}  // namespace

absl::Status SegmentWriter::WriteRecords(int fd, std::span<const ObjectToSpill> objects, const SegmentPlan& plan,
                                         std::vector<Placement>* placements) {
  std::unique_ptr<Sink> sink;
  if (mode_ == CacheMode::kDirect && fs_->SetDirect(fd).ok()) {
    sink = std::make_unique<DirectSink>(fs_, fd, plan.size_bytes);
    dropped_bytes_ = plan.size_bytes;
  } else {
    dropped_bytes_ = 0;
    sink = std::make_unique<CachedSink>(fs_, fd, mode_ != CacheMode::kKeep, &dropped_bytes_);
  }
  std::deque<RecordFrame> frames;
  uint64_t offset = 0;
  for (size_t index : plan.objects) {
    const ObjectToSpill& object = objects[index];
    if (absl::Status status = AppendRecord(sink.get(), object, offset, &frames.emplace_back()); !status.ok()) {
      return status;
    }
    placements->push_back({index, std::string(), offset, object.lengths().object_bytes()});
    offset += object.record_bytes();
  }
  return sink->Flush();
}

absl::Status SegmentWriter::NameObjects(int fd, const std::string& batch_directory,
                                        std::span<const ObjectToSpill> objects, std::vector<Placement>* placements) {
  for (size_t i = 0; i < placements->size(); ++i) {
    Placement& placement = (*placements)[i];
    placement.name = FormatLinkName({.object_id = objects[placement.object].object_id,
                                     .offset = placement.offset,
                                     .object_bytes = placement.object_bytes});
    const absl::Status status = fs_->Link(fd, Join(batch_directory, placement.name));
    if (!status.ok()) {
      // Best effort: the directory is a temporary one, a link that cannot be removed is swept later.
      for (size_t made = 0; made < i; ++made)
        fs_->Unlink(Join(batch_directory, (*placements)[made].name)).IgnoreError();
      return status;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<WrittenSegment> SegmentWriter::Write(const std::string& batch_directory,
                                                    const Capabilities& capabilities, uint64_t segment_number,
                                                    std::span<const ObjectToSpill> objects, const SegmentPlan& plan) {
  const bool fused = !capabilities.per_object;
  const std::string own_name =
      Join(batch_directory, fused ? FusedName(segment_number) : UnlinkedSegmentName(segment_number));
  absl::StatusOr<OwnedFile> file =
      capabilities.unnamed_files ? fs_->OpenUnnamed(batch_directory) : fs_->Create(own_name);
  if (!file.ok()) return file.status();

  WrittenSegment segment;
  const auto write_and_name = [&]() -> absl::Status {
    // Not every file system can reserve; one that cannot will say so when it runs out.
    const absl::Status reserved = fs_->Allocate(file->fd(), plan.size_bytes);
    if (absl::IsResourceExhausted(reserved)) return reserved;
    if (absl::Status status = WriteRecords(file->fd(), objects, plan, &segment.placements); !status.ok()) return status;
    if (!fused) return NameObjects(file->fd(), batch_directory, objects, &segment.placements);
    for (Placement& placement : segment.placements) placement.name = FusedName(segment_number);
    return capabilities.unnamed_files ? fs_->Link(file->fd(), own_name) : absl::OkStatus();
  };
  const absl::Status status = write_and_name();
  if (!capabilities.unnamed_files && (!fused || !status.ok())) fs_->Unlink(own_name).IgnoreError();
  if (!status.ok()) return status;
  if (mode_ != CacheMode::kKeep && dropped_bytes_ < plan.size_bytes) {
    segment.still_cached.push_back({*std::move(file), dropped_bytes_, plan.size_bytes - dropped_bytes_});
  }
  return segment;
}

}  // namespace mantaray::spill
