// Deleting, delayed punching, scrubbing.

#include "mantaray/spill/reclaimer.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace mantaray::spill {
namespace {

using Extent = std::pair<uint64_t, uint64_t>;  // offset, size

// What of [0, size_bytes) no live extent covers.
std::vector<Extent> Gaps(std::vector<Extent> live, uint64_t size_bytes) {
  std::sort(live.begin(), live.end());
  std::vector<Extent> gaps;
  uint64_t at = 0;
  for (const auto& [offset, size] : live) {
    if (offset > at) gaps.emplace_back(at, offset - at);
    at = std::max(at, offset + size);
  }
  if (at < size_bytes) gaps.emplace_back(at, size_bytes - at);
  return gaps;
}

struct SegmentLinks {
  std::string any_link;
  std::vector<Extent> live;
  uint64_t live_bytes = 0;
};

}  // namespace

absl::Status Reclaimer::Delete(const ParsedUrl& url) {
  const size_t slash = url.path.rfind('/');
  const std::string batch_directory = DirectoryOf(url.path);
  const auto link = ParseLinkName(absl::string_view(url.path).substr(slash == std::string::npos ? 0 : slash + 1));
  absl::StatusOr<OwnedFile> file = fs_->Open(url.path, /*writable=*/true);
  if (absl::IsNotFound(file.status())) {
    // It may have been set aside as damaged; otherwise an earlier call, cut off by a crash, got here first.
    fs_->Unlink(absl::StrCat(url.path, kDamagedSuffix)).IgnoreError();
    fs_->RemoveDirectory(batch_directory).IgnoreError();
    return absl::OkStatus();
  }
  if (!file.ok()) return file.status();
  if (absl::Status status = fs_->Unlink(url.path); !status.ok() && !absl::IsNotFound(status)) return status;
  const absl::StatusOr<FileInfo> info = fs_->Stat(file->fd());
  if (!info.ok()) return info.status();
  const FileKey key(info->device, info->inode);
  if (info->link_count == 0) {
    Forget(key);
    if (fs_->RemoveDirectory(batch_directory).ok()) {
      // The worker's own directory goes with its last batch once the worker is dead and swept.
      fs_->RemoveDirectory(DirectoryOf(batch_directory)).IgnoreError();
    }
    return absl::OkStatus();
  }
  if (link) Queue(key, *std::move(file), batch_directory, {{link->offset, RecordBytes(link->object_bytes)}});
  return absl::OkStatus();
}

void Reclaimer::Queue(const FileKey& key, OwnedFile file, const std::string& batch_directory,
                      const std::vector<Extent>& ranges) {
  if (ranges.empty()) return;
  const int64_t due_ms = clock_->NowMs() + options_.punch_delay_ms;
  MutexLock lock(&mutex_);
  const auto found = files_.find(key);
  const bool too_many_files = found == files_.end() && files_.size() >= options_.max_pending_files;
  if (too_many_files || ranges_.size() + ranges.size() > options_.max_pending_ranges) {
    to_scrub_.insert(batch_directory);
    return;
  }
  PendingFile& pending = files_[key];
  if (pending.file == nullptr) {
    pending.file = std::make_shared<OwnedFile>(std::move(file));
    pending.number = next_file_number_++;
  }
  pending.ranges += ranges.size();
  for (const auto& [offset, size_bytes] : ranges) {
    ranges_.push_back({key, pending.number, offset, size_bytes, due_ms});
  }
}

void Reclaimer::Forget(const FileKey& key) {
  MutexLock lock(&mutex_);
  files_.erase(key);  // its ranges are skipped when they come due
}

void Reclaimer::QueueScrub(const std::string& batch_directory) {
  MutexLock lock(&mutex_);
  to_scrub_.insert(batch_directory);
}

void Reclaimer::PunchDue(int64_t now_ms) {
  struct Punch {
    std::shared_ptr<OwnedFile> file;
    uint64_t offset;
    uint64_t size_bytes;
  };
  std::vector<Punch> due;
  {
    MutexLock lock(&mutex_);
    while (!ranges_.empty() && ranges_.front().due_ms <= now_ms) {
      const Range range = ranges_.front();
      ranges_.pop_front();
      const auto found = files_.find(range.file);
      if (found == files_.end() || found->second.number != range.file_number) continue;
      Punch* last = due.empty() ? nullptr : &due.back();
      if (last != nullptr && last->file == found->second.file && last->offset + last->size_bytes == range.offset) {
        last->size_bytes += range.size_bytes;  // neighbours deleted together are one call
      } else {
        due.push_back({found->second.file, range.offset, range.size_bytes});
      }
      if (--found->second.ranges == 0) files_.erase(found);
    }
  }
  // A punch that fails (the file system went read-only, say) leaves blocks allocated until the last link goes.
  for (const Punch& punch : due) fs_->PunchHole(punch.file->fd(), punch.offset, punch.size_bytes).IgnoreError();
}

void Reclaimer::ScrubNext() {
  std::string batch_directory;
  {
    MutexLock lock(&mutex_);
    const bool room =
        ranges_.size() <= options_.max_pending_ranges / 2 && files_.size() <= options_.max_pending_files / 2;
    if (to_scrub_.empty() || !room) return;
    batch_directory = *to_scrub_.begin();
    to_scrub_.erase(to_scrub_.begin());
  }
  Scrub(batch_directory);
}

void Reclaimer::Scrub(const std::string& batch_directory) {
  const auto entries = fs_->List(batch_directory);
  if (!entries.ok()) return;  // gone with its last object
  std::map<uint64_t, SegmentLinks> segments;
  for (const DirectoryEntry& entry : *entries) {
    const auto link = ParseLinkName(entry.name);
    if (!link) continue;
    SegmentLinks& segment = segments[entry.inode];
    segment.any_link = entry.name;
    segment.live.emplace_back(link->offset, RecordBytes(link->object_bytes));
    segment.live_bytes += RecordBytes(link->object_bytes);
  }
  for (const auto& [inode, segment] : segments) {
    absl::StatusOr<OwnedFile> file = fs_->Open(Join(batch_directory, segment.any_link), /*writable=*/true);
    if (!file.ok()) continue;
    const absl::StatusOr<FileInfo> info = fs_->Stat(file->fd());
    if (!info.ok() || info->inode != inode || info->allocated_bytes <= segment.live_bytes) continue;
    Queue({info->device, info->inode}, *std::move(file), batch_directory, Gaps(segment.live, info->size_bytes));
  }
}

void Reclaimer::Tick() {
  PunchDue(clock_->NowMs());
  ScrubNext();
}

void Reclaimer::Flush() { PunchDue(std::numeric_limits<int64_t>::max()); }

int64_t Reclaimer::LastDueMs() const {
  MutexLock lock(&mutex_);
  return ranges_.empty() ? -1 : ranges_.back().due_ms;
}

size_t Reclaimer::pending_ranges() const {
  MutexLock lock(&mutex_);
  return ranges_.size();
}

}  // namespace mantaray::spill
