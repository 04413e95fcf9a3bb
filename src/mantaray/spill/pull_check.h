// Verifies a spilled object before the raylet sends it to another node.
//
// When another node pulls a spilled object, the raylet reads the object from its file by itself, without checksums. A
// library that is preloaded into the raylet (posix_pull_check_preload.cc) asks this class whenever the raylet opens a
// file. The raylet opens the file again for each chunk that it sends, so an object that was found sound is not read
// again for a while.
//
// Damage and loss are written down in notes, one for each object, which the IO workers of the node read. An IO worker
// looks at the object itself and tells the object's owner (python/mantaray/spill/recovery.py).
//
// Survives: files that are no spilled objects, objects that are deleted meanwhile, I/O errors (the raylet then sees
// them itself), objects that were rebuilt with another size than their name says, no room for a note. Thread-safe; no
// lock is held during file operations.

#ifndef MANTARAY_SPILL_PULL_CHECK_H_
#define MANTARAY_SPILL_PULL_CHECK_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/clock.h"
#include "mantaray/common/mutex.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

class PullCheck {
 public:
  // `notes_directory` is the state directory of the node; without one nothing is written down.
  PullCheck(FileSystem* fs, const Clock* clock, std::string notes_directory)
      : fs_(fs), clock_(clock), notes_directory_(std::move(notes_directory)) {}

  // Whether a file may be opened for reading. False only for a spilled object that is damaged.
  bool MayRead(absl::string_view path);

 private:
  bool IsKnownSound(const std::string& path);
  void RememberSound(const std::string& path);
  absl::Status Verify(const ParsedUrl& url, const ObjectId& object_id);
  absl::Status VerifyRead(const ParsedUrl& url, const ObjectId& object_id);
  void WriteNote(const LinkName& link, const ParsedUrl& url, const absl::Status& problem);

  FileSystem* const fs_;
  const Clock* const clock_;
  const std::string notes_directory_;

  Mutex mutex_;
  std::map<std::string, int64_t> sound_until_ms_ ABSL_GUARDED_BY(mutex_);
  uint64_t notes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_PULL_CHECK_H_
