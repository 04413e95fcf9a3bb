// The sweep.

#include "mantaray/spill/sweeper.h"

#include "absl/status/status.h"
#include "mantaray/spill/placer.h"

namespace mantaray::spill {

void Sweeper::Sweep() {
  for (const std::string& node_directory : node_directories_) {
    const auto entries = fs_->List(node_directory);
    if (!entries.ok()) continue;
    bool scrub = false;
    for (const DirectoryEntry& entry : *entries) {
      const auto process = ParseWorkerDirectoryName(entry.name);
      std::set<ProcessId>& swept = swept_[node_directory];
      if (!process || *process == self_ || swept.contains(*process) || host_->IsAlive(*process)) continue;
      scrub = true;
      if (SweepWorker(node_directory, entry.name)) swept.insert(*process);
    }
    // The dead worker may have had punches pending in anybody's segments.
    if (scrub) Scrub(node_directory);
  }
}

// Returns false when something could not be looked at.
bool Sweeper::SweepWorker(const std::string& node_directory, const std::string& worker_name) {
  const std::string worker = Join(node_directory, worker_name);
  const auto entries = fs_->List(worker);
  if (!entries.ok()) return absl::IsNotFound(entries.status());
  bool complete = true;
  for (const DirectoryEntry& entry : *entries) {
    const std::string path = Join(worker, entry.name);
    if (IsTemporaryBatchName(entry.name)) {
      RemoveTemporaryBatch(fs_, path);
      fs_->Unlink(path).IgnoreError();  // a file that a trial left
      continue;
    }
    if (!ParseBatchName(entry.name)) continue;
    const auto links = fs_->List(path);
    complete = complete && (links.ok() || absl::IsNotFound(links.status()));
    if (!links.ok()) continue;
    for (const DirectoryEntry& file : *links) {
      if (const auto link = ParseLinkName(file.name)) suspects_[link->object_id] = Join(path, file.name);
    }
  }
  // It goes with the worker's last batch if there is one.
  const absl::Status removed = fs_->RemoveDirectory(worker);
  return complete && (removed.ok() || absl::IsNotFound(removed) || absl::IsAlreadyExists(removed));
}

void Sweeper::Scrub(const std::string& node_directory) {
  const auto workers = fs_->List(node_directory);
  if (!workers.ok()) return;
  for (const DirectoryEntry& worker : *workers) {
    if (!ParseWorkerDirectoryName(worker.name)) continue;
    const std::string path = Join(node_directory, worker.name);
    const auto batches = fs_->List(path);
    if (!batches.ok()) continue;
    for (const DirectoryEntry& batch : *batches) {
      if (ParseBatchName(batch.name)) reclaimer_->QueueScrub(Join(path, batch.name));
    }
  }
}

void Sweeper::DropFirstCopies(std::span<const ObjectToSpill> objects) {
  if (suspects_.empty()) return;
  for (const ObjectToSpill& object : objects) {
    const auto found = suspects_.find(object.object_id);
    if (found == suspects_.end()) continue;
    reclaimer_->Delete({found->second, 0, 0}).IgnoreError();
    suspects_.erase(found);
  }
}

}  // namespace mantaray::spill
