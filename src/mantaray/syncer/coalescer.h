// When gathered changes are let go.
//
// A change waits for others for at most `window_ms`, counted from the first that is waiting, or until
// `max_batch_messages` different ones wait (0: no such bound). No change ever waits longer than the window, also not
// after a flush that the size set off: the next window begins with the next change. A window of 0 lets everything go at
// once. What "newest wins" means is the change log's matter (view_store.h): a waiting change that is replaced counts
// once. Pure.

#ifndef MANTARAY_SYNCER_COALESCER_H_
#define MANTARAY_SYNCER_COALESCER_H_

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
  int64_t DeadlineMs() const { return waiting_ == 0 ? kNeverMs : first_ms_ + options_.window_ms; }
  // Everything went.
  void Flushed() { waiting_ = 0; }
  size_t waiting() const { return waiting_; }

 private:
  CoalescerOptions options_;
  size_t waiting_ = 0;
  int64_t first_ms_ = 0;
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_COALESCER_H_
