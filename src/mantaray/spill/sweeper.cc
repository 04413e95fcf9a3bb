// The sweep.

#include "mantaray/spill/sweeper.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "mantaray/spill/placer.h"

namespace mantaray::spill {

void Sweeper::Sweep() {
  SweepJournals();
  for (size_t directory = 0; directory < directories_->paths().size(); ++directory) {
    SweepNode(directory);
    // A dead worker may have had punches pending in anybody's segments.
    if (to_scrub_.contains(directory) && Scrub(directory)) to_scrub_.erase(directory);
  }
}

void Sweeper::SweepNode(size_t directory) {
  const std::string& node_directory = directories_->paths()[directory];
  const auto entries = fs_->List(node_directory);
  if (!entries.ok()) return;
  std::set<ProcessId>& swept = swept_[node_directory];
  for (const DirectoryEntry& entry : *entries) {
    const auto process = ParseWorkerDirectoryName(entry.name);
    if (!process || *process == self_ || swept.contains(*process) || host_->IsAlive(*process)) continue;
    to_scrub_.insert(directory);
    if (SweepWorker(node_directory, entry.name)) swept.insert(*process);
  }
}

// A worker may be dead and owe something although no directory is named after it: it deleted what others had spilled.
void Sweeper::SweepJournals() {
  for (const ProcessId& worker : journal_->Workers()) {
    if (worker == self_ || debtors_.contains(worker) || host_->IsAlive(worker)) continue;
    const auto owed = journal_->Read(worker);
    if (!owed.ok()) continue;
    debtors_.insert(worker);
    unneeded_.insert(owed->begin(), owed->end());
    for (size_t directory = 0; directory < directories_->paths().size(); ++directory) to_scrub_.insert(directory);
  }
}

std::vector<std::string> Sweeper::TakeUnneeded() {
  // A journal stays until all segments have been queued for a look.
  if (to_scrub_.empty()) taking_over_ = debtors_;
  const std::set<std::string> unneeded = std::exchange(unneeded_, {});
  return {unneeded.begin(), unneeded.end()};
}

void Sweeper::TookOver() {
  // The looks, and the deletes that are not done, are owed by this worker now.
  if (taking_over_.empty() || !journal_->Complete()) return;
  for (const ProcessId& worker : std::exchange(taking_over_, {})) {
    journal_->Remove(worker);
    debtors_.erase(worker);
  }
}

// Returns false when something could not be looked at or removed.
bool Sweeper::SweepWorker(const std::string& node_directory, const std::string& worker_name) {
  const std::string worker = Join(node_directory, worker_name);
  const auto entries = fs_->List(worker);
  if (!entries.ok()) return absl::IsNotFound(entries.status());
  bool complete = true;
  for (const DirectoryEntry& entry : *entries) {
    const std::string path = Join(worker, entry.name);
    if (IsTemporaryBatchName(entry.name)) {
      RemoveTemporaryBatch(fs_, path);
      const absl::Status removed = fs_->Unlink(path);  // a file that a trial left
      complete = complete && (removed.ok() || absl::IsNotFound(removed));
      continue;
    }
    if (!ParseBatchName(entry.name)) continue;
    const auto links = fs_->List(path);
    complete = complete && (links.ok() || absl::IsNotFound(links.status()));
    if (!links.ok()) continue;
    for (const DirectoryEntry& file : *links) {
      const auto link = ParseLinkName(file.name);
      if (IsUnlinkedSegmentName(file.name)) unneeded_.insert(FormatUrl(Join(path, file.name), 0, 0));
      if (link && !Suspect(link->object_id, Join(path, file.name))) complete = false;
    }
  }
  // It goes with the worker's last batch if there is one.
  const absl::Status removed = fs_->RemoveDirectory(worker);
  return complete && (removed.ok() || absl::IsNotFound(removed) || absl::IsAlreadyExists(removed));
}

// Returns false when it cannot be told now whether the copy is needed.
bool Sweeper::Suspect(const ObjectId& object_id, const std::string& path) {
  ForgetOld();
  if (const auto recent = recent_.find(object_id); recent != recent_.end()) {
    // If the copy of this worker is still there, it is the one that the raylet knows.
    const absl::Status own = fs_->Open(recent->second, /*writable=*/false).status();
    if (own.ok()) unneeded_.insert(FormatUrl(path, 0, 0));
    if (!absl::IsNotFound(own)) return own.ok();
  }
  const auto [first, last] = suspects_.equal_range(object_id);
  if (std::none_of(first, last, [&](const auto& known) { return known.second == path; })) {
    suspects_.emplace(object_id, path);
  }
  return true;
}

// Returns false when something could not be looked at.
bool Sweeper::Scrub(size_t directory) {
  const std::string& node_directory = directories_->paths()[directory];
  const auto workers = fs_->List(node_directory);
  // On a disk that is away nothing is found, and all is still there.
  if (!workers.ok()) return absl::IsNotFound(workers.status()) && directories_->CheckPresent(directory).ok();
  bool complete = true;
  for (const DirectoryEntry& worker : *workers) {
    if (!ParseWorkerDirectoryName(worker.name)) continue;
    const std::string path = Join(node_directory, worker.name);
    const auto batches = fs_->List(path);
    complete = complete && (batches.ok() || absl::IsNotFound(batches.status()));
    if (!batches.ok()) continue;
    for (const DirectoryEntry& batch : *batches) {
      if (ParseBatchName(batch.name)) reclaimer_->QueueScrub(Join(path, batch.name));
    }
  }
  return complete;
}

void Sweeper::Spilled(std::span<const ObjectToSpill> objects, std::span<const std::string> urls) {
  const int64_t now_ms = clock_->NowMs();
  for (size_t i = 0; i < urls.size(); ++i) {
    const ObjectId& object_id = objects[i].object_id;
    const auto [first, last] = suspects_.equal_range(object_id);
    for (auto copy = first; copy != last; ++copy) unneeded_.insert(FormatUrl(copy->second, 0, 0));
    suspects_.erase(first, last);
    recent_[object_id] = std::string(absl::string_view(urls[i]).substr(0, urls[i].find('?')));
    recent_since_.emplace_back(now_ms, object_id);
  }
  ForgetOld();
}

void Sweeper::ForgetOld() {
  const int64_t oldest_ms = clock_->NowMs() - kRecentMs;
  while (!recent_since_.empty() && (recent_since_.front().first < oldest_ms || recent_since_.size() > kMaxRecent)) {
    recent_.erase(recent_since_.front().second);
    recent_since_.pop_front();
  }
}

}  // namespace mantaray::spill
