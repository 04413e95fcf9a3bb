// What a worker still owes the spill directories, kept outside them, so that others do it when the worker dies.
//
// A journal is one file for each IO worker in the node's state directory. It is there as long as the worker may have
// punches pending, in whoever's segments, and it holds the URLs of deletes that wait for a disk, a line each. Whoever
// finds the journal of a dead worker looks through all segments and takes over the deletes.
//
// Survives: a journal that cannot be written for a while, a last line cut off by a crash. Thread-safe.

#ifndef MANTARAY_SPILL_JOURNAL_H_
#define MANTARAY_SPILL_JOURNAL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/mutex.h"
#include "mantaray/spill/file_system.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

class Journal {
 public:
  // `directory` holds the journals of one node's workers; empty: none is kept. It is made at first use.
  Journal(FileSystem* fs, std::string directory, const ProcessId& self)
      : fs_(fs), directory_(std::move(directory)), self_(self) {}

  // Makes the journal if it is not there.
  void Open();
  // Adds a delete that is owed. What cannot be written now is written with the next, or by Complete; then it returns
  // false.
  bool Add(absl::string_view url);
  // Returns whether the journal is there and holds all that is owed.
  bool Complete();
  // No delete is owed any more; punches may be.
  void Clear();
  // Nothing is owed any more.
  void Close();

  // The workers that have a journal; empty when that cannot be told.
  std::vector<ProcessId> Workers() const;
  // The deletes that a worker owes. NotFound when it has no journal.
  absl::StatusOr<std::vector<std::string>> Read(const ProcessId& worker) const;
  // Removes a dead worker's journal: what it owed is done, or owed by this worker.
  void Remove(const ProcessId& worker);

 private:
  std::string PathOf(const ProcessId& worker) const;
  bool WriteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  FileSystem* const fs_;
  const std::string directory_;
  const ProcessId self_;
  Mutex mutex_;
  OwnedFile file_ ABSL_GUARDED_BY(mutex_);
  uint64_t size_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string unwritten_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_JOURNAL_H_
