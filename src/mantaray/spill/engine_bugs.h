// Bugs that the explorer must find, planted at the edges of an engine: in the file system, the host and the options
// that it is handed. The engine itself has no switch for them. For tests.

#ifndef MANTARAY_SPILL_ENGINE_BUGS_H_
#define MANTARAY_SPILL_ENGINE_BUGS_H_

#include <array>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "mantaray/spill/faulty_file_system.h"
#include "mantaray/spill/host.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {

enum class Bug {
  kNone,
  kReaderTakesNoLock,
  kPunchIgnoresReaders,
  kNoGraceTime,
  kPunchTooLong,
  kFailedPunchForgotten,
  kWritebackErrorSwallowed,
  kFailedUnlinkForgotten,
  kIoErrorIsLoss,
  kIoErrorIsDamage,
  kDeadWorkersNeverSwept,
  kLivingWorkersSwept,
  kShortWriteAccepted,
  kUnmountedDiskIsLoss,
  kRebuiltObjectCutToOldSize,
  kFirstCopiesStay,
  kScrubsFindNothing,
  kDirectoryGoesWithContents,
  kDamagedCopyStays,
  kBatchesCollide,
  kFenceIgnoresReaders,
  kRayletNotLookedAt,
};

struct SeededBug {
  Bug bug;
  absl::string_view name;
  absl::string_view sign;  // words of the violation that is this bug's own damage
  absl::string_view summary;
};

inline constexpr std::array<SeededBug, 21> kSeededBugs = {{
    {Bug::kReaderTakesNoLock, "reader-takes-no-lock", "that was opened whole",
     "readers do not lock the range that they read"},
    {Bug::kPunchIgnoresReaders, "punch-ignores-readers", "that was opened whole",
     "ranges are punched although a reader holds them"},
    {Bug::kNoGraceTime, "no-grace-time", "within the grace time",
     "blocks are punched at once, under readers that cannot lock"},
    {Bug::kPunchTooLong, "punch-too-long", "DATA_LOSS", "a punch takes one block too many"},
    {Bug::kFailedPunchForgotten, "failed-punch-forgotten", "of live objects", "a punch that failed is not tried again"},
    {Bug::kWritebackErrorSwallowed, "writeback-error-swallowed", "DATA_LOSS",
     "bytes that the disk refused are evicted"},
    {Bug::kFailedUnlinkForgotten, "failed-unlink-forgotten", "that no object needs",
     "a link that could not be removed is forgotten"},
    {Bug::kIoErrorIsLoss, "io-error-is-loss", "NOT_FOUND", "a file that cannot be opened now counts as lost"},
    {Bug::kIoErrorIsDamage, "io-error-is-damage", "DATA_LOSS", "a read that fails now counts as damage"},
    {Bug::kDeadWorkersNeverSwept, "dead-workers-never-swept", "that no object needs",
     "every worker counts as alive for ever"},
    {Bug::kLivingWorkersSwept, "living-workers-swept", "NOT_FOUND", "a worker that cannot be looked at counts as dead"},
    {Bug::kShortWriteAccepted, "short-write-accepted", "DATA_LOSS", "a write that put down a part counts as done"},
    {Bug::kUnmountedDiskIsLoss, "unmounted-disk-is-loss", "NOT_FOUND", "objects on a disk that is away count as lost"},
    {Bug::kRebuiltObjectCutToOldSize, "rebuilt-object-cut-to-old-size", "DATA_LOSS",
     "a rebuilt object keeps the old one's size"},
    {Bug::kFirstCopiesStay, "first-copies-stay", "that no object needs",
     "what a dead worker spilled and another spilled again stays"},
    {Bug::kScrubsFindNothing, "scrubs-find-nothing", "of live objects",
     "punches that a dead worker had pending are never done"},
    {Bug::kDirectoryGoesWithContents, "directory-goes-with-contents", "NOT_FOUND",
     "a directory is removed with what is in it"},
    {Bug::kDamagedCopyStays, "damaged-copy-stays", kDamagedSuffix, "a copy that was set aside is never removed"},
    {Bug::kBatchesCollide, "batches-collide", "NOT_FOUND", "a batch is published over another one"},
    {Bug::kFenceIgnoresReaders, "fence-ignores-readers", "within the grace time",
     "a file counts as fenced off although somebody has it open"},
    {Bug::kRayletNotLookedAt, "raylet-not-looked-at", "after the grace time",
     "what the raylet has open counts as closed"},
}};

// What stands between one engine and its file system.
class BuggyFileSystem : public FaultyFileSystem {
 public:
  BuggyFileSystem(FileSystem* real, Bug bug) : FaultyFileSystem(real), bug_(bug) {}

