// Deleting, delayed punching, scrubbing.

#include "mantaray/spill/reclaimer.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "mantaray/spill/reader.h"

namespace mantaray::spill {
namespace {

using Extent = std::pair<uint64_t, uint64_t>;  // offset, size

// A reader holds a range for as long as one restore takes.
constexpr int64_t kLockedRetryMs = 200;
// A look at the open files of a raylet with ten thousand of them takes some milliseconds.
constexpr int64_t kLookPeriodMs = 1000;
constexpr int64_t kFirstRetryMs = 1000;
constexpr int64_t kLongestRetryMs = 60000;
// How many ranges of one file are punched before the other files have their turn.
constexpr size_t kRangesPerTurn = 256;
constexpr size_t kScrubsPerTick = 16;

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

bool Overlaps(const std::vector<Extent>& live, uint64_t offset, uint64_t size_bytes) {
  return std::any_of(live.begin(), live.end(), [&](const Extent& extent) {
    return extent.first < offset + size_bytes && offset < extent.first + extent.second;
  });
}

}  // namespace

absl::Status Reclaimer::Delete(const ParsedUrl& url) {
  const std::string batch_directory = DirectoryOf(url.path);
  const auto link = ParseLinkName(FileOf(url.path));
  absl::Status status = link ? DeleteLink(url.path, *link) : fs_->Unlink(url.path);  // else a fused file
  if (link && !link->damaged) {
    // A copy that was set aside as damaged may be there instead, or as well: the worker that put a rebuilt copy back
    // may have died before it removed the damaged one.
    const absl::Status aside = DeleteLink(absl::StrCat(url.path, kDamagedSuffix), *link);
    if (!absl::IsNotFound(aside) && (status.ok() || absl::IsNotFound(status))) status = aside;
  }
  if (!status.ok() && !absl::IsNotFound(status)) return status;
  // Somebody else may have removed the link. Then only the names that are left tell which blocks are dead.
  if (link && !status.ok()) QueueScrub(batch_directory);
  if (!RemoveIfEmpty(batch_directory)) QueueScrub(batch_directory);
  return status;
}

// Whether the whole node directory cannot be seen, because its disk is away, so that nothing is known about the batch.
bool Reclaimer::IsAway(const std::string& batch_directory) {
  return !fs_->Space(DirectoryOf(DirectoryOf(batch_directory))).ok();
}

// Returns false when it is to be tried again.
bool Reclaimer::RemoveIfEmpty(const std::string& batch_directory) {
  absl::Status removed = fs_->RemoveDirectory(batch_directory);
  // The worker's own directory goes with its last batch; it is made again for the next.
  if (removed.ok() || absl::IsNotFound(removed)) removed = fs_->RemoveDirectory(DirectoryOf(batch_directory));
  return !absl::IsUnavailable(removed);
}

absl::Status Reclaimer::DeleteLink(const std::string& path, const LinkName& link) {
  absl::StatusOr<OwnedFile> file = fs_->Open(path, /*writable=*/true);
  if (absl::IsNotFound(file.status())) return file.status();
  if (absl::Status status = fs_->Unlink(path); !status.ok()) return status;
  const std::string batch_directory = DirectoryOf(path);
  const absl::StatusOr<FileInfo> info = file.ok() ? fs_->Stat(file->fd()) : absl::StatusOr<FileInfo>(file.status());
  if (!info.ok()) {
    // No descriptors left, say. The directory listing will tell which blocks are dead.
    QueueScrub(batch_directory);
    return absl::OkStatus();
  }
  const FileKey key(info->device, info->inode);
  if (info->link_count == 0) {
    Forget(key);
    return absl::OkStatus();
  }
  const int64_t now_ms = clock_->NowMs();
  Queue(key, *std::move(file), batch_directory, {{link.offset, RecordBytes(link.object_bytes), now_ms, now_ms}});
  return absl::OkStatus();
}

void Reclaimer::Queue(const FileKey& key, OwnedFile file, const std::string& batch_directory,
                      const std::vector<Range>& ranges) {
  MutexLock lock(&mutex_);
  // A scrub comes when there is room, and all gaps of a segment wait together, however many: half of them would be the
  // same half at the next scrub.
  if (pending_ranges_ >= options_.max_pending_ranges) {
    to_scrub_.emplace(batch_directory, clock_->NowMs() + options_.punch_delay_ms);
    return;
  }
  PendingFile& pending = files_[key];
  if (pending.batch_directory != batch_directory) {
    // Either new, or the inode of a segment that is gone, whose ranges mean nothing any more.
    pending_ranges_ -= pending.ranges.size();
    pending.ranges.clear();
    pending.batch_directory = batch_directory;
  }
  if (pending.file == nullptr && open_files_ < options_.max_pending_files) {
    pending.file = std::make_shared<OwnedFile>(std::move(file));
    ++open_files_;
  }
  // They are due before those that wait for another attempt.
  const auto place = std::upper_bound(pending.ranges.begin(), pending.ranges.end(), ranges.front(), DueEarlier);
  pending.ranges.insert(place, ranges.begin(), ranges.end());
  pending_ranges_ += ranges.size();
}

// Ranges of a turn that could not be punched wait again, until their new due times.
void Reclaimer::PutBack(Turn turn) {
  if (turn.pending.ranges.empty()) return;
  MutexLock lock(&mutex_);
  PendingFile& pending = files_[turn.key];
  if (pending.batch_directory.empty()) {
    pending.batch_directory = turn.pending.batch_directory;
  } else if (pending.batch_directory != turn.pending.batch_directory) {
    return;  // the inode belongs to another segment by now
  }
  if (pending.file == nullptr && turn.pending.file != nullptr && open_files_ < options_.max_pending_files) {
    pending.file = std::move(turn.pending.file);
    ++open_files_;
  }
  pending.retry_delay_ms = turn.pending.retry_delay_ms;
  pending_ranges_ += turn.pending.ranges.size();
  pending.ranges.insert(pending.ranges.end(), turn.pending.ranges.begin(), turn.pending.ranges.end());
  std::stable_sort(pending.ranges.begin(), pending.ranges.end(), DueEarlier);
}

void Reclaimer::Forget(const FileKey& key) {
  MutexLock lock(&mutex_);
  const auto found = files_.find(key);
  if (found == files_.end()) return;
  pending_ranges_ -= found->second.ranges.size();
  if (found->second.file != nullptr) --open_files_;
  files_.erase(found);
}

void Reclaimer::QueueScrub(const std::string& batch_directory) {
  MutexLock lock(&mutex_);
  to_scrub_.emplace(batch_directory, clock_->NowMs());
}

// Takes the ranges that are due, and with `retries` those that wait for another attempt. Returns false when there are
// none.
bool Reclaimer::TakeDue(int64_t now_ms, bool retries, std::vector<Turn>* turns) {
  MutexLock lock(&mutex_);
  for (auto at = files_.begin(); at != files_.end();) {
    PendingFile& pending = at->second;
    Turn turn{at->first, {pending.batch_directory, pending.file, {}, pending.retry_delay_ms}};
    if (retries) {
      for (Range& range : pending.ranges) range.due_ms = now_ms;
    }
    while (!pending.ranges.empty() && pending.ranges.front().due_ms <= now_ms &&
           (retries || turn.pending.ranges.size() < kRangesPerTurn)) {
      turn.pending.ranges.push_back(pending.ranges.front());
      pending.ranges.pop_front();
      --pending_ranges_;
    }
    if (pending.ranges.empty()) {
      if (pending.file != nullptr) --open_files_;
      at = files_.erase(at);
    } else {
      ++at;
    }
    if (!turn.pending.ranges.empty()) turns->push_back(std::move(turn));
  }
  return !turns->empty();
}

void Reclaimer::PunchTurns(std::vector<Turn> turns) {
  Listings listings;
  for (Turn& turn : turns) Punch(std::move(turn), clock_->NowMs(), &listings);
}

Reclaimer::Listing Reclaimer::List(const std::string& batch_directory) {
  const auto entries = fs_->List(batch_directory);
  Listing listing{entries.status(), entries.ok() && entries->empty(), {}};
  if (!entries.ok()) return listing;
  for (const DirectoryEntry& entry : *entries) {
    const auto link = ParseLinkName(entry.name);
    if (!link) continue;
    SegmentLinks& segment = listing.segments[entry.inode];
    segment.any_link = entry.name;
    segment.live.emplace_back(link->offset, RecordBytes(link->object_bytes));
    segment.live_bytes += RecordBytes(link->object_bytes);
  }
  return listing;
}

// Opens the segment by one of its links. `*gone` when it has none any more.
std::shared_ptr<OwnedFile> Reclaimer::Reopen(const Turn& turn, Listings* listings, std::vector<Extent>* live,
                                             bool* gone) {
  // One listing serves all segments of a batch. Since it was made, a segment can only have lost links.
  auto listed = listings->find(turn.pending.batch_directory);
  if (listed == listings->end()) {
    listed = listings->emplace(turn.pending.batch_directory, List(turn.pending.batch_directory)).first;
  }
  const Listing& listing = listed->second;
  *gone = absl::IsNotFound(listing.status) && !IsAway(turn.pending.batch_directory);
  if (!listing.status.ok()) return nullptr;
  const auto found = listing.segments.find(turn.key.second);
  *gone = found == listing.segments.end();
  if (*gone) return nullptr;
  absl::StatusOr<OwnedFile> file =
      fs_->Open(Join(turn.pending.batch_directory, found->second.any_link), /*writable=*/true);
  if (!file.ok()) return nullptr;
  const absl::StatusOr<FileInfo> info = fs_->Stat(file->fd());
  if (!info.ok()) return nullptr;
  // The link was replaced by a rebuilt copy since it was listed. The next attempt finds another link, or none.
  if (FileKey(info->device, info->inode) != turn.key) return nullptr;
  *live = found->second.live;
  if (info->link_count == 1 && !live->empty()) {
    // The inode may belong to an object by now that was rebuilt, larger than its name says.
    const uint64_t offset = live->front().first;
    const absl::StatusOr<uint64_t> actual_bytes = ActualObjectBytes(fs_, file->fd(), offset);
    if (absl::IsUnavailable(actual_bytes.status())) return nullptr;
    if (actual_bytes.ok()) live->emplace_back(offset, RecordBytes(*actual_bytes));
  }
  return std::make_shared<OwnedFile>(*std::move(file));
}

// Returns how long a punch has to wait because the raylet, which takes no locks, may still read what died at `dead_ms`.
// It can have opened it before that moment only.
int64_t Reclaimer::RayletDelayMs(const FileKey& key, int64_t dead_ms, int64_t now_ms) {
  const auto may_read = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return looked_ms_ <= dead_ms || !files_of_raylet_.ok() || files_of_raylet_->contains(key);
  };
  const bool look = [&] {
    MutexLock lock(&mutex_);
    return may_read() && dead_ms < now_ms && now_ms - looked_ms_ >= kLookPeriodMs;
  }();
  if (look) {
    absl::StatusOr<OpenFiles> files = host_->FilesOfRaylet();
    MutexLock lock(&mutex_);
    files_of_raylet_ = std::move(files);
    looked_ms_ = now_ms;
  }
  MutexLock lock(&mutex_);
  if (files_of_raylet_.ok()) return may_read() ? kLockedRetryMs : 0;
  // It cannot be looked at, so it has the grace time.
  return std::clamp<int64_t>(dead_ms + options_.punch_delay_ms - now_ms, 0, kLockedRetryMs);
}

