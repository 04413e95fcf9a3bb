// FileSystem on Linux system calls. Every call that a signal can interrupt is repeated.

#include "mantaray/spill/posix_file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "mantaray/common/errno_status.h"

namespace mantaray::spill {
namespace {

constexpr mode_t kDirectoryMode = 0755;
constexpr mode_t kFileMode = 0644;
constexpr uintptr_t kHugePageBytes = 2 << 20;
constexpr uint64_t kUnknownLinkMax = 127;  // what the most limited file system in use allows

std::string NameOf(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

// The path that the descriptor was opened by, for messages.
std::string PathOf(int fd) {
  std::array<char, PATH_MAX> path{};
  const ssize_t size = readlink(NameOf(fd).c_str(), path.data(), path.size());
  return size > 0 ? std::string(path.data(), static_cast<size_t>(size)) : NameOf(fd);
}

template <typename Call>
auto Repeat(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

absl::Status StatusOf(int result, absl::string_view operation, absl::string_view path) {
  return result == 0 ? absl::OkStatus() : ErrnoStatus(errno, operation, path);
}

// A failed call on a descriptor, whose path is looked up only then.
absl::Status FailureOf(absl::string_view operation, int fd) {
  const int error_number = errno;  // before the lookup changes it
  return ErrnoStatus(error_number, operation, PathOf(fd));
}

absl::Status StatusOf(int result, absl::string_view operation, int fd) {
  return result == 0 ? absl::OkStatus() : FailureOf(operation, fd);
}

FileInfo InfoOf(const struct stat& data) {
  constexpr uint64_t kStatBlock = 512;  // st_blocks counts these, whatever the file system's own block is
  return FileInfo{.device = data.st_dev,
                  .inode = data.st_ino,
                  .link_count = data.st_nlink,
                  .size_bytes = static_cast<uint64_t>(data.st_size),
                  .allocated_bytes = static_cast<uint64_t>(data.st_blocks) * kStatBlock};
}

// Takes `count` written bytes off the front of the vectors from `*first` on.
void Consume(std::vector<iovec>* vectors, size_t* first, size_t count) {
  while (*first < vectors->size() && count >= (*vectors)[*first].iov_len) {
    count -= (*vectors)[*first].iov_len;
    ++*first;
  }
  if (count > 0) {
    iovec& partial = (*vectors)[*first];
    partial.iov_base = static_cast<char*>(partial.iov_base) + count;
    partial.iov_len -= count;
  }
}

}  // namespace

absl::Status PosixFileSystem::MakeDirectory(const std::string& path) {
  return StatusOf(mkdir(path.c_str(), kDirectoryMode), "mkdir", path);
}

absl::Status PosixFileSystem::RemoveDirectory(const std::string& path) {
  return StatusOf(rmdir(path.c_str()), "rmdir", path);
}

absl::Status PosixFileSystem::Rename(const std::string& from, const std::string& to) {
  return StatusOf(rename(from.c_str(), to.c_str()), "rename", from);
}

absl::Status PosixFileSystem::Unlink(const std::string& path) { return StatusOf(unlink(path.c_str()), "unlink", path); }

absl::StatusOr<std::vector<DirectoryEntry>> PosixFileSystem::List(const std::string& path) {
  const auto close_directory = [](DIR* directory) { closedir(directory); };
  const std::unique_ptr<DIR, decltype(close_directory)> directory(opendir(path.c_str()), close_directory);
  if (directory == nullptr) return ErrnoStatus(errno, "opendir", path);
  std::vector<DirectoryEntry> entries;
  errno = 0;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    bool is_directory = entry->d_type == DT_DIR;
    if (entry->d_type == DT_UNKNOWN) {
      struct stat data {};
      is_directory = stat(absl::StrCat(path, "/", name).c_str(), &data) == 0 && S_ISDIR(data.st_mode);
    }
    entries.push_back({name, entry->d_ino, is_directory});
    errno = 0;
  }
  if (errno != 0) return ErrnoStatus(errno, "readdir", path);
  return entries;
}

absl::StatusOr<SpaceInfo> PosixFileSystem::Space(const std::string& path) {
  struct statvfs data {};
  if (Repeat([&] { return statvfs(path.c_str(), &data); }) != 0) return ErrnoStatus(errno, "statvfs", path);
  const int64_t link_max = pathconf(path.c_str(), _PC_LINK_MAX);
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "stat", path);
  return SpaceInfo{.free_bytes = static_cast<uint64_t>(data.f_bavail) * data.f_frsize,
                   .total_bytes = static_cast<uint64_t>(data.f_blocks) * data.f_frsize,
                   .link_max = link_max > 0 ? static_cast<uint64_t>(link_max) : kUnknownLinkMax,
                   .device = info.st_dev};
}

absl::StatusOr<OwnedFile> PosixFileSystem::LockDirectory(const std::string& path) {
  const int fd = Repeat([&] { return open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  OwnedFile lock(this, fd);
  if (Repeat([&] { return flock(fd, LOCK_EX); }) != 0) return ErrnoStatus(errno, "flock", path);
  return lock;
}

absl::Status PosixFileSystem::LockRange(int fd, uint64_t offset, uint64_t size_bytes, bool exclusive) {
  struct flock range {};
  range.l_type = exclusive ? F_WRLCK : F_RDLCK;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(offset);
  range.l_len = static_cast<off_t>(size_bytes);
  return StatusOf(Repeat([&] { return fcntl(fd, F_OFD_SETLK, &range); }), "lock", fd);
}

void PosixFileSystem::UnlockRange(int fd, uint64_t offset, uint64_t size_bytes) {
  struct flock range {};
  range.l_type = F_UNLCK;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(offset);
  range.l_len = static_cast<off_t>(size_bytes);
  fcntl(fd, F_OFD_SETLK, &range);
}

absl::Status PosixFileSystem::Fence(int fd) {
  // The kernel signals the holder of a lease when somebody waits for it. SIGIO, its usual choice, would end the
  // process. Nobody handles SIGURG, so the kernel drops it.
  if (fcntl(fd, F_SETSIG, SIGURG) != 0) return FailureOf("set the signal of", fd);
  return StatusOf(Repeat([&] { return fcntl(fd, F_SETLEASE, F_WRLCK); }), "lease", fd);
}

void PosixFileSystem::Unfence(int fd) { fcntl(fd, F_SETLEASE, F_UNLCK); }

absl::StatusOr<OwnedFile> PosixFileSystem::OpenUnnamed(const std::string& directory) {
  const int fd = Repeat([&] { return open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kFileMode); });
  if (fd < 0) return ErrnoStatus(errno, "open O_TMPFILE in", directory);
  return OwnedFile(this, fd);
}

absl::StatusOr<OwnedFile> PosixFileSystem::Create(const std::string& path) {
  const int fd = Repeat([&] { return open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, kFileMode); });
  if (fd < 0) return ErrnoStatus(errno, "create", path);
  return OwnedFile(this, fd);
}

absl::StatusOr<OwnedFile> PosixFileSystem::Open(const std::string& path, bool writable) {
  const int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC;
  const int fd = Repeat([&] { return open(path.c_str(), flags); });
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  return OwnedFile(this, fd);
}

void PosixFileSystem::Close(int fd) { close(fd); }

absl::StatusOr<FileInfo> PosixFileSystem::Stat(int fd) {
  struct stat data {};
  if (fstat(fd, &data) != 0) return FailureOf("fstat", fd);
  return InfoOf(data);
}

absl::Status PosixFileSystem::Link(int fd, const std::string& path) {
  // AT_EMPTY_PATH would save the look-up but needs a capability that a plain user lacks.
  return StatusOf(linkat(AT_FDCWD, NameOf(fd).c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW), "link", path);
}

absl::Status PosixFileSystem::Allocate(int fd, uint64_t size_bytes) {
  return StatusOf(Repeat([&] { return fallocate(fd, 0, 0, static_cast<off_t>(size_bytes)); }), "fallocate", fd);
}

absl::Status PosixFileSystem::Write(int fd, std::vector<iovec>* vectors, uint64_t offset) {
  size_t first = 0;
  Consume(vectors, &first, 0);  // skips leading empty vectors
  while (first < vectors->size()) {
    const size_t count = std::min<size_t>(vectors->size() - first, IOV_MAX);
    const ssize_t written = Repeat(
        [&] { return pwritev(fd, vectors->data() + first, static_cast<int>(count), static_cast<off_t>(offset)); });
    if (written < 0) return FailureOf("write", fd);
    if (written == 0) return ErrnoStatus(ENOSPC, "write", PathOf(fd));
    offset += static_cast<uint64_t>(written);
    Consume(vectors, &first, static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> PosixFileSystem::Read(int fd, void* buffer, uint64_t size_bytes, uint64_t offset) {
  uint64_t done = 0;
  while (done < size_bytes) {
    const ssize_t count = Repeat([&] {
      return pread(fd, static_cast<char*>(buffer) + done, size_bytes - done, static_cast<off_t>(offset + done));
    });
    if (count < 0) return FailureOf("read", fd);
    if (count == 0) break;
    done += static_cast<uint64_t>(count);
  }
  return done;
}

absl::Status PosixFileSystem::PunchHole(int fd, uint64_t offset, uint64_t size_bytes) {
  return StatusOf(Repeat([&] {
                    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                                     static_cast<off_t>(size_bytes));
                  }),
                  "punch hole in", fd);
}

absl::Status PosixFileSystem::SetDirect(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return StatusOf(flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_DIRECT), "set O_DIRECT on", fd);
}

bool PosixFileSystem::IsCached(int fd, uint64_t offset) {
  // cachestat(2), Linux 6.5, asks without side effects; its header is newer than what this is built with.
  constexpr long kCachestat = 451;  // the same on every architecture
  const std::array<uint64_t, 2> range = {offset, 1};
  std::array<uint64_t, 5> counts{};  // pages cached, dirty, under write-back, evicted, recently evicted
  if (!lacks_cachestat_.load(std::memory_order_relaxed)) {
    if (syscall(kCachestat, fd, range.data(), counts.data(), 0) == 0) return counts[0] > 0;
    lacks_cachestat_.store(true, std::memory_order_relaxed);
  }
  // Makes the kernel read ahead there, which is for nothing when the object is then read unbuffered.
  char byte = 0;
  const iovec vector{&byte, 1};
  return preadv2(fd, &vector, 1, static_cast<off_t>(offset), RWF_NOWAIT) == 1;
}

uint64_t PosixFileSystem::KernelReadAheadBytes(uint64_t device) {
  std::ifstream file(absl::StrCat("/sys/class/bdi/", major(device), ":", minor(device), "/read_ahead_kb"));
  uint64_t kib = 0;
  return file >> kib ? kib << 10 : 0;
}

char* PosixFileSystem::MapBuffer(uint64_t size_bytes) {
  // One huge page more than wanted, so that an aligned stretch is in it; the rest is given back.
  const uint64_t mapped_bytes = size_bytes + kHugePageBytes;
  void* const mapped = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* const start = static_cast<char*>(mapped);
  const uintptr_t misaligned = reinterpret_cast<uintptr_t>(start) % kHugePageBytes;
  const uint64_t before_bytes = misaligned == 0 ? 0 : kHugePageBytes - misaligned;
  char* const buffer = start + before_bytes;
  if (before_bytes > 0) munmap(start, before_bytes);
  if (before_bytes < kHugePageBytes) munmap(buffer + size_bytes, kHugePageBytes - before_bytes);
  madvise(buffer, size_bytes, MADV_HUGEPAGE);  // where there are none, plain pages do
  return buffer;
}

void PosixFileSystem::UnmapBuffer(char* buffer, uint64_t size_bytes) { munmap(buffer, size_bytes); }

void PosixFileSystem::StartWriteback(int fd, uint64_t offset, uint64_t size_bytes) {
  sync_file_range(fd, static_cast<off_t>(offset), static_cast<off_t>(size_bytes), SYNC_FILE_RANGE_WRITE);
}

absl::Status PosixFileSystem::WaitWriteback(int fd, uint64_t offset, uint64_t size_bytes) {
  constexpr unsigned kFlags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  const int result =
      Repeat([&] { return sync_file_range(fd, static_cast<off_t>(offset), static_cast<off_t>(size_bytes), kFlags); });
  // A file system without the call keeps its pages until it writes them by itself.
  if (result != 0 && (errno == ENOSYS || errno == EINVAL || errno == ESPIPE)) return absl::OkStatus();
  return StatusOf(result, "write back", fd);
}

void PosixFileSystem::DropCache(int fd, uint64_t offset, uint64_t size_bytes) {
  posix_fadvise(fd, static_cast<off_t>(offset), static_cast<off_t>(size_bytes), POSIX_FADV_DONTNEED);
}

void PosixFileSystem::ReadAhead(int fd, uint64_t offset, uint64_t size_bytes) {
  readahead(fd, static_cast<off_t>(offset), size_bytes);
}

}  // namespace mantaray::spill