  absl::Status RemoveDirectory(const std::string& path) override {
    if (bug_ == Bug::kDirectoryGoesWithContents) {
      if (const auto entries = FaultyFileSystem::List(path); entries.ok()) {
        for (const DirectoryEntry& entry : *entries) FaultyFileSystem::Unlink(Join(path, entry.name)).IgnoreError();
      }
    }
    return FaultyFileSystem::RemoveDirectory(path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (bug_ == Bug::kBatchesCollide && ParseBatchName(FileOf(to))) {
      if (const auto old = FaultyFileSystem::List(DirectoryOf(to)); old.ok()) {
        for (const DirectoryEntry& entry : *old) RemoveAll(Join(DirectoryOf(to), entry.name), FileOf(from));
      }
    }
    return FaultyFileSystem::Rename(from, to);
  }
  absl::Status Unlink(const std::string& path) override {
    if (bug_ == Bug::kDamagedCopyStays && absl::EndsWith(path, kDamagedSuffix)) return absl::NotFoundError(path);
    const absl::Status status = FaultyFileSystem::Unlink(path);
    return bug_ == Bug::kFailedUnlinkForgotten ? absl::OkStatus() : status;
  }
  absl::StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override {
    auto entries = FaultyFileSystem::List(path);
    const bool is_batch = ParseBatchName(FileOf(path)).has_value();
    if (!entries.ok()) return entries;
    if (bug_ == Bug::kScrubsFindNothing && is_batch) entries->clear();
    if (bug_ == Bug::kFirstCopiesStay && is_batch && !absl::StrContains(path, own_name)) {
      // The segments are still there to be scrubbed, under names that tell of no object.
      for (DirectoryEntry& entry : *entries) entry.name[0] = 'z';
    }
    return entries;
  }
  absl::StatusOr<SpaceInfo> Space(const std::string& path) override {
    auto space = FaultyFileSystem::Space(path);
    if (bug_ == Bug::kUnmountedDiskIsLoss && !space.ok()) return SpaceInfo{.device = device_of(path)};
    return space;
  }
  absl::Status LockRange(int fd, uint64_t offset, uint64_t size_bytes, bool exclusive) override {
    if (bug_ == Bug::kReaderTakesNoLock && !exclusive) return absl::OkStatus();
    if (bug_ == Bug::kPunchIgnoresReaders && exclusive) return absl::OkStatus();
    return FaultyFileSystem::LockRange(fd, offset, size_bytes, exclusive);
  }
  absl::Status Fence(int fd) override {
    const absl::Status status = FaultyFileSystem::Fence(fd);
    return bug_ == Bug::kFenceIgnoresReaders ? absl::OkStatus() : status;
  }
  absl::StatusOr<OwnedFile> Open(const std::string& path, bool writable) override {
    auto file = FaultyFileSystem::Open(path, writable);
    if (bug_ == Bug::kIoErrorIsLoss && absl::IsUnavailable(file.status())) return absl::NotFoundError(path);
    return file;
  }
  absl::StatusOr<FileInfo> Stat(int fd) override {
    auto info = FaultyFileSystem::Stat(fd);
    if (bug_ == Bug::kRebuiltObjectCutToOldSize && info.ok() && info->link_count == 1) ++info->link_count;
    return info;
  }
  absl::Status Write(int fd, std::vector<iovec>* vectors, uint64_t offset) override {
    const absl::Status status = FaultyFileSystem::Write(fd, vectors, offset);
    return bug_ == Bug::kShortWriteAccepted ? absl::OkStatus() : status;
  }
  absl::StatusOr<uint64_t> Read(int fd, void* buffer, uint64_t size_bytes, uint64_t offset) override {
    auto count = FaultyFileSystem::Read(fd, buffer, size_bytes, offset);
    return bug_ == Bug::kIoErrorIsDamage && !count.ok() ? absl::StatusOr<uint64_t>(0) : count;
  }
  absl::Status PunchHole(int fd, uint64_t offset, uint64_t size_bytes) override {
    const uint64_t more_bytes = bug_ == Bug::kPunchTooLong ? 4096 : 0;
    const absl::Status status = FaultyFileSystem::PunchHole(fd, offset, size_bytes + more_bytes);
    return bug_ == Bug::kFailedPunchForgotten ? absl::OkStatus() : status;
  }
  absl::Status WaitWriteback(int fd, uint64_t offset, uint64_t size_bytes) override {
    const absl::Status status = FaultyFileSystem::WaitWriteback(fd, offset, size_bytes);
    return bug_ == Bug::kWritebackErrorSwallowed ? absl::OkStatus() : status;
  }

  // The worker directory of the engine, and the disk of a path.
  std::string own_name;
  std::function<uint64_t(const std::string&)> device_of;

 private:
  void RemoveAll(const std::string& directory, absl::string_view except) {
    if (FileOf(directory) == except) return;
    if (const auto entries = FaultyFileSystem::List(directory); entries.ok()) {
      for (const DirectoryEntry& entry : *entries) FaultyFileSystem::Unlink(Join(directory, entry.name)).IgnoreError();
    }
  }

  const Bug bug_;
};

// Knows which workers live, and what the raylet has open.
class BuggyHost : public Host {
 public:
  explicit BuggyHost(Bug bug) : bug_(bug) {}
  bool IsAlive(const ProcessId& process) override {
    if (bug_ == Bug::kDeadWorkersNeverSwept) return true;
    if (bug_ == Bug::kLivingWorkersSwept && ++asked_ % 4 == 0) return false;
    return !dead.contains(process.pid);
  }
  absl::StatusOr<OpenFiles> FilesOfRaylet() override {
    auto files = files_of_raylet();
    if (bug_ == Bug::kRayletNotLookedAt && files.ok()) files->clear();
    return files;
  }
  std::set<int64_t> dead;
  std::function<absl::StatusOr<OpenFiles>()> files_of_raylet;

 private:
  const Bug bug_;
  int asked_ = 0;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_ENGINE_BUGS_H_
