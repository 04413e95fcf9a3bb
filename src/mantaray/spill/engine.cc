// Batches over directories, and the sweep.

#include "mantaray/spill/engine.h"

#include <algorithm>
#include <array>
#include <deque>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {
namespace {

constexpr int64_t kSweepPeriodMs = 2000;
constexpr int64_t kTrimPeriodMs = 5000;
// Written bytes whose pages are still to be given back, before a spill waits for the disk: a burst of a few batches
// runs at the speed of memory, and a worker never holds more of the page cache than this and one segment.
constexpr uint64_t kMaxCachedBytes = uint64_t{256} << 20;

// What lies in a directory; nothing when it cannot be read.
std::vector<DirectoryEntry> Entries(FileSystem* fs, const std::string& path) {
  absl::StatusOr<std::vector<DirectoryEntry>> entries = fs->List(path);
  return entries.ok() ? *std::move(entries) : std::vector<DirectoryEntry>();
}

// The raylet names objects in no order, but what one task put is wanted back in the order in which it was put more
// often than not, and the disk reads forward fastest. An object id is the task's id and, in its last four bytes, a
// little-endian number that counts up.
SegmentPlan InOrderOfCreation(SegmentPlan plan, std::span<const ObjectToSpill> objects) {
  const auto key = [&objects](size_t object) {
    std::array<unsigned char, kObjectIdBytes> id{};
    std::copy_n(objects[object].object_id.begin(), id.size(), id.begin());
    std::reverse(id.end() - sizeof(uint32_t), id.end());
    return id;
  };
  std::sort(plan.objects.begin(), plan.objects.end(), [&key](size_t a, size_t b) { return key(a) < key(b); });
  return plan;
}

}  // namespace

// One call of Spill. It publishes one batch directory a spill directory; a second round, with a number of its own,
// follows only when publishing failed somewhere.
struct Engine::Batch {
  struct Located {
    size_t directory = 0;
    uint64_t batch = 0;
    Placement placement;
  };

  std::span<const ObjectToSpill> objects;
  uint64_t number = 0;
  std::vector<std::optional<Located>> located;
  std::set<size_t> directories;           // with a temporary batch directory
  std::map<size_t, uint64_t> room_limit;  // after running full: never to be asked for more than this again
  std::map<size_t, absl::Status> failed;  // not to be tried again in this batch
  std::deque<SegmentPlan> plans;
  uint64_t segments = 0;
  std::string no_room;  // the first object's failure, worded
};

Engine::Engine(FileSystem* fs, const Clock* clock, Host* host, Parallel* parallel, EngineOptions options)
    : fs_(fs),
      clock_(clock),
      host_(host),
      parallel_(parallel),
      options_(std::move(options)),
      reclaimer_(fs, clock, options_.reclaimer),
      buffers_(fs),
      windows_(fs, clock, parallel, &buffers_, options_.read_ahead_bytes),
      large_reads_(fs, clock, parallel, &buffers_),
      directories_(fs, options_.node_directories, options_.reserve_bytes),
      read_ahead_(fs, options_.read_ahead_bytes) {}

std::string Engine::WorkerPath(size_t directory) const {
  return Join(options_.node_directories[directory], WorkerDirectoryName(options_.self));
}

absl::Status Engine::EnsureWorkerDirectory(size_t directory) {
  const std::string path = WorkerPath(directory);
  const absl::Status made = fs_->MakeDirectory(path);
  if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
  const absl::Status marked = fs_->Create(Join(path, kAliveFile)).status();
  return absl::IsAlreadyExists(marked) ? absl::OkStatus() : marked;
}

absl::StatusOr<std::string> Engine::BatchDirectory(Batch* batch, size_t directory) {
  const std::string path = Join(WorkerPath(directory), TemporaryBatchName(batch->number));
  if (batch->directories.contains(directory)) return path;
  if (absl::Status status = EnsureWorkerDirectory(directory); !status.ok()) return status;
  if (absl::Status status = fs_->MakeDirectory(path); !status.ok()) return status;
  batch->directories.insert(directory);
  return path;
}

