// The growing window.

#include "mantaray/spill/read_ahead.h"

#include <algorithm>

namespace mantaray::spill {
namespace {

constexpr size_t kMaxStreams = 64;
constexpr uint64_t kFirstWindowBytes = 512 << 10;

}  // namespace

void ReadAheadTracker::Advise(int fd, uint64_t offset, uint64_t size_bytes) {
  if (max_bytes_ == 0) return;
  const absl::StatusOr<FileInfo> info = fs_->Stat(fd);
  if (!info.ok()) return;
  const auto [device, first_seen] = left_to_kernel_.try_emplace(info->device, false);
  if (first_seen) device->second = fs_->KernelReadAheadBytes(info->device) >= max_bytes_;
  if (device->second) return;
  const auto [found, is_new] = streams_.try_emplace({info->device, info->inode});
  Stream& stream = found->second;
  const uint64_t end = offset + size_bytes;
  // Several IO workers share a segment's objects, so forward with gaps still counts as a stream.
  const bool forward =
      !is_new && offset >= stream.position && offset <= std::max(stream.ahead, stream.position) + max_bytes_;
  if (forward) {
    stream.window_bytes = std::min(max_bytes_, std::max(kFirstWindowBytes, 2 * stream.window_bytes));
  } else {
    stream.window_bytes = is_new && offset == 0 ? std::min(max_bytes_, kFirstWindowBytes) : 0;
    stream.ahead = offset;
  }
  stream.position = end;
  stream.used_at = ++uses_;
  const uint64_t wanted = std::min(end + stream.window_bytes, std::max(info->size_bytes, end));
  if (wanted > stream.ahead && (stream.ahead < end + stream.window_bytes / 2 || stream.ahead < end)) {
    const uint64_t from = std::max(stream.ahead, offset);
    fs_->ReadAhead(fd, from, wanted - from);
    stream.ahead = wanted;
  }
  if (streams_.size() > kMaxStreams) {
    streams_.erase(std::min_element(streams_.begin(), streams_.end(),
                                    [](const auto& a, const auto& b) { return a.second.used_at < b.second.used_at; }));
  }
}

}  // namespace mantaray::spill
