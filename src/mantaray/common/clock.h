// A clock that is passed as an argument, so that the same code runs under the real clock and under a virtual one.

#ifndef MANTARAY_COMMON_CLOCK_H_
#define MANTARAY_COMMON_CLOCK_H_

#include <atomic>
#include <cstdint>

namespace mantaray {

// A monotonic clock. Implementations are thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Milliseconds since an arbitrary fixed moment; never goes back.
  virtual int64_t NowMs() const = 0;
};

// A clock that moves only when a caller moves it.
class VirtualClock : public Clock {
 public:
  int64_t NowMs() const override { return now_ms_.load(std::memory_order_relaxed); }
  void AdvanceMs(int64_t delay_ms) { now_ms_.fetch_add(delay_ms, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> now_ms_{0};
};

}  // namespace mantaray

#endif  // MANTARAY_COMMON_CLOCK_H_
