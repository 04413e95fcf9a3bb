// When gathered changes are let go.
//
// They go at most once in `window_ms`: the first after a quiet window goes at once, what follows waits for the window
// to end, or until `max_batch_messages` different ones wait (0: no such bound). So nothing ever waits longer than the
// window, counted from its own arrival, also not after a flush that the size set off. A window of 0 lets everything go
// at once. What "newest wins" means is the change log's matter (view_store.h): a waiting change that is replaced counts
// once. Pure.

#ifndef MANTARAY_SYNCER_COALESCER_H_
#define MANTARAY_SYNCER_COALESCER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace mantaray::syncer {

inline constexpr int64_t kNeverMs = std::numeric_limits<int64_t>::max();

struct CoalescerOptions {
  int64_t window_ms = 0;          // at least 0; upstream: gcs_resource_broadcast_max_batch_delay_ms
  size_t max_batch_messages = 0;  // 0: no bound; upstream: gcs_resource_broadcast_max_batch_size
};

class Coalescer {
 public:
  explicit Coalescer(CoalescerOptions options) : options_(options) {}

  // A change that was not waiting yet begins to wait.
  void Add(int64_t now_ms) {
    if (waiting_++ == 0) first_ms_ = now_ms;
  }
  // Whether what waits has to go now.
  bool Due(int64_t now_ms) const {
    if (waiting_ == 0) return false;
    const bool full = options_.max_batch_messages > 0 && waiting_ >= options_.max_batch_messages;
    return full || now_ms >= DeadlineMs();
  }
  // When it has to go at the latest; kNeverMs while nothing waits.
  int64_t DeadlineMs() const {
    if (waiting_ == 0) return kNeverMs;
    return std::max(first_ms_, window_ends_ms_);
  }
  // Everything went.
  void Flushed(int64_t now_ms) {
    waiting_ = 0;
    window_ends_ms_ = now_ms + options_.window_ms;
  }
  size_t waiting() const { return waiting_; }

 private:
  CoalescerOptions options_;
  size_t waiting_ = 0;
  int64_t first_ms_ = 0;
  int64_t window_ends_ms_ = std::numeric_limits<int64_t>::min();
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_COALESCER_H_
