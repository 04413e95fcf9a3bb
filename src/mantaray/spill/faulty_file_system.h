// A FileSystem that fails on schedule, in front of a real one. For tests.
//
// Every changing operation is counted. At the chosen one it fails with the chosen status. As a crash, that operation
// and all later ones do nothing at all, as if the process had been killed there. A caller that wants to decide about
// each operation itself (reads, looks and locks included) sets `before`. Abilities can be taken away (O_TMPFILE, links,
// holes), and room limited below what the disk has. Thread-safe as far as the schedule is set before use.

#ifndef MANTARAY_SPILL_FAULTY_FILE_SYSTEM_H_
#define MANTARAY_SPILL_FAULTY_FILE_SYSTEM_H_

#include <atomic>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "mantaray/common/mutex.h"
#include "mantaray/spill/file_system.h"

namespace mantaray::spill {

class FaultyFileSystem : public FileSystem {
 public:
  enum class Operation {
    kMakeDirectory,
    kRemoveDirectory,
    kRename,
    kUnlink,
    kList,
    kSpace,
    kLockDirectory,
    kLockRange,
    kCreate,
    kOpen,
    kStat,
    kLink,
    kAllocate,
    kWrite,
    kRead,
    kPunch,
    kWriteback,
    kFence,
  };

  explicit FaultyFileSystem(FileSystem* real) : real_(real) {}

  // Fails the operation number `operation` (from 0) and, for a crash, everything after it.
  void FailAt(int64_t operation, absl::Status status, bool crash) {
    operations_ = 0;
    fail_at_ = operation;
    failure_ = std::move(status);
    crash_ = crash;
  }
  int64_t operations() const { return operations_; }
  // Whether the operation at which it crashes has been reached.
  bool crashed() const { return crash_ && fail_at_ >= 0 && operations_ > fail_at_; }

  // Called before each operation, with its path ("" for an open file). The operation fails with the status that is
  // returned and has no effect, except that a write may have put down its first half.
  std::function<absl::Status(Operation, const std::string&)> before;
  bool torn_writes = false;
  // Called when a write-back fails, so that the file system can lose the pages.
  std::function<void(int fd, uint64_t offset, uint64_t size_bytes)> on_writeback_failure;
  bool unnamed_files = true;
  bool links = true;
  bool holes = true;
  bool unbuffered = true;
  std::optional<uint64_t> link_max;
  // Free bytes to report, by path prefix.
  std::map<std::string, uint64_t> free_bytes;
  // Paths below which everything is gone.
  std::string vanished;
  // Files below this prefix cannot be given blocks.
  std::string full;
  // Called before a new file is made, with its path or directory.
  std::function<void(const std::string&)> before_file;
  // Files can be locked in part, and fenced off.
  bool range_locks = true;
  bool fences = true;
  // So many of the next operations that change nothing (Open, Stat, Read, List) fail with this status, after the first
  // `passing_after` of them.
  std::atomic<int64_t> passing_after{0};
  std::atomic<int64_t> passing_errors{0};
  absl::Status passing = absl::UnavailableError("read: Input/output error");
  // So many of the next punches fail.
  std::atomic<int64_t> failing_punches{0};
  // The device to report for paths below a prefix: another disk is mounted there.
  std::map<std::string, uint64_t> devices;
  // So many of the next write-backs fail: the page cache has the bytes and the disk does not.
  std::atomic<int64_t> failing_writebacks{0};
  // A write puts down so many bytes at most before it is interrupted and goes on. 0: all at once.
  uint64_t short_write_bytes = 0;
  // The page cache seems empty.
  bool never_cached = false;
  std::atomic<int64_t> punches{0};
  std::atomic<int64_t> writes{0};
  std::atomic<int64_t> reads{0};
  std::atomic<int64_t> read_bytes{0};
  std::atomic<int64_t> direct_files{0};

