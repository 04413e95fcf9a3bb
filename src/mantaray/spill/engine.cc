// What the engine does with its parts.

#include "mantaray/spill/engine.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {
namespace {

constexpr int64_t kSweepPeriodMs = 2000;
constexpr int64_t kTrimPeriodMs = 5000;
constexpr int64_t kRetryPeriodMs = 1000;
// Written bytes whose pages are still to be given back, before a spill waits for the disk: a burst of a few batches
// runs at the speed of memory, and a worker never holds more of the page cache than this and one segment.
constexpr uint64_t kMaxCachedBytes = uint64_t{256} << 20;
constexpr size_t kMaxCachedRanges = 256;  // each keeps a file open
constexpr int kMaxWritebackFailures = 60;
constexpr size_t kMaxDeferredDeletes = size_t{1} << 20;
constexpr uint64_t kMaxAddressBytes = 64 << 10;

PlacerOptions PlacerOptionsOf(const EngineOptions& options) {
  return {options.self, options.max_segment_bytes, options.max_fused_bytes, options.cache_mode};
}

}  // namespace

Engine::Engine(FileSystem* fs, const Clock* clock, Host* host, Parallel* parallel, EngineOptions options)
    : fs_(fs),
      clock_(clock),
      parallel_(parallel),
      options_(std::move(options)),
      reclaimer_(fs, clock, host, options_.reclaimer),
      buffers_(fs),
      windows_(fs, clock, parallel, &buffers_, options_.read_ahead_bytes),
      large_reads_(fs, clock, parallel, &buffers_),
      book_(fs, options_.state_directory, options_.self),
      journal_(fs, options_.state_directory, options_.self),
      directories_(fs, options_.node_directories, options_.devices, options_.reserve_bytes),
      placer_(fs, parallel, &buffers_, &directories_, &book_, PlacerOptionsOf(options_)),
      sweeper_(fs, clock, host, &reclaimer_, &journal_, &directories_, options_.self),
      read_ahead_(fs, options_.read_ahead_bytes) {}

absl::StatusOr<std::vector<std::string>> Engine::Spill(std::span<const ObjectToSpill> objects) {
  const auto cached_bytes = [this] {
    MutexLock lock(&small_mutex_);
    return still_cached_bytes_;
  };
  while (cached_bytes() > kMaxCachedBytes && SettleOldest()) {
  }
  std::deque<CachedRange> cached;
  absl::StatusOr<std::vector<std::string>> urls = std::vector<std::string>();
  std::vector<std::string> unneeded;
  std::vector<std::string> first_copies;
  {
    MutexLock lock(&mutex_);
    sweeper_.Sweep();
    urls = placer_.Spill(objects, &cached, &unneeded);
    if (urls.ok()) sweeper_.Spilled(objects, *urls);
    first_copies = sweeper_.TakeUnneeded();
  }
  DropUnneeded(unneeded);
  DropFirstCopies(first_copies);
  MutexLock lock(&small_mutex_);
  for (CachedRange& range : cached) {
    if (range.drop) still_cached_bytes_ += range.size_bytes;
    still_cached_.push_back(std::move(range));
  }
  if (urls.ok()) {
    stats_.spilled_objects += urls->size();
    for (const ObjectToSpill& object : objects.first(urls->size())) {
      stats_.spilled_bytes += object.lengths().object_bytes();
    }
  } else {
    ++stats_.refused_spills;
  }
  return urls;
}

absl::StatusOr<OwnedFile> Engine::OpenFile(const ParsedUrl& url) {
  absl::StatusOr<OwnedFile> file = fs_->Open(url.path, /*writable=*/false);
  if (absl::IsNotFound(file.status())) {
    MutexLock lock(&mutex_);
    if (const auto directory = directories_.Find(url.path)) {
      if (absl::Status status = directories_.CheckPresent(*directory); !status.ok()) return status;
    }
  }
  // Keeps the blocks from being punched out as long as the file is open. A file system without such locks leaves it to
  // the grace time.
  if (file.ok()) {
    fs_->LockRange(file->fd(), url.offset, RecordBytes(url.object_bytes), /*exclusive=*/false).IgnoreError();
  }
  return file;
}