// Keeps readers out of a range of a file that others have open. Returns 0, or how long to wait before the next attempt.
int64_t Reclaimer::LockOut(const FileKey& key, int fd, const Range& range, int64_t now_ms) {
  if (const int64_t delay_ms = RayletDelayMs(key, range.dead_ms, now_ms); delay_ms > 0) return delay_ms;
  return absl::IsUnavailable(fs_->LockRange(fd, range.offset, range.size_bytes, /*exclusive=*/true)) ? kLockedRetryMs
                                                                                                     : 0;
}

// Neighbours that were deleted together are one call.
Reclaimer::Range Reclaimer::Merge(const std::deque<Range>& ranges, size_t first, size_t* next) {
  Range merged = ranges[first];
  for (*next = first + 1; *next < ranges.size(); ++*next) {
    const Range& range = ranges[*next];
    if (range.offset > merged.offset + merged.size_bytes) break;
    const uint64_t end = std::max(merged.offset + merged.size_bytes, range.offset + range.size_bytes);
    merged.size_bytes = end - merged.offset;
    merged.dead_ms = std::max(merged.dead_ms, range.dead_ms);
  }
  return merged;
}

// Punches a range that readers are kept out of. Returns false when it is to be tried again.
bool Reclaimer::PunchRange(int fd, const Range& range) {
  const absl::Status punched = fs_->PunchHole(fd, range.offset, range.size_bytes);
  MutexLock lock(&mutex_);
  if (punched.ok()) stats_.punched_bytes += range.size_bytes;
  if (punched.ok() || absl::IsUnimplemented(punched)) return true;
  ++stats_.failed_punches;
  return false;
}

