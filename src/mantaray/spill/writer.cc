// Segment writing: records into a sink, then names.

#include "mantaray/spill/writer.h"

#include <algorithm>
#include <cstring>
#include <deque>
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

constexpr std::array<char, kBlockBytes> kZeros{};

// The bytes of a segment, in order, a piece at a time. Checksums are taken as the pieces go by.
class RecordStream {
 public:
  RecordStream(std::span<const ObjectToSpill> objects, const SegmentPlan& plan, uint64_t offset = 0)
      : objects_(objects), plan_(plan), offset_(offset) {}

  // The next piece, of at most `size_bytes`; empty at the end. It stays valid as long as the stream.
  absl::string_view Next(uint64_t size_bytes) {
    while (rest_.empty()) {
      if (!NextPart()) return {};
    }
    const absl::string_view piece = rest_.substr(0, std::min(size_bytes, kPieceBytes));
    rest_.remove_prefix(piece.size());
    uint32_t* crc = part_ <= kMetadata ? &trailer_.header_crc : part_ == kPayload ? &trailer_.payload_crc : nullptr;
    if (crc != nullptr) *crc = Crc32cExtend(*crc, piece.data(), piece.size());
    return piece;
  }

  // Where the objects lie, once all pieces have been taken.
  std::vector<Placement> placements() const { return placements_; }

 private:
  enum Part { kLengths, kAddress, kMetadata, kPayload, kTrailer, kPadding };

  // What a record has besides the caller's memory.
  struct Frame {
    std::array<char, kLengthsBytes> lengths{};
    TrailerBytes trailer{};
  };

  bool NextPart() {
    if (part_ == kPadding && !NextRecord()) return false;
    if (started_) part_ = static_cast<Part>(part_ + 1);
    started_ = true;
    rest_ = PartBytes();
    return true;
  }

  bool NextRecord() {
    if (next_ == plan_.objects.size()) return false;
    const size_t index = plan_.objects[next_++];
    object_ = &objects_[index];
    const Lengths lengths = object_->lengths();
    frame_ = &frames_.emplace_back();
    frame_->lengths = EncodeLengths(lengths);
    trailer_ = {.object_id = object_->object_id,
                .offset = offset_,
                .header_bytes = lengths.header_bytes(),
                .payload_bytes = lengths.payload_bytes};
    placements_.push_back({index, std::string(), offset_, lengths.object_bytes()});
    offset_ += object_->record_bytes();
    part_ = kLengths;
    started_ = false;
    return true;
  }

  absl::string_view PartBytes() {
    switch (part_) {
      case kLengths:
        return {frame_->lengths.data(), frame_->lengths.size()};
      case kAddress:
        return object_->owner_address;
      case kMetadata:
        return object_->metadata;
      case kPayload:
        return object_->payload;
      case kTrailer:
        frame_->trailer = EncodeTrailer(trailer_);
        return {frame_->trailer.data(), frame_->trailer.size()};
      case kPadding:
        return {kZeros.data(), object_->record_bytes() - object_->lengths().object_bytes() - kTrailerBytes};
    }
    return {};
  }

  const std::span<const ObjectToSpill> objects_;
  const SegmentPlan& plan_;
  std::vector<Placement> placements_;
  std::deque<Frame> frames_;
  size_t next_ = 0;
  uint64_t offset_;
  const ObjectToSpill* object_ = nullptr;
  Frame* frame_ = nullptr;
  Trailer trailer_;
  Part part_ = kPadding;  // the state between two records
  bool started_ = true;
  absl::string_view rest_;
};

// Copies the next `capacity` bytes of the stream; returns how many there were.
uint64_t Fill(RecordStream* stream, char* buffer, uint64_t capacity) {
  uint64_t used = 0;
  while (used < capacity) {
    const absl::string_view piece = stream->Next(capacity - used);
    if (piece.empty()) break;
    std::memcpy(buffer + used, piece.data(), piece.size());
    used += piece.size();
  }
  return used;
}

}  // namespace