absl::StatusOr<ObjectReader> Engine::Open(const std::string& url, const ObjectId& object_id) {
  const absl::StatusOr<ParsedUrl> parsed = ParseUrl(url);
  if (!parsed.ok()) return parsed.status();
  if (parsed->object_bytes > kMaxObjectBytes) return absl::InvalidArgumentError(absl::StrCat("bad size in ", url));
  absl::StatusOr<OwnedFile> file = OpenFile(*parsed);
  if (absl::IsNotFound(file.status()) && PutBack(*parsed, object_id)) file = OpenFile(*parsed);
  absl::StatusOr<ObjectReader> reader = absl::UnknownError("not opened");
  if (!file.ok()) reader = file.status();
  uint64_t inode = 0;
  if (file.ok()) {
    const absl::StatusOr<FileInfo> info = fs_->Stat(file->fd());
    inode = info.ok() ? info->inode : 0;
    reader = ObjectReader::Open(fs_, *parsed, SourceOf(*parsed, *std::move(file), inode), object_id);
  }
  if (absl::IsDataLoss(reader.status())) {
    absl::StatusOr<ObjectReader> replaced = OpenReplaced(*parsed, object_id);
    if (replaced.ok() || absl::IsUnavailable(replaced.status())) {
      reader = std::move(replaced);
    } else if (!SetAside(url, inode)) {
      // Deleted, which the next attempt will find, or put back by another worker.
      reader = absl::UnavailableError(absl::StrCat(parsed->path, " changed while it was read"));
    }
  }
  MutexLock lock(&small_mutex_);
  if (reader.ok()) {
    ++stats_.opened_objects;
    stats_.opened_bytes += parsed->object_bytes;
  } else if (absl::IsNotFound(reader.status())) {
    ++stats_.lost_objects;
  } else if (!absl::IsDataLoss(reader.status())) {
    ++stats_.io_errors;
  }
  return reader;
}

// An object that was rebuilt with another size than the URL says: it lies alone in its file, as Replace wrote it.
absl::StatusOr<ObjectReader> Engine::OpenReplaced(const ParsedUrl& url, const ObjectId& object_id) {
  absl::StatusOr<OwnedFile> file = OpenFile(url);
  if (!file.ok()) return file.status();
  const absl::StatusOr<uint64_t> object_bytes = ActualObjectBytes(fs_, file->fd(), url.offset);
  if (!object_bytes.ok()) return object_bytes.status();
  ParsedUrl actual = url;
  actual.object_bytes = *object_bytes;
  ObjectSource source;
  source.file = *std::move(file);
  if (const absl::StatusOr<FileInfo> info = fs_->Stat(source.file.fd()); info.ok()) source.inode = info->inode;
  source.large_reads = &large_reads_;
  return ObjectReader::Open(fs_, actual, std::move(source), object_id);
}

void Engine::KeepInCache(bool keep) {
  MutexLock lock(&mutex_);
  placer_.set_cache_mode(keep ? CacheMode::kKeep : options_.cache_mode);
}