absl::Status Engine::TryDirectory(Batch* batch, size_t directory, const SegmentPlan& plan) {
  const absl::StatusOr<std::string> path = BatchDirectory(batch, directory);
  if (!path.ok()) return path.status();
  const Capabilities& capabilities = directories_.Probe(directory, WorkerPath(directory));
  const uint64_t bound = capabilities.per_object ? options_.max_segment_bytes : options_.max_fused_bytes;
  const uint64_t links = capabilities.per_object ? capabilities.link_max - 1 : plan.objects.size();
  if (plan.objects.size() > 1 && (plan.size_bytes > bound || plan.objects.size() > links)) {
    // Planned for a more capable file system; the caller plans again for this one.
    batch->room_limit[directory] = bound;
    return absl::OutOfRangeError("segment too large for this file system");
  }
  SegmentWriter writer(fs_, parallel_, &buffers_, options_.cache_mode);
  const auto allocate = [this, directory](int fd, uint64_t size_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return directories_.Allocate(directory, fd, size_bytes);
  };
  absl::StatusOr<WrittenSegment> segment = writer.Write(*path, capabilities, allocate, batch->segments++,
                                                        batch->objects, InOrderOfCreation(plan, batch->objects));
  if (!segment.ok()) return segment.status();
  for (Placement& placement : segment->placements) {
    const size_t object = placement.object;
    batch->located[object] = Batch::Located{directory, batch->number, std::move(placement)};
  }
  for (CachedRange& range : segment->still_cached) {
    still_cached_bytes_ += range.size_bytes;
    still_cached_.push_back(std::move(range));
  }
  return absl::OkStatus();
}

void Engine::Place(Batch* batch, const SegmentPlan& plan) {
  uint64_t largest_room = 0;
  size_t largest_links = plan.objects.size();
  std::vector<std::string> reasons;
  for (const DirectoryRoom& room : directories_.Rooms()) {
    const std::string& path = options_.node_directories[room.directory];
    const auto failed = batch->failed.find(room.directory);
    if (!room.status.ok() || failed != batch->failed.end()) {
      reasons.push_back(absl::StrCat(path, ": ", (room.status.ok() ? failed->second : room.status).message()));
      continue;
    }
    const auto limit = batch->room_limit.find(room.directory);
    uint64_t usable = limit == batch->room_limit.end() ? room.usable_bytes : std::min(room.usable_bytes, limit->second);
    // A bound on fused files does not keep a single large object out.
    if (plan.objects.size() == 1 && usable == options_.max_fused_bytes) usable = room.usable_bytes;
    std::string reason = absl::StrCat(path, " has ", room.ToString());
    if (usable >= plan.size_bytes) {
      const absl::Status status = TryDirectory(batch, room.directory, plan);
      if (status.ok()) return;
      if (absl::IsOutOfRange(status)) {
        usable = batch->room_limit[room.directory];
        largest_links = plan.objects.size() / 2;
      } else if (absl::IsResourceExhausted(status)) {
        usable = plan.size_bytes / 2;
        batch->room_limit[room.directory] = usable;
        reason = absl::StrCat(path, ": ", status.message());
      } else {
        batch->failed.emplace(room.directory, status);
        reasons.push_back(absl::StrCat(path, ": ", status.message()));
        continue;
      }
    }
    largest_room = std::max(largest_room, usable);
    reasons.push_back(std::move(reason));
  }
  if (plan.objects.size() > 1 && largest_room >= kSmallestRecordBytes) {
    std::vector<uint64_t> sizes;
    sizes.reserve(plan.objects.size());
    for (size_t object : plan.objects) sizes.push_back(batch->objects[object].record_bytes());
    const PackLimits limits{.segment_bytes = std::min(largest_room, plan.size_bytes - 1),
                            .segment_objects = std::max<size_t>(largest_links, 1)};
    for (SegmentPlan& smaller : Pack(sizes, limits)) {
      for (size_t& object : smaller.objects) object = plan.objects[object];
      batch->plans.push_back(std::move(smaller));
    }
    return;
  }
  if (batch->no_room.empty()) {
    batch->no_room = absl::StrFormat(
        "no spill directory can take an object of %u bytes: %s. Free space there, give Ray another spill directory, or "
        "lower MANTARAY_SPILL_RESERVE_BYTES",
        batch->objects[plan.objects.front()].record_bytes(), absl::StrJoin(reasons, "; "));
  }
}