void Reclaimer::Punch(Turn turn, int64_t now_ms, Listings* listings) {
  std::deque<Range> ranges = std::exchange(turn.pending.ranges, {});
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  std::vector<Extent> live;
  std::shared_ptr<OwnedFile> file = turn.pending.file;
  bool gone = false;
  if (file == nullptr) file = Reopen(turn, listings, &live, &gone);
  if (gone) return;
  const int64_t retry_ms = std::clamp(2 * turn.pending.retry_delay_ms, kFirstRetryMs, kLongestRetryMs);
  turn.pending.retry_delay_ms = 0;
  const auto wait_again = [&](const Range& range, int64_t delay_ms) {
    turn.pending.ranges.push_back({range.offset, range.size_bytes, now_ms + delay_ms, range.dead_ms});
  };
  const auto punch_or_wait = [&](const Range& range) {
    if (PunchRange(file->fd(), range)) return;
    turn.pending.retry_delay_ms = retry_ms;
    wait_again(range, retry_ms);
  };
  for (size_t first = 0, next = 0; first < ranges.size(); first = next) {
    const Range merged = Merge(ranges, first, &next);
    // The inode may have been given to a file whose live bytes lie there.
    if (Overlaps(live, merged.offset, merged.size_bytes)) continue;
    if (file == nullptr) {
      turn.pending.retry_delay_ms = retry_ms;
      wait_again(merged, retry_ms);
      MutexLock lock(&mutex_);
      ++stats_.failed_punches;
    } else if (fs_->Fence(file->fd()).ok()) {
      punch_or_wait(merged);
      fs_->Unfence(file->fd());
    } else if (LockOut(turn.key, file->fd(), merged, now_ms) == 0) {
      punch_or_wait(merged);
      fs_->UnlockRange(file->fd(), merged.offset, merged.size_bytes);
    } else {
      // A reader holds a part.
      for (; first < next; ++first) {
        const Range& range = ranges[first];
        const int64_t delay_ms = LockOut(turn.key, file->fd(), range, now_ms);
        if (delay_ms == 0) {
          punch_or_wait(range);
          fs_->UnlockRange(file->fd(), range.offset, range.size_bytes);
          continue;
        }
        wait_again(range, delay_ms);
        MutexLock lock(&mutex_);
        ++stats_.delayed_punches;
      }
    }
  }
  PutBack(std::move(turn));
}

