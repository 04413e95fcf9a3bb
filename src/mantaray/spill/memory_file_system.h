// A FileSystem in memory, for exploring many worlds quickly. For tests.
//
// It models what spilling relies on: hard links, files without a name, holes in blocks of 4 KiB, inode numbers that are
// used again as soon as they are free, locks of open file descriptions, several disks of bounded size, and a page cache
// whose write-back can fail, so that evicting a page brings the disk's older bytes back. Not thread-safe.

#ifndef MANTARAY_SPILL_MEMORY_FILE_SYSTEM_H_
#define MANTARAY_SPILL_MEMORY_FILE_SYSTEM_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "mantaray/spill/file_system.h"

namespace mantaray::spill {

class MemoryFileSystem : public FileSystem {
 public:
  static constexpr uint64_t kBlock = 4096;

  struct Disk {
    uint64_t device = 0;
    uint64_t capacity_blocks = 0;
    uint64_t used_blocks = 0;
    std::set<uint64_t> inodes;  // numbers in use
  };

  // What Tree tells of each name below a directory.
  struct Name {
    std::string path;
    bool is_directory = false;
    FileInfo info;
  };

  MemoryFileSystem();
  ~MemoryFileSystem() override;

  // Makes a directory below the root that lies on a disk of its own.
  Disk* AddDisk(const std::string& path, uint64_t capacity_bytes);
  // All names below a directory, depth first.
  std::vector<Name> Tree(const std::string& path) const;
  // The disk refuses the dirty pages of this range: the page cache alone has them, as clean pages.
  void FailWriteback(int fd, uint64_t offset, uint64_t size_bytes);
  // Evicts every clean page of every file that has a name.
  void EvictAll();
  // Directory locks that are held now.
  int held_directory_locks() const { return held_directory_locks_; }
  // Fences that are held now. Nobody may open those files meanwhile, because nobody can wait here.
  int held_fences() const { return held_fences_; }
  size_t open_files() const { return files_.size(); }

  absl::Status MakeDirectory(const std::string& path) override;
  absl::Status RemoveDirectory(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Unlink(const std::string& path) override;
  absl::StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override;
  absl::StatusOr<SpaceInfo> Space(const std::string& path) override;
  // Unavailable instead of waiting when the directory is locked.
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
  uint64_t KernelReadAheadBytes(uint64_t /*device*/) override { return 0; }
  char* MapBuffer(uint64_t size_bytes) override;
  void UnmapBuffer(char* buffer, uint64_t size_bytes) override;
  absl::Status WaitWriteback(int fd, uint64_t offset, uint64_t size_bytes) override;
  void StartWriteback(int fd, uint64_t offset, uint64_t size_bytes) override {}
  void DropCache(int fd, uint64_t offset, uint64_t size_bytes) override;
  void ReadAhead(int fd, uint64_t offset, uint64_t size_bytes) override {}

 private:
  using Bytes = std::array<char, kBlock>;
  struct Block {
    Bytes bytes{};
    enum { kClean, kDirty, kRefused } state = kClean;
    std::unique_ptr<Bytes> on_disk;  // unless clean; null: zeros
  };
  struct Lock {
    int fd = 0;
    uint64_t offset = 0;
    uint64_t end = 0;
    bool exclusive = false;
  };
  struct Inode {
    Inode(Disk* on, bool directory);
    ~Inode();
    Inode(const Inode&) = delete;
    Inode& operator=(const Inode&) = delete;

    Disk* disk;
    uint64_t number;
    bool is_directory;
    uint64_t link_count = 0;
    uint64_t size_bytes = 0;
    std::map<uint64_t, Block> blocks;
    std::vector<Lock> locks;
    bool directory_locked = false;
    std::map<std::string, std::shared_ptr<Inode>, std::less<>> names;
  };
  using InodePtr = std::shared_ptr<Inode>;
  struct File {
    InodePtr inode;
    bool writable = false;
    bool direct = false;
    bool directory_lock = false;
    bool fence = false;
  };
  // A name in a directory. It need not exist.
  struct ResolvedPath {
    InodePtr directory;
    std::string name;
  };

  InodePtr Find(const std::string& path) const;
  absl::StatusOr<ResolvedPath> Resolve(const std::string& path) const;
  OwnedFile OpenInode(InodePtr inode, bool writable);
  absl::StatusOr<Block*> BlockFor(Inode* inode, uint64_t number);
  static FileInfo InfoOf(const Inode& inode);
  static void Evict(Block* block);
  static void ListTree(const std::string& path, const Inode& inode, std::vector<Name>* names);

  std::vector<std::unique_ptr<Disk>> disks_;
  InodePtr root_;
  std::map<int, File> files_;
  int next_fd_ = 3;
  int held_directory_locks_ = 0;
  int held_fences_ = 0;
  std::vector<char*> idle_buffers_;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_MEMORY_FILE_SYSTEM_H_
