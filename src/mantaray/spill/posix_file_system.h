// FileSystem on the kernel's own calls (Linux).

#ifndef MANTARAY_SPILL_POSIX_FILE_SYSTEM_H_
#define MANTARAY_SPILL_POSIX_FILE_SYSTEM_H_

#include <atomic>
#include <string>
#include <vector>

#include "mantaray/spill/file_system.h"

namespace mantaray::spill {

class PosixFileSystem : public FileSystem {
 public:
  absl::Status MakeDirectory(const std::string& path) override;
  absl::Status RemoveDirectory(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Unlink(const std::string& path) override;
  absl::StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override;
  absl::StatusOr<SpaceInfo> Space(const std::string& path) override;
  absl::StatusOr<OwnedFile> LockDirectory(const std::string& path) override;
  absl::Status LockRange(int fd, uint64_t offset, uint64_t size_bytes, bool exclusive) override;
  void UnlockRange(int fd, uint64_t offset, uint64_t size_bytes) override;
  absl::Status Fence(int fd) override;
  void Unfence(int fd) override;
  absl::StatusOr<OwnedFile> OpenUnnamed(const std::string& directory) override;
  absl::StatusOr<OwnedFile> Create(const std::string& path) override;
  absl::StatusOr<OwnedFile> Open(const std::string& path, bool writable) override;
  void Close(int fd) override;
  absl::StatusOr<FileInfo> Stat(int fd) override;
  absl::Status Link(int fd, const std::string& path) override;
  absl::Status Allocate(int fd, uint64_t size_bytes) override;
  absl::Status Write(int fd, std::vector<iovec>* vectors, uint64_t offset) override;
  absl::StatusOr<uint64_t> Read(int fd, void* buffer, uint64_t size_bytes, uint64_t offset) override;
  absl::Status PunchHole(int fd, uint64_t offset, uint64_t size_bytes) override;
  absl::Status SetDirect(int fd) override;
  bool IsCached(int fd, uint64_t offset) override;
  uint64_t KernelReadAheadBytes(uint64_t device) override;
  char* MapBuffer(uint64_t size_bytes) override;
  void UnmapBuffer(char* buffer, uint64_t size_bytes) override;
  void StartWriteback(int fd, uint64_t offset, uint64_t size_bytes) override;
  absl::Status WaitWriteback(int fd, uint64_t offset, uint64_t size_bytes) override;
  void DropCache(int fd, uint64_t offset, uint64_t size_bytes) override;
  void ReadAhead(int fd, uint64_t offset, uint64_t size_bytes) override;

 private:
  std::atomic<bool> lacks_cachestat_ = false;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_POSIX_FILE_SYSTEM_H_
