// The owners of the objects that one IO worker spilled, kept outside the spill directories.
//
// An object's owner has to be told when its spill file is lost, and the address of the owner stands in that very file.
// So each worker also keeps a book: one file with the serialized addresses, a line each, in hex. The number of an
// object's line is part of its link's name, and the worker is part of the link's path, so that a URL alone leads to the
// owner. A book grows with the number of owners, not of objects.
//
// Survives: a book that cannot be written (objects are then named without an owner), a last line cut off by a crash.
// Thread-safe.

#ifndef MANTARAY_SPILL_OWNER_BOOK_H_
#define MANTARAY_SPILL_OWNER_BOOK_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/mutex.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

class OwnerBook {
 public:
  // `directory` holds the books of one node's workers; empty: no book is kept. It is made at first use.
  OwnerBook(FileSystem* fs, std::string directory, const ProcessId& self)
      : fs_(fs), directory_(std::move(directory)), self_(self) {}

  // The number under which this owner stands in the book; added if need be. Nothing when the book cannot be written.
  std::optional<uint64_t> NumberOf(absl::string_view owner_address);

  // The address of the owner of the object at this path of a link, in whichever worker's book it stands. NotFound when
  // the path names none or the book does not have it.
  absl::StatusOr<std::string> Find(absl::string_view link_path);

 private:
  std::string PathOf(const ProcessId& worker) const;

  FileSystem* const fs_;
  const std::string directory_;
  const ProcessId self_;
  Mutex mutex_;
  OwnedFile file_ ABSL_GUARDED_BY(mutex_);
  uint64_t size_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, uint64_t, std::less<>> numbers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_OWNER_BOOK_H_