absl::Status SegmentWriter::WriteRecords(int fd, std::span<const ObjectToSpill> objects, const SegmentPlan& plan,
                                         std::vector<Placement>* placements) {
  RecordStream stream(objects, plan);
  const bool direct = mode_ == CacheMode::kDirect && fs_->SetDirect(fd).ok();
  dropped_bytes_ = direct ? plan.size_bytes : 0;
  const auto write = [&] {
    const std::function<absl::string_view(uint64_t)> next = [&](uint64_t size) { return stream.Next(size); };
    const std::function<uint64_t(char*, uint64_t)> fill = [&](char* to, uint64_t size) {
      return Fill(&stream, to, size);
    };
    return direct ? WriteDirect(fd, fill) : WriteCached(fd, 0, next);
  };
  absl::Status status = write();
  *placements = stream.placements();
  return status;
}

absl::Status SegmentWriter::WriteDirect(int fd, const std::function<uint64_t(char*, uint64_t)>& fill) {
  std::array<IoBuffers::Lease, 2> buffers{buffers_->Take(), buffers_->Take()};
  if (buffers[0].data() == nullptr || buffers[1].data() == nullptr) {
    return absl::UnavailableError("out of memory for a direct write buffer");
  }
  constexpr uint64_t capacity = IoBuffers::kBufferBytes;
  uint64_t offset = 0;
  size_t current = 0;
  uint64_t used = fill(buffers[current].data(), capacity);
  while (used > 0) {
    absl::Status status;
    uint64_t next_used = 0;
    // The disk writes one buffer while the next is copied and checksummed.
    parallel_->RunBoth([&] { next_used = fill(buffers[1 - current].data(), capacity); },
                       [&] {
                         std::vector<iovec> vectors{{buffers[current].data(), used}};
                         status = fs_->Write(fd, &vectors, offset);
                       });
    if (!status.ok()) return status;
    offset += used;
    used = next_used;
    current = 1 - current;
  }
  return absl::OkStatus();
}

absl::Status SegmentWriter::WriteCached(int fd, uint64_t offset,
                                        const std::function<absl::string_view(uint64_t)>& next) {
  std::vector<iovec> vectors;
  uint64_t written_bytes = 0;
  uint64_t pending_bytes = 0;
  uint64_t started_bytes = 0;
  for (absl::string_view piece = next(kPieceBytes);; piece = next(kPieceBytes)) {
    if (!piece.empty()) vectors.push_back({const_cast<char*>(piece.data()), piece.size()});
    pending_bytes += piece.size();
    if (!piece.empty() && pending_bytes < kFlushBytes) continue;
    if (absl::Status status = fs_->Write(fd, &vectors, offset + written_bytes); !status.ok()) return status;
    vectors.clear();
    written_bytes += std::exchange(pending_bytes, 0);
    if (offset == 0) {
      if (absl::Status status = Pace(fd, written_bytes, &started_bytes); !status.ok()) return status;
    }
    if (piece.empty()) return absl::OkStatus();
  }
}

absl::Status SegmentWriter::WriteAt(int fd, const ObjectToSpill& object, uint64_t offset) {
  const SegmentPlan plan{.objects = {0}, .size_bytes = object.record_bytes()};
  RecordStream stream({&object, 1}, plan, offset);
  const std::function<absl::string_view(uint64_t)> next = [&](uint64_t size) { return stream.Next(size); };
  if (absl::Status status = WriteCached(fd, offset, next); !status.ok()) return status;
  if (absl::Status status = fs_->WaitWriteback(fd, offset, plan.size_bytes); !status.ok()) return status;
  if (mode_ != CacheMode::kKeep) fs_->DropCache(fd, offset, plan.size_bytes);
  return absl::OkStatus();
}

