// How long to wait before connecting upstream again: doubling, bounded, and jittered, so that the relays of a cluster
// do not come back all at once. Pure: the random part is handed in.

#ifndef MANTARAY_SYNCER_BACKOFF_H_
#define MANTARAY_SYNCER_BACKOFF_H_

#include <algorithm>
#include <cstdint>

namespace mantaray::syncer {

struct BackoffOptions {
  int64_t first_ms = 100;
  int64_t max_ms = 5'000;
};

class Backoff {
 public:
  explicit Backoff(BackoffOptions options) : options_(options), next_ms_(options.first_ms) {}

  // The next wait, between half of what it could be and all of it; `random` is uniform in [0, 1).
  int64_t NextMs(double random) {
    const int64_t base_ms = next_ms_;
    next_ms_ = std::min(options_.max_ms, base_ms * 2);
    const int64_t half_ms = base_ms / 2;
    return half_ms + static_cast<int64_t>(static_cast<double>(base_ms - half_ms) * random);
  }
  // A connection held: begin from the start next time.
  void Reset() { next_ms_ = options_.first_ms; }

 private:
  BackoffOptions options_;
  int64_t next_ms_;
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_BACKOFF_H_
