// The pool and its leases.

#include "mantaray/spill/io_buffers.h"

#include <algorithm>
#include <utility>

namespace mantaray::spill {

IoBuffers::Lease& IoBuffers::Lease::operator=(Lease&& other) noexcept {
  std::swap(shelf_, other.shelf_);
  std::swap(data_, other.data_);
  return *this;
}

IoBuffers::Lease::~Lease() {
  if (data_ == nullptr) return;
  {
    MutexLock lock(&shelf_->mutex);
    if (!shelf_->ended) {
      shelf_->idle.push_back(data_);
      return;
    }
  }
  shelf_->fs->UnmapBuffer(data_, kBufferBytes);
}

IoBuffers::IoBuffers(FileSystem* fs) : shelf_(std::make_shared<Lease::Shelf>(fs)) {}

IoBuffers::~IoBuffers() {
  MutexLock lock(&shelf_->mutex);
  shelf_->ended = true;
  for (char* buffer : shelf_->idle) shelf_->fs->UnmapBuffer(buffer, kBufferBytes);
  shelf_->idle.clear();
}

IoBuffers::Lease IoBuffers::Take() {
  {
    MutexLock lock(&shelf_->mutex);
    if (!shelf_->idle.empty()) {
      char* const buffer = shelf_->idle.back();
      shelf_->idle.pop_back();
      shelf_->fewest_idle = std::min(shelf_->fewest_idle, shelf_->idle.size());
      return {shelf_, buffer};
    }
  }
  return {shelf_, shelf_->fs->MapBuffer(kBufferBytes)};
}

void IoBuffers::Trim() {
  std::vector<char*> unused;
  {
    MutexLock lock(&shelf_->mutex);
    const auto first = shelf_->idle.begin();  // the last are taken first, so these have lain longest
    const auto last = first + static_cast<ptrdiff_t>(shelf_->fewest_idle);
    unused.assign(first, last);
    shelf_->idle.erase(first, last);
    shelf_->fewest_idle = shelf_->idle.size();
  }
  for (char* buffer : unused) shelf_->fs->UnmapBuffer(buffer, kBufferBytes);
}

size_t IoBuffers::idle_buffers() const {
  MutexLock lock(&shelf_->mutex);
  return shelf_->idle.size();
}

}  // namespace mantaray::spill