// Starts write-back early and in even steps instead of leaving a storm for later; kDrop gives back what is on disk.
absl::Status SegmentWriter::Pace(int fd, uint64_t written_bytes, uint64_t* started_bytes) {
  while (written_bytes - *started_bytes >= kWritebackStepBytes) {
    fs_->StartWriteback(fd, *started_bytes, kWritebackStepBytes);
    *started_bytes += kWritebackStepBytes;
  }
  while (mode_ != CacheMode::kKeep && written_bytes - dropped_bytes_ >= kDropLagBytes + kWritebackStepBytes) {
    if (absl::Status status = fs_->WaitWriteback(fd, dropped_bytes_, kWritebackStepBytes); !status.ok()) return status;
    fs_->DropCache(fd, dropped_bytes_, kWritebackStepBytes);
    dropped_bytes_ += kWritebackStepBytes;
  }
  return absl::OkStatus();
}

absl::Status SegmentWriter::NameObjects(int fd, const std::string& batch_directory,
                                        std::span<const ObjectToSpill> objects, std::vector<Placement>* placements) {
  for (size_t i = 0; i < placements->size(); ++i) {
    Placement& placement = (*placements)[i];
    const ObjectToSpill& object = objects[placement.object];
    placement.name = FormatLinkName({.object_id = object.object_id,
                                     .offset = placement.offset,
                                     .object_bytes = placement.object_bytes,
                                     .owner = book_->NumberOf(object.owner_address)});
    const absl::Status status = fs_->Link(fd, Join(batch_directory, placement.name));
    if (!status.ok()) {
      for (size_t made = 0; made < i; ++made) RemoveName(batch_directory, (*placements)[made].name);
      return status;
    }
  }
  return absl::OkStatus();
}

void SegmentWriter::RemoveName(const std::string& batch_directory, const std::string& name) {
  const absl::Status status = fs_->Unlink(Join(batch_directory, name));
  if (!status.ok() && !absl::IsNotFound(status)) left_names_.push_back(name);
}

absl::StatusOr<WrittenSegment> SegmentWriter::Write(const std::string& batch_directory,
                                                    const Capabilities& capabilities, const Allocate& allocate,
                                                    uint64_t segment_number, std::span<const ObjectToSpill> objects,
                                                    const SegmentPlan& plan) {
  const bool fused = !capabilities.per_object;
  const std::string name = fused ? FusedName(segment_number) : UnlinkedSegmentName(segment_number);
  const std::string own_name = Join(batch_directory, name);
  absl::StatusOr<OwnedFile> file =
      capabilities.unnamed_files ? fs_->OpenUnnamed(batch_directory) : fs_->Create(own_name);
  if (!file.ok()) return file.status();

  WrittenSegment segment;
  const auto write_and_name = [&]() -> absl::Status {
    // Not every file system can reserve; one that cannot will say so when it runs out.
    const absl::Status reserved = allocate(file->fd(), plan.size_bytes);
    if (absl::IsResourceExhausted(reserved)) return reserved;
    if (absl::Status status = WriteRecords(file->fd(), objects, plan, &segment.placements); !status.ok()) return status;
    if (!fused) return NameObjects(file->fd(), batch_directory, objects, &segment.placements);
    for (Placement& placement : segment.placements) placement.name = FusedName(segment_number);
    return capabilities.unnamed_files ? fs_->Link(file->fd(), own_name) : absl::OkStatus();
  };
  const absl::Status status = write_and_name();
  if (!capabilities.unnamed_files && (!fused || !status.ok())) RemoveName(batch_directory, name);
  if (!status.ok()) return status;
  if (dropped_bytes_ < plan.size_bytes) {
    segment.still_cached.push_back(
        {*std::move(file), dropped_bytes_, plan.size_bytes - dropped_bytes_, mode_ != CacheMode::kKeep});
  }
  return segment;
}

}  // namespace mantaray::spill
