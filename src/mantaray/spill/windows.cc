// The windows, and the streams that they belong to.

#include "mantaray/spill/windows.h"

#include <algorithm>
#include <cstring>

#include "mantaray/spill/format.h"

namespace mantaray::spill {
namespace {

// Each may hold two buffers. Two IO workers spill in turn to two segments; more at once are rare.
constexpr size_t kMaxStreams = 4;
// So many workers may read the same windows, each for some of the objects, before they are left to the page cache.
constexpr uint64_t kMaxSharers = 3;
constexpr uint64_t kFirstForwardBytes = 512 << 10;

uint64_t Blocks(uint64_t size_bytes) { return (size_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

}  // namespace

absl::string_view Window::Find(uint64_t from, uint64_t wanted_bytes) const {
  if (from < offset || wanted_bytes > size_bytes || from - offset > size_bytes - wanted_bytes) return {};
  return {buffer.data() + start + (from - offset), wanted_bytes};
}

WindowCache::WindowCache(FileSystem* fs, const Clock* clock, Parallel* parallel, IoBuffers* buffers, uint64_t max_bytes)
    : fs_(fs),
      clock_(clock),
      parallel_(parallel),
      buffers_(buffers),
      max_bytes_(std::min(max_bytes, IoBuffers::kBufferBytes) / kBlockBytes * kBlockBytes) {}

WindowCache::~WindowCache() {
  MutexLock lock(&mutex_);
  if (last_started_.valid()) last_started_.wait();
}

std::shared_ptr<const Window> WindowCache::Get(const std::string& path, int fd, uint64_t offset,
                                               uint64_t wanted_bytes) {
  const absl::StatusOr<FileInfo> info = fs_->Stat(fd);
  if (!info.ok() || wanted_bytes > kMaxRecordBytes) return nullptr;
  MutexLock lock(&mutex_);
  Stream& stream = streams_[{info->device, info->inode}];
  stream.used_ms = clock_->NowMs();
  if (stream.sparse) return nullptr;
  if (stream.file == nullptr) {
    absl::StatusOr<OwnedFile> file = fs_->Open(path, /*writable=*/false);
    stream.sparse = !file.ok() || !fs_->SetDirect(file->fd()).ok();
    if (stream.sparse) return nullptr;
    stream.file = std::make_shared<const OwnedFile>(*std::move(file));
    stream.segment_bytes = info->size_bytes;
  }
  stream.largest_record_bytes = std::max(stream.largest_record_bytes, wanted_bytes);
  if (stream.window == nullptr || stream.window->Find(offset, wanted_bytes).empty()) {
    Move(&stream, offset, wanted_bytes);
  }
  stream.wanted_bytes += wanted_bytes;
  std::shared_ptr<const Window> window = stream.window;
  if (streams_.size() > kMaxStreams) DropOldest();
  return window;
}

// Replaces the stream's window by one that holds the record; by none when there is no reading in windows here.
void WindowCache::Move(Stream* stream, uint64_t offset, uint64_t wanted_bytes) {
  bool forward = false;
  if (stream->window == nullptr) {
    stream->next_bytes = offset == 0 ? std::min(kFirstForwardBytes, max_bytes_) : 0;
  } else {
    const Window& last = *stream->window;
    stream->sparse = stream->wanted_bytes < last.size_bytes / kMaxSharers;
    // Other workers may restore some of the objects, so forward with small gaps still counts.
    forward = offset >= last.offset && offset <= last.end() + kMaxSharers * stream->largest_record_bytes;
    stream->next_bytes = forward ? std::min(max_bytes_, std::max(kFirstForwardBytes, 2 * Blocks(last.size_bytes))) : 0;
  }
  std::shared_ptr<const Window> found;
  if (!stream->sparse) {
    found = TakeNext(stream, offset, wanted_bytes);
    if (found == nullptr) {
      stream->window = nullptr;  // its buffer is free for the next
      const uint64_t size_bytes = std::max(wanted_bytes, stream->next_bytes);
      found = Load(stream->file, 0, offset, std::min(size_bytes, IoBuffers::kBufferBytes));
    }
    // Not to be tried again as long as the stream is remembered; the buffered read that follows reports an error.
    if (found == nullptr || found->Find(offset, wanted_bytes).empty()) stream->sparse = true;
  }
  stream->next = {};
  stream->window = stream->sparse ? nullptr : std::move(found);
  stream->wanted_bytes = 0;
  if (stream->sparse) stream->file = nullptr;
  if (forward && !stream->sparse) StartNext(stream);
}

// The window that was read in the background, made to begin with the record, whose front may lie in the current one.
std::shared_ptr<const Window> WindowCache::TakeNext(Stream* stream, uint64_t offset, uint64_t wanted_bytes) {
  if (!stream->next.valid()) return nullptr;
  const WindowPtr next = stream->next.get();
  if (next == nullptr) return nullptr;
  if (offset < next->offset) {
    const uint64_t front_bytes = next->offset - offset;
    const absl::string_view front = stream->window->Find(offset, front_bytes);
    if (front.empty() || front_bytes > next->start) return nullptr;
    next->start -= front_bytes;
    next->offset -= front_bytes;
    next->size_bytes += front_bytes;
    std::memcpy(next->buffer.data() + next->start, front.data(), front_bytes);
  }
  return next->Find(offset, wanted_bytes).empty() ? nullptr : next;
}

void WindowCache::StartNext(Stream* stream) {
  const uint64_t offset = stream->window->end();
  if (offset % kBlockBytes != 0 || offset >= stream->segment_bytes || max_bytes_ == 0) return;
  const uint64_t start = Blocks(stream->largest_record_bytes);
  const uint64_t size_bytes = std::min(
      {stream->next_bytes, max_bytes_, IoBuffers::kBufferBytes - start, Blocks(stream->segment_bytes - offset)});
  auto window = std::make_shared<std::promise<WindowPtr>>();
  const auto done = std::make_shared<std::promise<void>>();
  stream->next = window->get_future().share();
  last_started_ = done->get_future().share();
  // Whoever runs the task may keep it for longer than the file system lives, so it ends with nothing in its hands.
  parallel_->Start([this, window, done, file = stream->file, start, offset, size_bytes]() mutable {
    window->set_value(Load(file, start, offset, size_bytes));
    window.reset();
    file.reset();
    done->set_value();
  });
}

WindowCache::WindowPtr WindowCache::Load(const std::shared_ptr<const OwnedFile>& file, uint64_t start, uint64_t offset,
                                         uint64_t size_bytes) const {
  auto window = std::make_shared<Window>();
  window->buffer = buffers_->Take();
  if (window->buffer.data() == nullptr) return nullptr;
  const absl::StatusOr<uint64_t> read = fs_->Read(file->fd(), window->buffer.data() + start, size_bytes, offset);
  if (!read.ok()) return nullptr;
  window->file = file;
  window->start = start;
  window->offset = offset;
  window->size_bytes = *read;
  return window;
}

void WindowCache::Tick() {
  const int64_t now_ms = clock_->NowMs();
  MutexLock lock(&mutex_);
  std::erase_if(streams_, [now_ms](const auto& entry) { return now_ms - entry.second.used_ms >= kKeepMs; });
}

void WindowCache::DropOldest() {
  streams_.erase(std::min_element(streams_.begin(), streams_.end(),
                                  [](const auto& a, const auto& b) { return a.second.used_ms < b.second.used_ms; }));
}

}  // namespace mantaray::spill
