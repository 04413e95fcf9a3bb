// The file operations that spilling needs, as an interface: the engine is handed one and reaches for nothing itself.
// PosixFileSystem is the real one; tests put FaultyFileSystem in front of it to run out of space, fail or "crash" at a
// chosen operation.
//
// Files are plain descriptors owned by OwnedFile. All methods are thread-safe. Statuses: ResourceExhausted is a full
// file system (ENOSPC, EDQUOT), NotFound a path that is gone, Unimplemented something this file system cannot do,
// Unavailable an error that may pass (EIO, ESTALE, EMFILE); see common/errno_status.h.

#ifndef MANTARAY_SPILL_FILE_SYSTEM_H_
#define MANTARAY_SPILL_FILE_SYSTEM_H_

#include <sys/uio.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mantaray::spill {

struct FileInfo {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t link_count = 0;
  uint64_t size_bytes = 0;       // st_size, holes included
  uint64_t allocated_bytes = 0;  // blocks really held on disk
};

struct SpaceInfo {
  uint64_t free_bytes = 0;  // available to this process
  uint64_t total_bytes = 0;
  uint64_t link_max = 0;  // hard links one file may have
  uint64_t device = 0;    // the file system that the path lies on
};

struct DirectoryEntry {
  std::string name;
  uint64_t inode = 0;
  bool is_directory = false;
};

class FileSystem;

// A descriptor that is closed when it goes out of scope.
class OwnedFile {
 public:
  OwnedFile() = default;
  OwnedFile(FileSystem* fs, int fd) : fs_(fs), fd_(fd) {}
  OwnedFile(OwnedFile&& other) noexcept : fs_(other.fs_), fd_(std::exchange(other.fd_, -1)) {}
  OwnedFile& operator=(OwnedFile&& other) noexcept;
  OwnedFile(const OwnedFile&) = delete;
  OwnedFile& operator=(const OwnedFile&) = delete;
  ~OwnedFile();

  int fd() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  FileSystem* fs_ = nullptr;
  int fd_ = -1;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual absl::Status MakeDirectory(const std::string& path) = 0;
  virtual absl::Status RemoveDirectory(const std::string& path) = 0;
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Unlink(const std::string& path) = 0;
  virtual absl::StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) = 0;
  virtual absl::StatusOr<SpaceInfo> Space(const std::string& path) = 0;
  // Waits until nobody else holds this lock of a directory, in whatever process (flock). It is let go with the file,
  // and by the kernel when the process is killed.
  virtual absl::StatusOr<OwnedFile> LockDirectory(const std::string& path) = 0;

  // Locks a range of an open file without waiting, shared or exclusively. The lock belongs to this open file (a lock of
  // the open file description), works between processes, and goes when the file is closed. An exclusive lock needs a
  // writable file. Unavailable when another open file holds a conflicting lock.
  virtual absl::Status LockRange(int fd, uint64_t offset, uint64_t size_bytes, bool exclusive) = 0;
  virtual void UnlockRange(int fd, uint64_t offset, uint64_t size_bytes) = 0;

  // Fences a writable open file off, without waiting: fails if anybody else has the file open, in whatever process,
  // and otherwise makes everybody who opens it wait until Unfence (a write lease). Unavailable when the file is open
  // elsewhere; other errors when the file system has no leases.
  virtual absl::Status Fence(int fd) = 0;
  virtual void Unfence(int fd) = 0;

  // A file without a name in the file system of `directory` (O_TMPFILE).
  virtual absl::StatusOr<OwnedFile> OpenUnnamed(const std::string& directory) = 0;
  // A new file; AlreadyExists when there is one.
  virtual absl::StatusOr<OwnedFile> Create(const std::string& path) = 0;
  virtual absl::StatusOr<OwnedFile> Open(const std::string& path, bool writable) = 0;
  virtual void Close(int fd) = 0;
  virtual absl::StatusOr<FileInfo> Stat(int fd) = 0;

  // Gives the open file (also one without a name) another name.
  virtual absl::Status Link(int fd, const std::string& path) = 0;

  // Reserves blocks for [0, size_bytes).
  virtual absl::Status Allocate(int fd, uint64_t size_bytes) = 0;
  // Writes all of the vectors at `offset`; the vectors may be modified.
  virtual absl::Status Write(int fd, std::vector<iovec>* vectors, uint64_t offset) = 0;
  // Reads up to `size_bytes`; less only at the end of the file. Returns the number read.
  virtual absl::StatusOr<uint64_t> Read(int fd, void* buffer, uint64_t size_bytes, uint64_t offset) = 0;
  // Gives the blocks of a range back; it reads as zeros afterwards and the file keeps its size.
  virtual absl::Status PunchHole(int fd, uint64_t offset, uint64_t size_bytes) = 0;
  // Bypasses the page cache on this descriptor from now on (O_DIRECT).
  virtual absl::Status SetDirect(int fd) = 0;

  // Whether the page cache holds the byte at `offset`, so that reading from there costs no disk. A guess is allowed.
  virtual bool IsCached(int fd, uint64_t offset) = 0;
  // How far the kernel reads ahead by itself on this device; 0 when it does not say.
  virtual uint64_t KernelReadAheadBytes(uint64_t device) = 0;

  // Memory for unbuffered transfers: page-aligned, zeroed, in huge pages where the kernel gives them (a device takes
  // those in fewer, larger pieces). Null when there is none. `size_bytes` is the same in both.
  virtual char* MapBuffer(uint64_t size_bytes) = 0;
  virtual void UnmapBuffer(char* buffer, uint64_t size_bytes) = 0;

  // Writes a range back and waits until it is on disk. An error says that the disk does not hold these bytes, although
  // the page cache does; each open file is told once.
  virtual absl::Status WaitWriteback(int fd, uint64_t offset, uint64_t size_bytes) = 0;

  // Hints; they never fail, a file system that cannot ignores them.
  virtual void StartWriteback(int fd, uint64_t offset, uint64_t size_bytes) = 0;
  virtual void DropCache(int fd, uint64_t offset, uint64_t size_bytes) = 0;
  virtual void ReadAhead(int fd, uint64_t offset, uint64_t size_bytes) = 0;
};

inline OwnedFile& OwnedFile::operator=(OwnedFile&& other) noexcept {
  std::swap(fs_, other.fs_);
  std::swap(fd_, other.fd_);
  return *this;
}

inline OwnedFile::~OwnedFile() {
  if (fd_ >= 0) fs_->Close(fd_);
}

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_FILE_SYSTEM_H_