void Engine::Publish(Batch* batch) {
  for (size_t directory : std::exchange(batch->directories, {})) {
    const std::string worker = WorkerPath(directory);
    const std::string temporary = Join(worker, TemporaryBatchName(batch->number));
    std::vector<size_t> objects;
    for (size_t i = 0; i < batch->located.size(); ++i) {
      const auto& located = batch->located[i];
      if (located && located->directory == directory && located->batch == batch->number) objects.push_back(i);
    }
    absl::Status status;
    if (!objects.empty()) status = fs_->Rename(temporary, Join(worker, BatchName(batch->number)));
    if (!objects.empty() && status.ok()) continue;
    RemoveTemporary(temporary);
    if (status.ok()) continue;
    batch->failed.emplace(directory, status);
    for (size_t object : objects) batch->located[object].reset();
    Plan(batch, objects);
  }
  batch->number = next_batch_++;
}

void Engine::Plan(Batch* batch, const std::vector<size_t>& objects) {
  std::vector<uint64_t> sizes;
  sizes.reserve(objects.size());
  for (size_t object : objects) sizes.push_back(batch->objects[object].record_bytes());
  for (SegmentPlan& plan : Pack(sizes, {.segment_bytes = options_.max_segment_bytes, .segment_objects = SIZE_MAX})) {
    for (size_t& object : plan.objects) object = objects[object];
    batch->plans.push_back(std::move(plan));
  }
}

void Engine::RemoveTemporary(const std::string& path) {
  for (const DirectoryEntry& file : Entries(fs_, path)) fs_->Unlink(Join(path, file.name)).IgnoreError();
  fs_->RemoveDirectory(path).IgnoreError();
}

std::vector<std::string> Engine::TakePrefix(Batch* batch) {
  std::vector<std::string> urls;
  std::set<std::string> kept_paths;
  bool in_prefix = true;
  for (const auto& located : batch->located) {
    in_prefix = in_prefix && located.has_value();
    if (!located.has_value()) continue;
    const Placement& placement = located->placement;
    const std::string path = Join(Join(WorkerPath(located->directory), BatchName(located->batch)), placement.name);
    if (in_prefix) {
      kept_paths.insert(path);
      urls.push_back(FormatUrl(path, placement.offset, placement.object_bytes));
    } else if (!kept_paths.contains(path)) {
      // Ray takes only a prefix as spilled. (A fused file that also holds objects of the prefix stays.)
      reclaimer_.Delete({path, placement.offset, placement.object_bytes}).IgnoreError();
    }
  }
  return urls;
}

absl::StatusOr<std::vector<std::string>> Engine::Spill(std::span<const ObjectToSpill> objects) {
  MutexLock lock(&mutex_);
  SweepDeadWorkers();
  DropCached(kMaxCachedBytes);
  Batch batch;
  batch.objects = objects;
  batch.number = next_batch_++;
  batch.located.resize(objects.size());
  std::vector<size_t> all(objects.size());
  std::iota(all.begin(), all.end(), 0);
  Plan(&batch, all);
  while (!batch.plans.empty()) {
    while (!batch.plans.empty()) {
      const SegmentPlan plan = std::move(batch.plans.front());
      batch.plans.pop_front();
      Place(&batch, plan);
    }
    Publish(&batch);
  }
  std::vector<std::string> urls = TakePrefix(&batch);
  if (urls.empty() && !objects.empty()) return absl::ResourceExhaustedError(batch.no_room);
  DropSuspects(objects, urls.size());
  return urls;
}

