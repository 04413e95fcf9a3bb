// Tells whether a loop still runs what is posted to it, without waiting for it.

#ifndef MANTARAY_RELAY_PULSE_H_
#define MANTARAY_RELAY_PULSE_H_

#include <atomic>
#include <cstdint>

namespace mantaray::relay {

// Each question posts a beat to the loop unless one is still on its way. A loop is stuck when that beat is old. One
// thread asks. The loop must not run a beat after the pulse is gone.
template <typename Loop>
class Pulse {
 public:
  static constexpr int64_t kStuckMs = 5'000;

  explicit Pulse(Loop* loop) : loop_(loop) {}

  bool Alive(int64_t now_ms) {
    const int64_t sent_ms = sent_ms_.load();
    if (sent_ms != kNone) {
      return now_ms - sent_ms < kStuckMs;
    }
    sent_ms_ = now_ms;
    loop_->Post([this] { sent_ms_ = kNone; });
    return true;
  }

 private:
  static constexpr int64_t kNone = -1;

  Loop* loop_;
  std::atomic<int64_t> sent_ms_{kNone};  // of the beat on its way
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_PULSE_H_
