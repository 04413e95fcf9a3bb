// Reading a spilled object without an engine.

#include "mantaray/spill/spilled_object.h"

#include <atomic>
#include <cstdlib>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "mantaray/common/parallel.h"
#include "mantaray/spill/reader.h"

namespace mantaray::spill {
namespace {

std::atomic<uint64_t> live_bytes = 0;

bool Charge(uint64_t bytes, uint64_t most_live_bytes) {
  uint64_t before = live_bytes.load();
  do {
    if (bytes > most_live_bytes || before > most_live_bytes - bytes) return false;
  } while (!live_bytes.compare_exchange_weak(before, before + bytes));
  return true;
}

}  // namespace

uint64_t SpilledObject::LiveBytes() { return live_bytes; }

SpilledObject::~SpilledObject() {
  std::free(payload_);
  live_bytes -= charged_bytes_;
}

absl::StatusOr<std::unique_ptr<SpilledObject>> SpilledObject::Read(FileSystem* fs, const ParsedUrl& url,
                                                                   const ObjectId& object_id,
                                                                   uint64_t most_live_bytes) {
  if (!Charge(url.object_bytes, most_live_bytes)) return absl::ResourceExhaustedError("too many bytes live");
  auto object = absl::WrapUnique(new SpilledObject(url.object_bytes));
  absl::StatusOr<OwnedFile> file = fs->Open(url.path, /*writable=*/false);
  if (!file.ok()) return file.status();
  // Until the file is closed, the blocks are not punched out. On a file system without such locks the checksum would
  // find a hole.
  if (const absl::Status locked =
          fs->LockRange(file->fd(), url.offset, RecordBytes(url.object_bytes), /*exclusive=*/false);
      absl::IsUnavailable(locked)) {
    return locked;
  }
  ObjectSource source;
  source.cached = fs->IsCached(file->fd(), url.offset);
  source.file = *std::move(file);
  absl::StatusOr<ObjectReader> reader = ObjectReader::Open(fs, url, std::move(source), object_id);
  if (!reader.ok()) return reader.status();
  object->size_bytes_ = reader->payload_bytes();
  object->metadata_ = std::string(reader->metadata());
  // aligned_alloc takes whole multiples of the alignment, and at least one.
  const uint64_t room_bytes = (object->size_bytes_ / kAlignmentBytes + 1) * kAlignmentBytes;
  object->payload_ = static_cast<char*>(std::aligned_alloc(kAlignmentBytes, room_bytes));
  if (object->payload_ == nullptr) return absl::ResourceExhaustedError("no memory");
  // A user's process gets no thread of ours for this.
  Sequential sequential;
  if (absl::Status status = reader->ReadPayload(object->payload(), &sequential); !status.ok()) return status;
  return object;
}

}  // namespace mantaray::spill
