// Batches over directories.

#include "mantaray/spill/placer.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "mantaray/spill/packer.h"

namespace mantaray::spill {
namespace {

// A worker's directory may go with another worker's delete between being made and being used.
constexpr int kMakeAttempts = 10;

// The raylet names objects in no order, but what one task put is wanted back in the order in which it was put more
// often than not, and the disk reads forward fastest. An object id is the task's id and, in its last four bytes, a
// little-endian number that counts up.
SegmentPlan InOrderOfCreation(SegmentPlan plan, std::span<const ObjectToSpill> objects) {
  const auto key = [&objects](size_t object) {
    std::array<unsigned char, kObjectIdBytes> id{};
    std::copy_n(objects[object].object_id.Binary().begin(), id.size(), id.begin());
    std::reverse(id.end() - sizeof(uint32_t), id.end());
    return id;
  };
  std::sort(plan.objects.begin(), plan.objects.end(), [&key](size_t a, size_t b) { return key(a) < key(b); });
  return plan;
}

std::string UrlOfLeftName(const std::string& batch_directory, const std::string& name) {
  const auto link = ParseLinkName(name);
  return FormatUrl(Join(batch_directory, name), link ? link->offset : 0, link ? link->object_bytes : 0);
}

}  // namespace

// One call of Spill. It publishes one batch directory a spill directory; a second round, with a number of its own,
// follows only when publishing failed somewhere.
struct Placer::Batch {
  struct Located {
    size_t directory = 0;
    uint64_t batch = 0;
    Placement placement;
  };