// Looks a batch directory through. Returns false when none is due, or when there is no room for what would be found.
bool Reclaimer::ScrubNext() {
  std::string batch_directory;
  {
    MutexLock lock(&mutex_);
    if (pending_ranges_ > options_.max_pending_ranges / 2) return false;
    const int64_t now_ms = clock_->NowMs();
    const auto due =
        std::find_if(to_scrub_.begin(), to_scrub_.end(), [&](const auto& entry) { return entry.second <= now_ms; });
    if (due == to_scrub_.end()) return false;
    batch_directory = due->first;
    to_scrub_.erase(due);
  }
  if (Scrub(batch_directory)) return true;
  MutexLock lock(&mutex_);
  to_scrub_.emplace(batch_directory, clock_->NowMs() + kFirstRetryMs);
  return true;
}

// Returns false when something could not be looked at and is to be tried again.
bool Reclaimer::Scrub(const std::string& batch_directory) {
  const Listing listing = List(batch_directory);
  if (absl::IsNotFound(listing.status) && IsAway(batch_directory)) return false;
  if (absl::IsNotFound(listing.status) || listing.empty) return RemoveIfEmpty(batch_directory);
  if (!listing.status.ok()) return false;
  bool complete = true;
  for (const auto& [inode, segment] : listing.segments) {
    absl::StatusOr<OwnedFile> file = fs_->Open(Join(batch_directory, segment.any_link), /*writable=*/true);
    // Also when the link was deleted, or replaced by a rebuilt copy, since it was listed: the segment may have others.
    const absl::StatusOr<FileInfo> info = file.ok() ? fs_->Stat(file->fd()) : absl::StatusOr<FileInfo>(file.status());
    if (!info.ok() || info->inode != inode) {
      complete = false;
      continue;
    }
    if (info->allocated_bytes <= segment.live_bytes) continue;
    std::vector<Extent> live = segment.live;
    if (info->link_count == 1) {
      // It may be an object that was rebuilt, larger than its name says.
      const absl::StatusOr<uint64_t> actual_bytes = ActualObjectBytes(fs_, file->fd(), live.front().first);
      if (absl::IsUnavailable(actual_bytes.status())) complete = false;
      if (!actual_bytes.ok() && !absl::IsNotFound(actual_bytes.status())) continue;
      if (actual_bytes.ok()) live.emplace_back(live.front().first, RecordBytes(*actual_bytes));
      // Its gaps are holes already, and must not take the place of gaps that hold something.
      if (actual_bytes.ok() && info->allocated_bytes <= RecordBytes(*actual_bytes)) continue;
    }
    const int64_t now_ms = clock_->NowMs();
    std::vector<Range> ranges;
    for (const auto& [offset, size_bytes] : Gaps(live, info->size_bytes)) {
      ranges.push_back({offset, size_bytes, now_ms, now_ms});
    }
    if (!ranges.empty()) Queue({info->device, info->inode}, *std::move(file), batch_directory, ranges);
  }
  return complete;
}