absl::StatusOr<ObjectReader> Engine::Open(const std::string& url, const ObjectId& object_id) {
  const absl::StatusOr<ParsedUrl> parsed = ParseUrl(url);
  if (!parsed.ok()) return parsed.status();
  absl::StatusOr<OwnedFile> file = fs_->Open(parsed->path, /*writable=*/false);
  if (!file.ok()) return file.status();
  absl::StatusOr<ObjectReader> reader =
      ObjectReader::Open(fs_, *parsed, SourceOf(*parsed, *std::move(file)), object_id);
  if (absl::IsDataLoss(reader.status())) SetAside(url);
  return reader;
}

ObjectSource Engine::SourceOf(const ParsedUrl& url, OwnedFile file) {
  ObjectSource source;
  source.file = std::move(file);
  source.large_reads = &large_reads_;
  if (url.object_bytes > kMaxObjectBytes || url.offset % kBlockBytes != 0) return source;  // the reader says it
  const uint64_t record_bytes = RecordBytes(url.object_bytes);
  // Looked for in the middle: the page cache may hold the header alone, from an earlier unbuffered read.
  source.cached = fs_->IsCached(source.file.fd(), url.offset + url.object_bytes / 2);
  if (source.cached) return source;
  const bool use_page_cache = options_.cache_mode == CacheMode::kKeep;
  if (!use_page_cache && record_bytes > Windows::kMaxRecordBytes) {
    absl::StatusOr<OwnedFile> direct = fs_->Open(url.path, /*writable=*/false);
    if (direct.ok() && fs_->SetDirect(direct->fd()).ok()) {
      source.direct = std::make_shared<const OwnedFile>(*std::move(direct));
    }
  } else if (!use_page_cache) {
    source.window = windows_.Get(url.path, source.file.fd(), url.offset, record_bytes);
  }
  if (source.window == nullptr && source.direct == nullptr) {
    MutexLock lock(&mutex_);
    read_ahead_.Advise(source.file.fd(), url.offset, record_bytes);
  }
  return source;
}

void Engine::SetAside(const std::string& url) {
  const absl::StatusOr<ParsedUrl> parsed = ParseUrl(url);
  if (!parsed.ok()) return;
  const size_t slash = parsed->path.rfind('/');
  if (slash == std::string::npos || !ParseLinkName(absl::string_view(parsed->path).substr(slash + 1))) {
    return;  // a fused file holds other objects too
  }
  // Fails when another worker was faster, which is as good.
  fs_->Rename(parsed->path, absl::StrCat(parsed->path, kDamagedSuffix)).IgnoreError();
}

absl::Status Engine::Delete(std::span<const std::string> urls) {
  absl::Status first;
  for (const std::string& url : urls) {
    const absl::StatusOr<ParsedUrl> parsed = ParseUrl(url);
    first.Update(parsed.ok() ? reclaimer_.Delete(*parsed) : parsed.status());
  }
  return first;
}

void Engine::Tick() {
  {
    MutexLock lock(&mutex_);
    if (const int64_t now_ms = clock_->NowMs(); now_ms >= next_sweep_ms_) {
      next_sweep_ms_ = now_ms + kSweepPeriodMs;
      SweepDeadWorkers();
    }
    if (const int64_t now_ms = clock_->NowMs(); now_ms >= next_trim_ms_) {
      next_trim_ms_ = now_ms + kTrimPeriodMs;
      buffers_.Trim();
    }
  }
  windows_.Tick();
  large_reads_.Tick();
  // A range at a time, so that a spill or a restore waits for one at most.
  for (bool more = true; more;) {
    MutexLock lock(&mutex_);
    DropCached(still_cached_.empty() ? 0 : still_cached_bytes_ - still_cached_.front().size_bytes);
    more = !still_cached_.empty();
  }
  reclaimer_.Tick();
}

void Engine::DropCached(uint64_t keep_bytes) {
  while (!still_cached_.empty() && still_cached_bytes_ > keep_bytes) {
    const CachedRange& range = still_cached_.front();
    fs_->WaitWriteback(range.file.fd(), range.offset, range.size_bytes);
    fs_->DropCache(range.file.fd(), range.offset, range.size_bytes);
    still_cached_bytes_ -= range.size_bytes;
    still_cached_.pop_front();
  }
}