  absl::Status MakeDirectory(const std::string& path) override {
    return Guard(Operation::kMakeDirectory, path, [&] { return real_->MakeDirectory(path); });
  }
  absl::Status RemoveDirectory(const std::string& path) override {
    return Guard(Operation::kRemoveDirectory, path, [&] { return real_->RemoveDirectory(path); });
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return Guard(Operation::kRename, from, [&] { return real_->Rename(from, to); });
  }
  absl::Status Unlink(const std::string& path) override {
    return Guard(Operation::kUnlink, path, [&] { return real_->Unlink(path); });
  }
  absl::StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override {
    if (Vanished(path)) return absl::NotFoundError(path);
    if (absl::Status status = Passing(Operation::kList, path); !status.ok()) return status;
    return real_->List(path);
  }
  absl::StatusOr<SpaceInfo> Space(const std::string& path) override {
    if (Vanished(path)) return absl::NotFoundError("statvfs " + path + ": No such file or directory");
    if (absl::Status status = Before(Operation::kSpace, path); !status.ok()) return status;
    absl::StatusOr<SpaceInfo> space = real_->Space(path);
    if (space.ok()) {
      for (const auto& [prefix, bytes] : free_bytes) {
        if (absl::StartsWith(path, prefix)) space->free_bytes = bytes;
      }
      for (const auto& [prefix, device] : devices) {
        if (absl::StartsWith(path, prefix)) space->device = device;
      }
      if (link_max) space->link_max = *link_max;
    }
    return space;
  }
  absl::StatusOr<OwnedFile> LockDirectory(const std::string& path) override {
    if (Vanished(path)) return absl::NotFoundError(path);
    if (absl::Status status = Before(Operation::kLockDirectory, path); !status.ok()) return status;
    return real_->LockDirectory(path);
  }
  absl::Status LockRange(int fd, uint64_t offset, uint64_t size_bytes, bool exclusive) override {
    if (!range_locks) return absl::InvalidArgumentError("no range locks");
    if (absl::Status status = Before(Operation::kLockRange, ""); !status.ok()) return status;
    return real_->LockRange(fd, offset, size_bytes, exclusive);
  }
  void UnlockRange(int fd, uint64_t offset, uint64_t size_bytes) override {
    real_->UnlockRange(fd, offset, size_bytes);
  }
  absl::Status Fence(int fd) override {
    if (!fences) return absl::InvalidArgumentError("no leases");
    if (absl::Status status = Before(Operation::kFence, ""); !status.ok()) return status;
    return real_->Fence(fd);
  }
  void Unfence(int fd) override { real_->Unfence(fd); }
  absl::StatusOr<OwnedFile> OpenUnnamed(const std::string& directory) override {
    if (!unnamed_files) return absl::UnimplementedError("no O_TMPFILE");
    if (before_file) before_file(directory);
    return Remember(directory, GuardFile(directory, [&] { return real_->OpenUnnamed(directory); }));
  }
  absl::StatusOr<OwnedFile> Create(const std::string& path) override {
    if (before_file) before_file(path);
    return Remember(path, GuardFile(path, [&] { return real_->Create(path); }));
  }
  absl::StatusOr<OwnedFile> Open(const std::string& path, bool writable) override {
    if (Vanished(path)) return absl::NotFoundError(path);
    if (absl::Status status = Passing(Operation::kOpen, path); !status.ok()) return status;
    return real_->Open(path, writable);
  }
  void Close(int fd) override { real_->Close(fd); }
  absl::StatusOr<FileInfo> Stat(int fd) override {
    if (absl::Status status = Passing(Operation::kStat, ""); !status.ok()) return status;
    return real_->Stat(fd);
  }
  absl::Status Link(int fd, const std::string& path) override {
    if (!links) return absl::UnimplementedError("no links");
    return Guard(Operation::kLink, path, [&] { return real_->Link(fd, path); });
  }
  absl::Status Allocate(int fd, uint64_t size_bytes) override {
    if (IsFull(fd)) return absl::ResourceExhaustedError("fallocate: No space left on device");
    return Guard(Operation::kAllocate, "", [&] { return real_->Allocate(fd, size_bytes); });
  }
  absl::Status Write(int fd, std::vector<iovec>* vectors, uint64_t offset) override {
    const absl::Status status = Count(Operation::kWrite, "");
    if (status.ok()) return WriteInPieces(fd, vectors, offset);
    if (torn_writes && !vectors->empty()) {
      std::vector<iovec> half{{vectors->front().iov_base, vectors->front().iov_len / 2}};
      real_->Write(fd, &half, offset).IgnoreError();
    }
    return status;
  }
  absl::StatusOr<uint64_t> Read(int fd, void* buffer, uint64_t size_bytes, uint64_t offset) override {
    ++reads;
    read_bytes += static_cast<int64_t>(size_bytes);
    if (absl::Status status = Passing(Operation::kRead, ""); !status.ok()) return status;
    return real_->Read(fd, buffer, size_bytes, offset);
  }
  absl::Status PunchHole(int fd, uint64_t offset, uint64_t size_bytes) override {
    if (!holes) return absl::UnimplementedError("no holes");
    ++punches;
    if (failing_punches > 0) {
      --failing_punches;
      return absl::UnavailableError("punch hole: Input/output error");
    }
    return Guard(Operation::kPunch, "", [&] { return real_->PunchHole(fd, offset, size_bytes); });
  }
  absl::Status SetDirect(int fd) override {
    if (!unbuffered) return absl::UnimplementedError("no O_DIRECT");
    ++direct_files;
    return real_->SetDirect(fd);
  }
  bool IsCached(int fd, uint64_t offset) override { return never_cached ? false : real_->IsCached(fd, offset); }
  uint64_t KernelReadAheadBytes(uint64_t device) override { return real_->KernelReadAheadBytes(device); }
  char* MapBuffer(uint64_t size_bytes) override { return real_->MapBuffer(size_bytes); }
  void UnmapBuffer(char* buffer, uint64_t size_bytes) override { real_->UnmapBuffer(buffer, size_bytes); }
  void StartWriteback(int fd, uint64_t offset, uint64_t size_bytes) override {
    real_->StartWriteback(fd, offset, size_bytes);
  }
  absl::Status WaitWriteback(int fd, uint64_t offset, uint64_t size_bytes) override {
    absl::Status status = Before(Operation::kWriteback, "");
    if (failing_writebacks > 0) {
      --failing_writebacks;
      status = absl::UnavailableError("write back: Input/output error");
    }
    if (status.ok()) return real_->WaitWriteback(fd, offset, size_bytes);
    if (on_writeback_failure) on_writeback_failure(fd, offset, size_bytes);
    return status;
  }
  void DropCache(int fd, uint64_t offset, uint64_t size_bytes) override { real_->DropCache(fd, offset, size_bytes); }
  void ReadAhead(int fd, uint64_t offset, uint64_t size_bytes) override { real_->ReadAhead(fd, offset, size_bytes); }

