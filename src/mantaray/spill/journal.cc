// Writing and reading of journals.

#include "mantaray/spill/journal.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "mantaray/spill/state_file.h"

namespace mantaray::spill {

std::string Journal::PathOf(const ProcessId& worker) const {
  return Join(directory_, absl::StrCat(kJournalPrefix, WorkerDirectoryName(worker)));
}

void Journal::OpenLocked() {
  if (directory_.empty() || file_.valid()) return;
  absl::StatusOr<OwnedFile> file = CreateStateFile(fs_, PathOf(self_));
  if (file.ok()) file_ = *std::move(file);
}

void Journal::Open() {
  MutexLock lock(&mutex_);
  OpenLocked();
}

bool Journal::Add(absl::string_view url) {
  MutexLock lock(&mutex_);
  if (directory_.empty()) return true;
  absl::StrAppend(&unwritten_, url, "\n");
  return WriteLocked();
}

bool Journal::Complete() {
  MutexLock lock(&mutex_);
  return directory_.empty() || WriteLocked();
}

bool Journal::WriteLocked() {
  OpenLocked();
  if (!file_.valid()) return false;
  if (unwritten_.empty()) return true;
  std::vector<iovec> vectors{{unwritten_.data(), unwritten_.size()}};
  // After a failure the same goes to the same place.
  if (!fs_->Write(file_.fd(), &vectors, size_bytes_).ok()) return false;
  size_bytes_ += unwritten_.size();
  unwritten_.clear();
  return true;
}

void Journal::Clear() {
  MutexLock lock(&mutex_);
  unwritten_.clear();
  if (size_bytes_ == 0) return;
  // Replaced in one step: without a journal the pending punches would be forgotten if the worker died just then.
  const std::string empty = absl::StrCat(PathOf(self_), ".new");
  fs_->Unlink(empty).IgnoreError();
  absl::StatusOr<OwnedFile> file = fs_->Create(empty);
  if (!file.ok() || !fs_->Rename(empty, PathOf(self_)).ok()) return;
  file_ = *std::move(file);
  size_bytes_ = 0;
}

void Journal::Close() {
  MutexLock lock(&mutex_);
  if (!file_.valid()) return;
  fs_->Unlink(PathOf(self_)).IgnoreError();
  file_ = OwnedFile();
  size_bytes_ = 0;
}

std::vector<ProcessId> Journal::Workers() const {
  std::vector<ProcessId> workers;
  if (directory_.empty()) return workers;
  const auto entries = fs_->List(directory_);
  if (!entries.ok()) return workers;
  for (const DirectoryEntry& entry : *entries) {
    absl::string_view name = entry.name;
    if (!absl::ConsumePrefix(&name, kJournalPrefix)) continue;
    if (const auto worker = ParseWorkerDirectoryName(name)) workers.push_back(*worker);
  }
  return workers;
}

absl::StatusOr<std::vector<std::string>> Journal::Read(const ProcessId& worker) const {
  return ReadStateFile(fs_, PathOf(worker));
}

void Journal::Remove(const ProcessId& worker) { fs_->Unlink(PathOf(worker)).IgnoreError(); }

}  // namespace mantaray::spill