int64_t Engine::CloseDelayMs() const {
  const int64_t last_due_ms = reclaimer_.LastDueMs();
  return last_due_ms < 0 ? 0 : std::max<int64_t>(0, last_due_ms - clock_->NowMs());
}

void Engine::Close() {
  Tick();
  reclaimer_.Flush();
}

std::vector<std::string> Engine::Limitations() {
  MutexLock lock(&mutex_);
  std::vector<std::string> lines;
  for (size_t i = 0; i < options_.node_directories.size(); ++i) {
    if (!EnsureWorkerDirectory(i).ok()) continue;  // full or vanished: Spill will say so
    const Capabilities& capabilities = directories_.Probe(i, WorkerPath(i));
    if (!capabilities.missing.empty()) {
      lines.push_back(absl::StrCat(options_.node_directories[i], ": ", capabilities.missing));
    }
  }
  return lines;
}

void Engine::SweepDeadWorkers() {
  for (const std::string& node_directory : options_.node_directories) {
    const std::vector<DirectoryEntry> entries = Entries(fs_, node_directory);
    for (const DirectoryEntry& entry : entries) {
      const auto process = ParseWorkerDirectoryName(entry.name);
      if (!process || *process == options_.self || known_dead_.contains(*process) || host_->IsAlive(*process)) continue;
      known_dead_.insert(*process);
      LoadSuspects(*process);
      for (const std::string& other : options_.node_directories) SweepWorker(Join(other, entry.name));
      // The dead worker may have had punches pending in anybody's segments.
      for (const DirectoryEntry& sibling : entries) {
        if (!ParseWorkerDirectoryName(sibling.name)) continue;
        const std::string worker = Join(node_directory, sibling.name);
        for (const DirectoryEntry& batch : Entries(fs_, worker)) {
          if (ParseBatchName(batch.name)) reclaimer_.QueueScrub(Join(worker, batch.name));
        }
      }
    }
  }
}

void Engine::SweepWorker(const std::string& worker_directory) {
  for (const DirectoryEntry& entry : Entries(fs_, worker_directory)) {
    const std::string path = Join(worker_directory, entry.name);
    if (!IsTemporaryBatchName(entry.name)) continue;
    if (!entry.is_directory) {
      fs_->Unlink(path).IgnoreError();  // left by a probe
      continue;
    }
    RemoveTemporary(path);
  }
  fs_->Unlink(Join(worker_directory, kAliveFile)).IgnoreError();
  fs_->RemoveDirectory(worker_directory).IgnoreError();
}

void Engine::LoadSuspects(const ProcessId& dead) {
  std::optional<uint64_t> last;
  for (const std::string& node_directory : options_.node_directories) {
    const std::string worker = Join(node_directory, WorkerDirectoryName(dead));
    for (const DirectoryEntry& entry : Entries(fs_, worker)) {
      if (const auto batch = ParseBatchName(entry.name)) last = std::max(last.value_or(0), *batch);
    }
  }
  if (!last) return;
  for (const std::string& node_directory : options_.node_directories) {
    const std::string batch = Join(Join(node_directory, WorkerDirectoryName(dead)), BatchName(*last));
    for (const DirectoryEntry& entry : Entries(fs_, batch)) {
      if (const auto link = ParseLinkName(entry.name)) suspects_[link->object_id] = Join(batch, entry.name);
    }
  }
}

void Engine::DropSuspects(std::span<const ObjectToSpill> objects, size_t count) {
  if (suspects_.empty()) return;
  for (const ObjectToSpill& object : objects.first(count)) {
    const auto found = suspects_.find(object.object_id);
    if (found == suspects_.end()) continue;
    reclaimer_.Delete({found->second, 0, 0}).IgnoreError();
    suspects_.erase(found);
  }
}

}  // namespace mantaray::spill
