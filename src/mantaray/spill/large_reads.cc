// Reads in the background, and one ahead.

#include "mantaray/spill/large_reads.h"

#include <algorithm>
#include <utility>

#include "mantaray/spill/format.h"

namespace mantaray::spill {

PendingWindow& PendingWindow::operator=(PendingWindow&& other) noexcept {
  Drop();
  window_ = std::move(other.window_);
  size_bytes_ = other.size_bytes_;
  return *this;
}

PendingWindow LargeReads::Start(const std::shared_ptr<const OwnedFile>& file, uint64_t offset, uint64_t size_bytes) {
  const auto promise = std::make_shared<std::promise<std::unique_ptr<Window>>>();
  size_bytes = std::min(size_bytes, IoBuffers::kBufferBytes);
  PendingWindow pending(promise->get_future(), size_bytes);
  // Whoever runs the task may keep it for longer than the file system lives, so it ends with nothing in its hands.
  parallel_->Start([this, promise, file = std::shared_ptr(file), offset, size_bytes]() mutable {
    auto window = Read(file, offset, size_bytes);
    file.reset();
    promise->set_value(std::move(window));
  });
  return pending;
}

std::unique_ptr<Window> LargeReads::Read(const std::shared_ptr<const OwnedFile>& file, uint64_t offset,
                                         uint64_t size_bytes) {
  auto window = std::make_unique<Window>();
  size_bytes = std::min(size_bytes, IoBuffers::kBufferBytes);
  window->buffer = buffers_->Take();
  if (window->buffer.data() == nullptr) return nullptr;
  const absl::StatusOr<uint64_t> read = fs_->Read(file->fd(), window->buffer.data(), size_bytes, offset);
  if (!read.ok()) return nullptr;
  window->file = file;
  window->offset = offset;
  window->size_bytes = *read;
  return window;
}

PendingWindow LargeReads::StartHead(const std::shared_ptr<const OwnedFile>& file, uint64_t offset,
                                    uint64_t record_bytes) {
  if (const absl::StatusOr<FileInfo> info = fs_->Stat(file->fd()); info.ok()) {
    const SegmentPosition position{info->device, info->inode, offset};
    MutexLock lock(&mutex_);
    forward_ = position == last_end_;
    last_end_ = position;
    last_end_.offset += record_bytes;
    if (ahead_.valid() && ahead_at_ == position) return std::move(ahead_);
  }
  return Start(file, offset, record_bytes);
}

void LargeReads::GoOn(const std::shared_ptr<const OwnedFile>& file, uint64_t offset, uint64_t record_bytes) {
  const absl::StatusOr<FileInfo> info = fs_->Stat(file->fd());
  if (!info.ok() || offset + record_bytes >= info->size_bytes) return;
  const SegmentPosition next{info->device, info->inode, offset + record_bytes};
  PendingWindow stale;  // waited for outside the lock
  MutexLock lock(&mutex_);
  if (!forward_ || next != last_end_) return;
  stale = std::exchange(ahead_, Start(file, next.offset, record_bytes));
  ahead_at_ = next;
  ahead_ms_ = clock_->NowMs();
}

void LargeReads::Tick() {
  PendingWindow stale;
  MutexLock lock(&mutex_);
  if (clock_->NowMs() - ahead_ms_ >= kKeepMs) stale = std::move(ahead_);
}

}  // namespace mantaray::spill