void Reclaimer::Tick() {
  // What a look finds is punched before the next look, which may have no room otherwise.
  for (size_t scrubs = 0; scrubs <= kScrubsPerTick; ++scrubs) {
    // What is put back is due later than now.
    const int64_t now_ms = clock_->NowMs();
    for (std::vector<Turn> turns; TakeDue(now_ms, /*retries=*/false, &turns); turns.clear()) {
      PunchTurns(std::move(turns));
    }
    if (!ScrubNext()) return;
  }
}

void Reclaimer::Flush() {
  std::vector<Turn> turns;
  if (TakeDue(clock_->NowMs(), /*retries=*/true, &turns)) PunchTurns(std::move(turns));
}

int64_t Reclaimer::LastGraceEndMs() const {
  MutexLock lock(&mutex_);
  int64_t last_ms = -1;
  for (const auto& [key, pending] : files_) {
    for (const Range& range : pending.ranges) last_ms = std::max(last_ms, range.dead_ms + options_.punch_delay_ms);
  }
  return last_ms;
}

bool Reclaimer::idle() const {
  MutexLock lock(&mutex_);
  return files_.empty() && to_scrub_.empty();
}

size_t Reclaimer::pending_ranges() const {
  MutexLock lock(&mutex_);
  return pending_ranges_;
}

ReclaimerStats Reclaimer::stats() const {
  MutexLock lock(&mutex_);
  ReclaimerStats stats = stats_;
  for (const auto& [key, pending] : files_) {
    for (const Range& range : pending.ranges) stats.pending_bytes += range.size_bytes;
  }
  return stats;
}

}  // namespace mantaray::spill
