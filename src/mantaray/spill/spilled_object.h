// A spilled object in memory, read by a process that is no IO worker.
//
// `ray.get` uses it for an object that was spilled on its own node. There is no engine in such a process, so nothing is
// set aside, counted or reported here: every error means that the caller asks Ray, whose IO worker then finds the same
// damage and deals with it.
//
// The bytes are copied, not mapped. A mapping would turn an I/O error into the death of the process (SIGBUS), would
// keep the blocks of deleted objects on the disk, and would hand out unaligned arrays, because the payload follows a
// header of any length. The copy lies at an address with the alignment of the object store.
//
// Survives, as an error: everything that reader.h names, a file that is gone, a range that is being punched out, and no
// memory. The total of all live objects of the process is bounded, because this memory is not part of the object store.

#ifndef MANTARAY_SPILL_SPILLED_OBJECT_H_
#define MANTARAY_SPILL_SPILLED_OBJECT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/format.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

class SpilledObject {
 public:
  // The alignment of payloads in Ray's object store. Ray places arrays relative to it.
  static constexpr size_t kAlignmentBytes = 64;

  // Reads and checks the object of a URL. ResourceExhausted if all live objects together would take more than
  // `most_live_bytes`.
  static absl::StatusOr<std::unique_ptr<SpilledObject>> Read(FileSystem* fs, const ParsedUrl& url,
                                                             const ObjectId& object_id, uint64_t most_live_bytes);

  // Of all objects of this process.
  static uint64_t LiveBytes();

  SpilledObject(const SpilledObject&) = delete;
  SpilledObject& operator=(const SpilledObject&) = delete;
  ~SpilledObject();

  absl::string_view metadata() const { return metadata_; }
  std::span<char> payload() { return {payload_, size_bytes_}; }

 private:
  explicit SpilledObject(uint64_t charged_bytes) : charged_bytes_(charged_bytes) {}

  uint64_t charged_bytes_;
  uint64_t size_bytes_ = 0;
  char* payload_ = nullptr;
  std::string metadata_;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_SPILLED_OBJECT_H_