  std::span<const ObjectToSpill> objects;
  std::deque<CachedRange>* still_cached = nullptr;
  uint64_t number = 0;
  std::vector<std::optional<Located>> located;
  std::set<size_t> directories;           // with a temporary batch directory
  std::map<size_t, uint64_t> room_limit;  // after running full: never to be asked for more than this again
  std::map<size_t, absl::Status> failed;  // not to be tried again in this batch
  std::deque<SegmentPlan> plans;
  uint64_t segments = 0;
  std::string no_room;                                     // the first object's failure, worded
  std::vector<std::pair<size_t, std::string>> left_names;  // by directory; see SegmentWriter::left_names
  std::vector<std::string>* unneeded = nullptr;
};

std::string Placer::WorkerPath(size_t directory) const {
  return Join(directories_->paths()[directory], WorkerDirectoryName(options_.self));
}

absl::Status Placer::EnsureWorkerDirectory(size_t directory) {
  if (absl::Status status = directories_->Ensure(directory); !status.ok()) return status;
  const absl::Status made = fs_->MakeDirectory(WorkerPath(directory));
  return absl::IsAlreadyExists(made) ? absl::OkStatus() : made;
}

absl::Status Placer::MakeInWorkerDirectory(size_t directory, const std::string& path) {
  absl::Status status;
  for (int attempt = 0; attempt < kMakeAttempts; ++attempt) {
    status = EnsureWorkerDirectory(directory);
    if (!status.ok()) break;
    status = fs_->MakeDirectory(path);
    if (!absl::IsNotFound(status)) break;
  }
  // The worker's directory may be there now, with nothing in it.
  if (!status.ok() && !absl::IsAlreadyExists(status)) leftovers_.emplace(path, directory);
  return status;
}

void Placer::RemoveFromWorkerDirectory(size_t directory, const std::string& path) {
  bool done = RemoveTemporaryBatch(fs_, path);
  // The worker's directory goes with the last that is in it.
  done = done && !absl::IsUnavailable(fs_->RemoveDirectory(WorkerPath(directory)));
  // On a disk that is away nothing is found, and all is still there.
  if (!done || !directories_->CheckPresent(directory).ok()) leftovers_.emplace(path, directory);
}

void Placer::Tick() {
  for (const auto& [path, directory] : std::exchange(leftovers_, {})) RemoveFromWorkerDirectory(directory, path);
}

absl::StatusOr<Capabilities> Placer::Probe(size_t directory) {
  if (const Capabilities* known = directories_->Probed(directory)) return *known;
  // The scratch directory keeps the worker's directory from going while it is tried out.
  const std::string scratch = Join(WorkerPath(directory), kProbeDirectory);
  const absl::Status made = MakeInWorkerDirectory(directory, scratch);
  if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
  absl::StatusOr<Capabilities> capabilities = directories_->Probe(directory, scratch);
  RemoveFromWorkerDirectory(directory, scratch);
  return capabilities;
}

absl::StatusOr<std::string> Placer::BatchDirectory(Batch* batch, size_t directory) {
  const std::string path = Join(WorkerPath(directory), TemporaryBatchName(batch->number));
  if (batch->directories.contains(directory)) return path;
  if (absl::Status status = MakeInWorkerDirectory(directory, path); !status.ok()) return status;
  batch->directories.insert(directory);
  return path;
}

absl::Status Placer::TryDirectory(Batch* batch, size_t directory, const SegmentPlan& plan) {
  const absl::StatusOr<std::string> path = BatchDirectory(batch, directory);
  if (!path.ok()) return path.status();
  const absl::StatusOr<Capabilities> capabilities = Probe(directory);
  if (!capabilities.ok()) return capabilities.status();
  const uint64_t bound = capabilities->per_object ? options_.max_segment_bytes : options_.max_fused_bytes;
  const uint64_t links = capabilities->per_object ? capabilities->link_max - 1 : plan.objects.size();
  if (plan.objects.size() > 1 && (plan.size_bytes > bound || plan.objects.size() > links)) {
    // Planned for a more capable file system; the caller plans again for this one.
    batch->room_limit[directory] = bound;
    return absl::OutOfRangeError("segment too large for this file system");
  }
  SegmentWriter writer(fs_, parallel_, buffers_, book_, options_.cache_mode);
  const auto allocate = [this, directory](int fd, uint64_t size_bytes) {
    return directories_->Allocate(directory, fd, size_bytes);
  };
  absl::StatusOr<WrittenSegment> segment = writer.Write(*path, *capabilities, allocate, batch->segments++,
                                                        batch->objects, InOrderOfCreation(plan, batch->objects));
  for (const std::string& name : writer.left_names()) batch->left_names.emplace_back(directory, name);
  if (!segment.ok()) return segment.status();
  for (Placement& placement : segment->placements) {
    const size_t object = placement.object;
    batch->located[object] = Batch::Located{directory, batch->number, std::move(placement)};
  }
  for (CachedRange& range : segment->still_cached) {
    range.batch_directory = Join(WorkerPath(directory), BatchName(batch->number));
    batch->still_cached->push_back(std::move(range));
  }
  return absl::OkStatus();
}

void Placer::PlaceSegment(Batch* batch, const SegmentPlan& plan) {
  uint64_t largest_room = 0;
  size_t largest_links = plan.objects.size();
  std::vector<std::string> reasons;
  for (const DirectoryRoom& room : directories_->Rooms()) {
    const std::string& path = directories_->paths()[room.directory];
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

void Placer::Publish(Batch* batch) {
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
    if (!objects.empty() && status.ok()) {
      for (const auto& [where, name] : batch->left_names) {
        if (where == directory) batch->unneeded->push_back(UrlOfLeftName(Join(worker, BatchName(batch->number)), name));
      }
      continue;
    }
    RemoveFromWorkerDirectory(directory, temporary);
    if (status.ok()) continue;
    batch->failed.emplace(directory, status);
    for (size_t object : objects) batch->located[object].reset();
    Plan(batch, objects);
  }
  batch->left_names.clear();
  batch->number = next_batch_++;
}

void Placer::Plan(Batch* batch, const std::vector<size_t>& objects) {
  std::vector<uint64_t> sizes;
  sizes.reserve(objects.size());
  for (size_t object : objects) sizes.push_back(batch->objects[object].record_bytes());
  for (SegmentPlan& plan : Pack(sizes, {.segment_bytes = options_.max_segment_bytes, .segment_objects = SIZE_MAX})) {
    for (size_t& object : plan.objects) object = objects[object];
    batch->plans.push_back(std::move(plan));
  }
}

std::vector<std::string> Placer::TakePrefix(const Batch& batch, std::vector<std::string>* unneeded) const {
  std::vector<std::string> urls;
  std::set<std::string> kept_paths;
  bool in_prefix = true;
  for (const auto& located : batch.located) {
    in_prefix = in_prefix && located.has_value();
    if (!located.has_value()) continue;
    const Placement& placement = located->placement;
    const std::string path = Join(Join(WorkerPath(located->directory), BatchName(located->batch)), placement.name);
    const std::string url = FormatUrl(path, placement.offset, placement.object_bytes);
    if (in_prefix) {
      kept_paths.insert(path);
      urls.push_back(url);
    } else if (!kept_paths.contains(path)) {
      // Ray takes only a prefix as spilled. (A fused file that also holds objects of the prefix stays.)
      unneeded->push_back(url);
    }
  }
  return urls;
}

absl::StatusOr<std::vector<std::string>> Placer::Spill(std::span<const ObjectToSpill> objects,
                                                       std::deque<CachedRange>* still_cached,
                                                       std::vector<std::string>* unneeded) {
  Batch batch;
  batch.objects = objects;
  batch.still_cached = still_cached;
  batch.unneeded = unneeded;
  batch.number = next_batch_++;
  batch.located.resize(objects.size());
  std::vector<size_t> all(objects.size());
  std::iota(all.begin(), all.end(), 0);
  Plan(&batch, all);
  while (!batch.plans.empty()) {
    while (!batch.plans.empty()) {
      const SegmentPlan plan = std::move(batch.plans.front());
      batch.plans.pop_front();
      PlaceSegment(&batch, plan);
    }
    Publish(&batch);
  }
  std::vector<std::string> urls = TakePrefix(batch, unneeded);
  if (urls.empty() && !objects.empty()) return absl::ResourceExhaustedError(batch.no_room);
  return urls;
}

bool RemoveTemporaryBatch(FileSystem* fs, const std::string& path) {
  if (const auto files = fs->List(path); files.ok()) {
    for (const DirectoryEntry& file : *files) fs->Unlink(Join(path, file.name)).IgnoreError();
  }
  const absl::Status removed = fs->RemoveDirectory(path);
  return removed.ok() || absl::IsNotFound(removed);
}

}  // namespace mantaray::spill