ObjectSource Engine::SourceOf(const ParsedUrl& url, OwnedFile file, uint64_t inode) {
  ObjectSource source;
  source.inode = inode;
  source.file = std::move(file);
  source.large_reads = &large_reads_;
  if (url.offset % kBlockBytes != 0) return source;  // the reader says it
  const uint64_t record_bytes = RecordBytes(url.object_bytes);
  // Looked for in the middle: the page cache may hold the header alone, from an earlier unbuffered read.
  source.cached = fs_->IsCached(source.file.fd(), url.offset + url.object_bytes / 2);
  if (source.cached) return source;
  const bool use_page_cache = options_.cache_mode == CacheMode::kKeep;
  if (!use_page_cache && record_bytes > WindowCache::kMaxRecordBytes) {
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

bool Engine::SetAside(const std::string& url, uint64_t inode) {
  const absl::StatusOr<ParsedUrl> parsed = ParseUrl(url);
  if (!parsed.ok()) return true;
  const std::string damaged = absl::StrCat(parsed->path, kDamagedSuffix);
  bool there = IsFile(parsed->path, inode);
  if (there && ParseLinkName(FileOf(parsed->path))) {
    // Fails when another worker was faster, which is as good. A fused file holds other objects too, and stays.
    if (fs_->Rename(parsed->path, damaged).ok() && !IsFile(damaged, inode)) {
      // Another worker has put a rebuilt copy there just now. If it cannot be put back, the next reader does it.
      fs_->Rename(damaged, parsed->path).IgnoreError();
      there = false;
    }
  }
  there = there || IsFile(damaged, inode);
  MutexLock lock(&small_mutex_);
  if (there) ++stats_.damaged_objects;
  return there;
}

bool Engine::PutBack(const ParsedUrl& url, const ObjectId& object_id) {
  ParsedUrl aside = url;
  aside.path = absl::StrCat(url.path, kDamagedSuffix);
  absl::StatusOr<ObjectReader> reader = OpenReplaced(aside, object_id);
  return reader.ok() && reader->VerifyPayload().ok() && fs_->Rename(aside.path, url.path).ok();
}

bool Engine::IsFile(const std::string& path, uint64_t inode) {
  const absl::StatusOr<OwnedFile> file = fs_->Open(path, /*writable=*/false);
  if (!file.ok()) return false;
  const absl::StatusOr<FileInfo> info = fs_->Stat(file->fd());
  return info.ok() && info->inode == inode;
}

absl::Status Engine::MoveInto(const std::string& from, const std::string& path, size_t directory) {
  const std::string batch = DirectoryOf(path);
  absl::Status status;
  // The batch directory may be gone, and another worker's delete may remove it again before the file is in it.
  constexpr int kAttempts = 10;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    status = fs_->Rename(from, path);
    if (!absl::IsNotFound(status)) return status;
    if (status = directories_.Ensure(directory); !status.ok()) return status;
    for (const std::string& missing : {DirectoryOf(batch), batch}) fs_->MakeDirectory(missing).IgnoreError();
  }
  return status;
}

absl::Status Engine::Replace(const std::string& url, const ObjectToSpill& object) {
  const absl::StatusOr<ParsedUrl> parsed = ParseUrl(url);
  if (!parsed.ok()) return parsed.status();
  if (!ParseLinkName(FileOf(parsed->path))) return absl::UnimplementedError("objects are fused there");
  {
    MutexLock lock(&mutex_);
    const auto directory = directories_.Find(parsed->path);
    if (!directory) return absl::NotFoundError(absl::StrCat(parsed->path, " lies in no spill directory"));
    if (absl::Status status = directories_.CheckRoom(*directory, object.record_bytes()); !status.ok()) return status;
    const std::string scratch = Join(placer_.WorkerPath(*directory), kRepairDirectory);
    const absl::Status made = placer_.MakeInWorkerDirectory(*directory, scratch);
    if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
    const std::string temporary = Join(scratch, absl::StrCat(next_repair_++));
    absl::StatusOr<OwnedFile> file = fs_->Create(temporary);
    absl::Status status = file.status();
    SegmentWriter writer(fs_, parallel_, &buffers_, &book_, options_.cache_mode);
    if (status.ok()) status = writer.WriteAt(file->fd(), object, parsed->offset);
    if (status.ok()) status = MoveInto(temporary, parsed->path, *directory);
    // With the temporary file, if it is still there.
    placer_.RemoveFromWorkerDirectory(*directory, scratch);
    if (!status.ok()) return status;
  }
  // What had been set aside is of no use any more.
  const std::string aside = FormatUrl(absl::StrCat(parsed->path, kDamagedSuffix), parsed->offset, parsed->object_bytes);
  DropUnneeded({&aside, 1});
  MutexLock lock(&small_mutex_);
  ++stats_.repaired_objects;
  return absl::OkStatus();
}

absl::StatusOr<std::string> Engine::OwnerOf(const std::string& url) {
  const absl::StatusOr<ParsedUrl> parsed = ParseUrl(url);
  if (!parsed.ok()) return parsed.status();
  absl::StatusOr<std::string> found = book_.Find(parsed->path);
  if (found.ok()) return found;
  for (const std::string& path : {absl::StrCat(parsed->path, kDamagedSuffix), parsed->path}) {
    const absl::StatusOr<OwnedFile> file = fs_->Open(path, /*writable=*/false);
    if (!file.ok()) continue;
    std::string bytes(kLengthsBytes + kMaxAddressBytes, '\0');
    const absl::StatusOr<uint64_t> count = fs_->Read(file->fd(), bytes.data(), bytes.size(), parsed->offset);
    if (!count.ok() || *count < kLengthsBytes) continue;
    bytes.resize(*count);
    const auto lengths = PeekLengths(bytes);
    if (lengths && lengths->address_bytes > 0 && lengths->address_bytes <= bytes.size() - kLengthsBytes) {
      return bytes.substr(kLengthsBytes, lengths->address_bytes);
    }
  }
  return found;
}

absl::Status Engine::DeleteOne(const std::string& url) {
  const absl::StatusOr<ParsedUrl> parsed = ParseUrl(url);
  if (!parsed.ok()) return parsed.status();
  journal_.Open();  // this worker has punches to do from now on
  const absl::Status status = reclaimer_.Delete(*parsed);
  if (!absl::IsNotFound(status)) return status;
  MutexLock lock(&mutex_);
  const auto directory = directories_.Find(parsed->path);
  return directory ? directories_.CheckPresent(*directory) : absl::OkStatus();
}

// Has a delete that failed for a passing reason done later. Returns false when too many wait, or when it would be
// forgotten if this worker died.
bool Engine::Defer(const std::string& url) {
  {
    MutexLock lock(&small_mutex_);
    if (deferred_deletes_.size() >= kMaxDeferredDeletes) return false;
    // Known already when several workers take over what a dead one owed, or when Ray asks again because the journal
    // could not be written.
    if (!deferred_deletes_.insert(url).second) return journal_.Complete();
  }
  return journal_.Add(url);
}

// Deletes what the sweeper has found.
void Engine::DropFirstCopies(std::span<const std::string> urls) {
  DropUnneeded(urls);
  MutexLock lock(&mutex_);
  sweeper_.TookOver();
}

// Deletes copies that Ray does not know.
void Engine::DropUnneeded(std::span<const std::string> urls) {
  for (const std::string& url : urls) {
    if (!DeleteOne(url).ok()) Defer(url);
  }
}

absl::Status Engine::Delete(std::span<const std::string> urls) {
  absl::Status first;
  for (const std::string& url : urls) {
    const absl::Status status = DeleteOne(url);
    if (absl::IsUnavailable(status) && Defer(url)) continue;  // Ray does not ask again
    first.Update(status);
    MutexLock lock(&small_mutex_);
    if (status.ok()) ++stats_.deleted_objects;
  }
  return first;
}

void Engine::RetryDeletes(bool at_once) {
  std::set<std::string> urls;
  {
    MutexLock lock(&small_mutex_);
    if (deferred_deletes_.empty() || (clock_->NowMs() < next_delete_ms_ && !at_once)) return;
    next_delete_ms_ = clock_->NowMs() + kRetryPeriodMs;
    urls.swap(deferred_deletes_);
  }
  std::set<std::string> away;  // directories of workers: what else lies there would find the same
  for (const std::string& url : urls) {
    const std::string worker = DirectoryOf(DirectoryOf(url));
    const absl::Status status = away.contains(worker) ? absl::UnavailableError("away") : DeleteOne(url);
    if (absl::IsUnavailable(status)) away.insert(worker);
    MutexLock lock(&small_mutex_);
    if (status.ok()) ++stats_.deleted_objects;
    if (!status.ok()) deferred_deletes_.insert(url);
  }
  // Under the lock, or what another thread defers just now would be cleared with what is done.
  MutexLock lock(&small_mutex_);
  if (deferred_deletes_.empty()) {
    journal_.Clear();
  } else {
    journal_.Complete();
  }
}

void Engine::Tick() {
  std::vector<std::string> first_copies;
  {
    MutexLock lock(&mutex_);
    const int64_t now_ms = clock_->NowMs();
    if (now_ms >= next_sweep_ms_) {
      next_sweep_ms_ = now_ms + kSweepPeriodMs;
      sweeper_.Sweep();
      placer_.Tick();
    }
    first_copies = sweeper_.TakeUnneeded();
    if (now_ms >= next_trim_ms_) {
      next_trim_ms_ = now_ms + kTrimPeriodMs;
      buffers_.Trim();
    }
  }
  DropFirstCopies(first_copies);
  windows_.Tick();
  large_reads_.Tick();
  const bool may_settle = [this] {
    MutexLock lock(&small_mutex_);
    return clock_->NowMs() >= next_settle_ms_;
  }();
  while (may_settle && SettleOldest()) {
  }
  RetryDeletes(/*at_once=*/false);
  reclaimer_.Tick();
}

// Makes sure that the disk has the range that was written longest ago. Returns false when there is none, or when the
// disk refused and is to be left alone for a while.
bool Engine::SettleOldest() {
  CachedRange range;
  {
    MutexLock lock(&small_mutex_);
    if (still_cached_.empty()) return false;
    range = std::move(still_cached_.front());
    still_cached_.pop_front();
    if (range.drop) still_cached_bytes_ -= range.size_bytes;
  }
  if (Settle(&range)) return true;
  MutexLock lock(&small_mutex_);
  next_settle_ms_ = clock_->NowMs() + kRetryPeriodMs;
  if (still_cached_.size() < kMaxCachedRanges) {
    if (range.drop) still_cached_bytes_ += range.size_bytes;
    still_cached_.push_back(std::move(range));
  }
  return false;
}

bool Engine::Settle(CachedRange* range) {
  if (range->clean && !WriteAgain(*range) && ++range->failures <= kMaxWritebackFailures) return false;
  range->clean = false;
  const absl::Status status = fs_->WaitWriteback(range->file.fd(), range->offset, range->size_bytes);
  if (status.ok()) {
    if (range->drop) fs_->DropCache(range->file.fd(), range->offset, range->size_bytes);
    return true;
  }
  {
    MutexLock lock(&small_mutex_);
    ++stats_.writeback_errors;
  }
  // The page cache alone holds these bytes now, and as clean ones, which it may let go. Given up in the end: then what
  // it loses is found by its checksum.
  range->clean = !WriteAgain(*range);
  return ++range->failures > kMaxWritebackFailures;
}

// Writes what the page cache holds over itself, so that it is dirty again. Holes that were punched in it hold blocks
// again then, so they are looked for.
bool Engine::WriteAgain(const CachedRange& range) {
  journal_.Open();
  const absl::Cleanup scrub = [&] { reclaimer_.QueueScrub(range.batch_directory); };
  const IoBuffers::Lease buffer = buffers_.Take();
  if (buffer.data() == nullptr) return false;
  for (uint64_t done = 0; done < range.size_bytes;) {
    const uint64_t wanted = std::min<uint64_t>(IoBuffers::kBufferBytes, range.size_bytes - done);
    const absl::StatusOr<uint64_t> count = fs_->Read(range.file.fd(), buffer.data(), wanted, range.offset + done);
    if (!count.ok() || *count == 0) return false;
    std::vector<iovec> vectors{{buffer.data(), *count}};
    if (!fs_->Write(range.file.fd(), &vectors, range.offset + done).ok()) return false;
    done += *count;
  }
  return true;
}

int64_t Engine::CloseDelayMs() {
  reclaimer_.Tick();
  return std::max<int64_t>(0, reclaimer_.LastGraceEndMs() - clock_->NowMs());
}

void Engine::Close() {
  Tick();
  // What waits for another attempt has it now: later there is nobody to make it.
  while (SettleOldest()) {
  }
  RetryDeletes(/*at_once=*/true);
  {
    MutexLock lock(&mutex_);
    placer_.Tick();
  }
  reclaimer_.Flush();
  // What is left is found by whoever finds the journal of a worker that has ended.
  MutexLock lock(&small_mutex_);
  if (deferred_deletes_.empty() && reclaimer_.idle()) journal_.Close();
}

std::vector<std::string> Engine::Limitations() {
  MutexLock lock(&mutex_);
  std::vector<std::string> lines;
  for (size_t i = 0; i < options_.node_directories.size(); ++i) {
    const absl::StatusOr<Capabilities> capabilities = placer_.Probe(i);
    if (!capabilities.ok() || capabilities->missing.empty()) continue;  // full or vanished: Spill will say so
    lines.push_back(absl::StrCat(options_.node_directories[i], ": ", capabilities->missing));
  }
  return lines;
}

std::vector<std::string> Engine::Unusable() {
  MutexLock lock(&mutex_);
  std::vector<std::string> lines;
  for (size_t i = 0; i < options_.node_directories.size(); ++i) {
    const absl::Status status = placer_.Probe(i).status();
    if (!status.ok()) lines.push_back(absl::StrCat(options_.node_directories[i], ": ", status.message()));
  }
  return lines;
}

EngineStats Engine::Stats() {
  const ReclaimerStats reclaimer = reclaimer_.stats();
  MutexLock lock(&small_mutex_);
  EngineStats stats = stats_;
  stats.deferred_deletes = deferred_deletes_.size();
  stats.reclaimer = reclaimer;
  return stats;
}

}  // namespace mantaray::spill