 private:
  absl::Status Before(Operation operation, const std::string& path) {
    return before ? before(operation, path) : absl::OkStatus();
  }
  absl::Status Passing(Operation operation, const std::string& path) {
    if (absl::Status status = Before(operation, path); !status.ok()) return status;
    if (passing_errors <= 0 || passing_after-- > 0) return absl::OkStatus();
    --passing_errors;
    return passing;
  }
  absl::Status WriteInPieces(int fd, std::vector<iovec>* vectors, uint64_t offset) {
    ++writes;
    if (short_write_bytes == 0) return real_->Write(fd, vectors, offset);
    for (const iovec& vector : *vectors) {
      for (uint64_t done = 0; done < vector.iov_len; done += short_write_bytes) {
        const uint64_t size_bytes = std::min<uint64_t>(short_write_bytes, vector.iov_len - done);
        std::vector<iovec> piece{{static_cast<char*>(vector.iov_base) + done, size_bytes}};
        if (absl::Status status = real_->Write(fd, &piece, offset + done); !status.ok()) return status;
      }
      offset += vector.iov_len;
    }
    return absl::OkStatus();
  }
  bool Vanished(const std::string& path) const { return !vanished.empty() && absl::StartsWith(path, vanished); }
  bool IsFull(int fd) {
    MutexLock lock(&mutex_);
    const auto found = where_.find(fd);
    return !full.empty() && found != where_.end() && absl::StartsWith(found->second, full);
  }

  // OK when the operation may go ahead.
  absl::Status Count(Operation operation, const std::string& path) {
    if (Vanished(path)) return absl::NotFoundError(path);
    if (absl::Status status = Before(operation, path); !status.ok()) return status;
    const int64_t number = operations_++;
    if (fail_at_ >= 0 && (number == fail_at_ || (crash_ && number > fail_at_))) return failure_;
    return absl::OkStatus();
  }

  template <typename Call>
  absl::Status Guard(Operation operation, const std::string& path, Call call) {
    const absl::Status status = Count(operation, path);
    return status.ok() ? call() : status;
  }
  template <typename Call>
  absl::StatusOr<OwnedFile> GuardFile(const std::string& path, Call call) {
    const absl::Status status = Count(Operation::kCreate, path);
    if (!status.ok()) return status;
    return call();
  }
  absl::StatusOr<OwnedFile> Remember(const std::string& path, absl::StatusOr<OwnedFile> file) {
    MutexLock lock(&mutex_);
    if (file.ok()) where_[file->fd()] = path;
    return file;
  }

  FileSystem* const real_;
  std::atomic<int64_t> operations_{0};
  int64_t fail_at_ = -1;
  absl::Status failure_;
  bool crash_ = false;
  Mutex mutex_;
  std::map<int, std::string> where_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_FAULTY_FILE_SYSTEM_H_
