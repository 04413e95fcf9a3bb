// Inodes, names, blocks.

#include "mantaray/spill/memory_file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "mantaray/common/errno_status.h"
#include "mantaray/spill/names.h"

namespace mantaray::spill {
namespace {

constexpr uint64_t kLinkMax = 65000;

}  // namespace

MemoryFileSystem::Inode::Inode(Disk* on, bool directory) : disk(on), number(1), is_directory(directory) {
  while (disk->inodes.contains(number)) ++number;
  disk->inodes.insert(number);
}

MemoryFileSystem::Inode::~Inode() {
  disk->inodes.erase(number);
  disk->used_blocks -= blocks.size();
}

MemoryFileSystem::MemoryFileSystem() {
  disks_.push_back(std::make_unique<Disk>(Disk{1, UINT64_MAX / kBlock, 0, {}}));
  root_ = std::make_shared<Inode>(disks_.front().get(), true);
}

MemoryFileSystem::~MemoryFileSystem() {
  files_.clear();
  root_.reset();
  for (char* buffer : idle_buffers_) ::operator delete (buffer, std::align_val_t{kBlock});
}

MemoryFileSystem::Disk* MemoryFileSystem::AddDisk(const std::string& path, uint64_t capacity_bytes) {
  disks_.push_back(std::make_unique<Disk>(Disk{disks_.size() + 1, capacity_bytes / kBlock, 0, {}}));
  root_->names[path.substr(1)] = std::make_shared<Inode>(disks_.back().get(), true);
  return disks_.back().get();
}

MemoryFileSystem::InodePtr MemoryFileSystem::Find(const std::string& path) const {
  // `..` is written behind a node directory only, to lock the directory around it.
  if (path.size() > 3 && path.ends_with("/..")) return Find(DirectoryOf(path.substr(0, path.size() - 3)));
  InodePtr at = root_;
  for (size_t begin = 1; at != nullptr && begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const auto found = at->names.find(absl::string_view(path).substr(begin, end - begin));
    at = found == at->names.end() ? nullptr : found->second;
    begin = end + 1;
  }
  return at;
}

absl::StatusOr<MemoryFileSystem::ResolvedPath> MemoryFileSystem::Resolve(const std::string& path) const {
  InodePtr directory = Find(DirectoryOf(path));
  if (directory == nullptr || !directory->is_directory) return ErrnoStatus(ENOENT, "find", path);
  return ResolvedPath{std::move(directory), std::string(FileOf(path))};
}

FileInfo MemoryFileSystem::InfoOf(const Inode& inode) {
  return {inode.disk->device, inode.number, inode.link_count, inode.size_bytes, inode.blocks.size() * kBlock};
}

void MemoryFileSystem::ListTree(const std::string& path, const Inode& inode, std::vector<Name>* names) {
  for (const auto& [name, child] : inode.names) {
    const std::string at = Join(path, name);
    names->push_back({at, child->is_directory, InfoOf(*child)});
    ListTree(at, *child, names);
  }
}

std::vector<MemoryFileSystem::Name> MemoryFileSystem::Tree(const std::string& path) const {
  std::vector<Name> names;
  if (const InodePtr inode = Find(path)) ListTree(path, *inode, &names);
  return names;
}

absl::Status MemoryFileSystem::MakeDirectory(const std::string& path) {
  const absl::StatusOr<ResolvedPath> entry = Resolve(path);
  if (!entry.ok()) return entry.status();
  if (entry->directory->names.contains(entry->name)) return ErrnoStatus(EEXIST, "mkdir", path);
  entry->directory->names[entry->name] = std::make_shared<Inode>(entry->directory->disk, true);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::RemoveDirectory(const std::string& path) {
  const absl::StatusOr<ResolvedPath> entry = Resolve(path);
  const InodePtr inode = Find(path);
  if (!entry.ok() || inode == nullptr || !inode->is_directory) return ErrnoStatus(ENOENT, "rmdir", path);
  if (!inode->names.empty()) return ErrnoStatus(ENOTEMPTY, "rmdir", path);
  entry->directory->names.erase(entry->name);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::Rename(const std::string& from, const std::string& to) {
  const absl::StatusOr<ResolvedPath> source = Resolve(from);
  const absl::StatusOr<ResolvedPath> target = Resolve(to);
  const InodePtr inode = Find(from);
  if (inode == nullptr || !source.ok() || !target.ok()) return ErrnoStatus(ENOENT, "rename", from);
  const InodePtr old = Find(to);
  if (old != nullptr && inode->is_directory && !old->names.empty()) return ErrnoStatus(ENOTEMPTY, "rename", from);
  if (old != nullptr && old->is_directory && !inode->is_directory) return ErrnoStatus(EISDIR, "rename", from);
  if (old == inode) return absl::OkStatus();  // two links of one file: nothing happens
  if (old != nullptr && old->link_count > 0) --old->link_count;
  target->directory->names[target->name] = inode;
  source->directory->names.erase(source->name);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::Unlink(const std::string& path) {
  const absl::StatusOr<ResolvedPath> entry = Resolve(path);
  const InodePtr inode = Find(path);
  if (!entry.ok() || inode == nullptr) return ErrnoStatus(ENOENT, "unlink", path);
  if (inode->is_directory) return ErrnoStatus(EISDIR, "unlink", path);
  entry->directory->names.erase(entry->name);
  --inode->link_count;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DirectoryEntry>> MemoryFileSystem::List(const std::string& path) {
  const InodePtr inode = Find(path);
  if (inode == nullptr || !inode->is_directory) return ErrnoStatus(ENOENT, "opendir", path);
  std::vector<DirectoryEntry> entries;
  for (const auto& [name, child] : inode->names) entries.push_back({name, child->number, child->is_directory});
  return entries;
}

absl::StatusOr<SpaceInfo> MemoryFileSystem::Space(const std::string& path) {
  const InodePtr inode = Find(path);
  if (inode == nullptr) return ErrnoStatus(ENOENT, "statvfs", path);
  const Disk& disk = *inode->disk;
  const uint64_t free_blocks = disk.capacity_blocks - std::min(disk.capacity_blocks, disk.used_blocks);
  return SpaceInfo{free_blocks * kBlock, disk.capacity_blocks * kBlock, kLinkMax, disk.device};
}

OwnedFile MemoryFileSystem::OpenInode(InodePtr inode, bool writable) {
  const int fd = next_fd_++;
  files_[fd] = {std::move(inode), writable};
  return OwnedFile(this, fd);
}

absl::StatusOr<OwnedFile> MemoryFileSystem::LockDirectory(const std::string& path) {
  const InodePtr inode = Find(path);
  if (inode == nullptr) return ErrnoStatus(ENOENT, "open", path);
  if (std::exchange(inode->directory_locked, true)) return ErrnoStatus(EAGAIN, "flock", path);
  OwnedFile file = OpenInode(inode, false);
  files_[file.fd()].directory_lock = true;
  ++held_directory_locks_;
  return file;
}

absl::Status MemoryFileSystem::LockRange(int fd, uint64_t offset, uint64_t size_bytes, bool exclusive) {
  std::vector<Lock>& locks = files_.at(fd).inode->locks;
  const uint64_t end = offset + size_bytes;
  for (const Lock& lock : locks) {
    if (lock.fd != fd && (lock.exclusive || exclusive) && lock.offset < end && offset < lock.end) {
      return ErrnoStatus(EAGAIN, "lock", "a range");
    }
  }
  locks.push_back({fd, offset, end, exclusive});
  return absl::OkStatus();
}

void MemoryFileSystem::UnlockRange(int fd, uint64_t offset, uint64_t size_bytes) {
  const uint64_t end = offset + size_bytes;
  // Whole locks only, which is how spilling unlocks: a range that was locked in two steps goes at once.
  std::erase_if(files_.at(fd).inode->locks,
                [&](const Lock& lock) { return lock.fd == fd && offset <= lock.offset && lock.end <= end; });
}

absl::Status MemoryFileSystem::Fence(int fd) {
  const Inode* const inode = files_.at(fd).inode.get();
  for (const auto& [other, file] : files_) {
    if (other != fd && file.inode.get() == inode) return ErrnoStatus(EAGAIN, "lease", "a file");
  }
  files_.at(fd).fence = true;
  ++held_fences_;
  return absl::OkStatus();
}

void MemoryFileSystem::Unfence(int fd) {
  if (std::exchange(files_.at(fd).fence, false)) --held_fences_;
}

absl::StatusOr<OwnedFile> MemoryFileSystem::OpenUnnamed(const std::string& directory) {
  const InodePtr inode = Find(directory);
  if (inode == nullptr || !inode->is_directory) return ErrnoStatus(ENOENT, "open O_TMPFILE in", directory);
  return OpenInode(std::make_shared<Inode>(inode->disk, false), true);
}

absl::StatusOr<OwnedFile> MemoryFileSystem::Create(const std::string& path) {
  const absl::StatusOr<ResolvedPath> entry = Resolve(path);
  if (!entry.ok()) return entry.status();
  if (entry->directory->names.contains(entry->name)) return ErrnoStatus(EEXIST, "create", path);
  InodePtr inode = std::make_shared<Inode>(entry->directory->disk, false);
  inode->link_count = 1;
  entry->directory->names[entry->name] = inode;
  return OpenInode(std::move(inode), true);
}

absl::StatusOr<OwnedFile> MemoryFileSystem::Open(const std::string& path, bool writable) {
  InodePtr inode = Find(path);
  if (inode == nullptr) return ErrnoStatus(ENOENT, "open", path);
  if (inode->is_directory && writable) return ErrnoStatus(EISDIR, "open", path);
  return OpenInode(std::move(inode), writable);
}

void MemoryFileSystem::Close(int fd) {
  const auto found = files_.find(fd);
  Inode& inode = *found->second.inode;
  std::erase_if(inode.locks, [fd](const Lock& lock) { return lock.fd == fd; });
  if (found->second.directory_lock) {
    inode.directory_locked = false;
    --held_directory_locks_;
  }
  Unfence(fd);
  files_.erase(found);
}

absl::StatusOr<FileInfo> MemoryFileSystem::Stat(int fd) { return InfoOf(*files_.at(fd).inode); }

absl::Status MemoryFileSystem::Link(int fd, const std::string& path) {
  const absl::StatusOr<ResolvedPath> entry = Resolve(path);
  if (!entry.ok()) return entry.status();
  if (entry->directory->names.contains(entry->name)) return ErrnoStatus(EEXIST, "link", path);
  const InodePtr& inode = files_.at(fd).inode;
  ++inode->link_count;
  entry->directory->names[entry->name] = inode;
  return absl::OkStatus();
}

absl::StatusOr<MemoryFileSystem::Block*> MemoryFileSystem::BlockFor(Inode* inode, uint64_t number) {
  const auto found = inode->blocks.find(number);
  if (found != inode->blocks.end()) return &found->second;
  if (inode->disk->used_blocks >= inode->disk->capacity_blocks) return ErrnoStatus(ENOSPC, "write", "a file");
  ++inode->disk->used_blocks;
  return &inode->blocks[number];
}

absl::Status MemoryFileSystem::Allocate(int fd, uint64_t size_bytes) {
  Inode* const inode = files_.at(fd).inode.get();
  for (uint64_t number = 0; number * kBlock < size_bytes; ++number) {
    if (const auto block = BlockFor(inode, number); !block.ok()) return block.status();
  }
  inode->size_bytes = std::max(inode->size_bytes, size_bytes);
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::Write(int fd, std::vector<iovec>* vectors, uint64_t offset) {
  const File& file = files_.at(fd);
  for (const iovec& vector : *vectors) {
    const char* from = static_cast<const char*>(vector.iov_base);
    for (uint64_t left = vector.iov_len; left > 0;) {
      const absl::StatusOr<Block*> found = BlockFor(file.inode.get(), offset / kBlock);
      if (!found.ok()) return found.status();
      Block& block = **found;
      if (file.direct) {
        block.state = Block::kClean;
        block.on_disk.reset();
      } else {
        if (block.state == Block::kClean) block.on_disk = std::make_unique<Bytes>(block.bytes);
        block.state = Block::kDirty;
      }
      const uint64_t count = std::min(left, kBlock - offset % kBlock);
      std::memcpy(block.bytes.data() + offset % kBlock, from, count);
      from += count;
      offset += count;
      left -= count;
      file.inode->size_bytes = std::max(file.inode->size_bytes, offset);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> MemoryFileSystem::Read(int fd, void* buffer, uint64_t size_bytes, uint64_t offset) {
  const Inode& inode = *files_.at(fd).inode;
  if (inode.is_directory) return ErrnoStatus(EISDIR, "read", "a directory");
  const uint64_t end = std::min(inode.size_bytes, offset + size_bytes);
  char* to = static_cast<char*>(buffer);
  for (uint64_t at = offset; at < end;) {
    const uint64_t count = std::min(end - at, kBlock - at % kBlock);
    const auto found = inode.blocks.find(at / kBlock);
    if (found == inode.blocks.end()) {
      std::memset(to, 0, count);
    } else {
      std::memcpy(to, found->second.bytes.data() + at % kBlock, count);
    }
    to += count;
    at += count;
  }
  return end > offset ? end - offset : 0;
}

absl::Status MemoryFileSystem::PunchHole(int fd, uint64_t offset, uint64_t size_bytes) {
  Inode* const inode = files_.at(fd).inode.get();
  const uint64_t end = offset + size_bytes;
  for (auto at = inode->blocks.lower_bound(offset / kBlock); at != inode->blocks.end() && at->first * kBlock < end;) {
    const uint64_t begin = at->first * kBlock;
    if (begin >= offset && begin + kBlock <= end) {
      at = inode->blocks.erase(at);
      --inode->disk->used_blocks;
      continue;
    }
    const uint64_t from = std::max(begin, offset);
    std::memset(at->second.bytes.data() + (from - begin), 0, std::min(end, begin + kBlock) - from);
    ++at;
  }
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::SetDirect(int fd) {
  files_.at(fd).direct = true;
  return absl::OkStatus();
}

bool MemoryFileSystem::IsCached(int fd, uint64_t offset) {
  const Inode& inode = *files_.at(fd).inode;
  const auto found = inode.blocks.find(offset / kBlock);
  return found != inode.blocks.end() && found->second.state != Block::kClean;
}

char* MemoryFileSystem::MapBuffer(uint64_t size_bytes) {
  if (!idle_buffers_.empty()) {
    char* const buffer = idle_buffers_.back();
    idle_buffers_.pop_back();
    return buffer;
  }
  return static_cast<char*>(::operator new (size_bytes, std::align_val_t{kBlock}));
}

void MemoryFileSystem::UnmapBuffer(char* buffer, uint64_t /*size_bytes*/) { idle_buffers_.push_back(buffer); }

absl::Status MemoryFileSystem::WaitWriteback(int fd, uint64_t offset, uint64_t size_bytes) {
  std::map<uint64_t, Block>& blocks = files_.at(fd).inode->blocks;
  for (auto at = blocks.lower_bound(offset / kBlock); at != blocks.end() && at->first * kBlock < offset + size_bytes;
       ++at) {
    if (at->second.state != Block::kDirty) continue;  // refused pages look clean: nothing writes them again
    at->second.state = Block::kClean;
    at->second.on_disk.reset();
  }
  return absl::OkStatus();
}

void MemoryFileSystem::FailWriteback(int fd, uint64_t offset, uint64_t size_bytes) {
  std::map<uint64_t, Block>& blocks = files_.at(fd).inode->blocks;
  for (auto at = blocks.lower_bound(offset / kBlock); at != blocks.end() && at->first * kBlock < offset + size_bytes;
       ++at) {
    if (at->second.state == Block::kDirty) at->second.state = Block::kRefused;
  }
}

void MemoryFileSystem::Evict(Block* block) {
  if (block->state != Block::kRefused) return;
  block->bytes = block->on_disk != nullptr ? *block->on_disk : Bytes{};
  block->on_disk.reset();
  block->state = Block::kClean;
}

void MemoryFileSystem::DropCache(int fd, uint64_t offset, uint64_t size_bytes) {
  std::map<uint64_t, Block>& blocks = files_.at(fd).inode->blocks;
  for (auto at = blocks.lower_bound(offset / kBlock); at != blocks.end() && at->first * kBlock < offset + size_bytes;
       ++at) {
    Evict(&at->second);
  }
}

void MemoryFileSystem::EvictAll() {
  const auto evict = [](const auto& self, Inode* inode) -> void {
    for (auto& [number, block] : inode->blocks) Evict(&block);
    for (const auto& [name, child] : inode->names) self(self, child.get());
  };
  evict(evict, root_.get());
}

}  // namespace mantaray::spill
