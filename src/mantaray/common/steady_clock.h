// The machine's monotonic clock.
//
// A core takes a Clock as an argument instead, so that it also runs under a virtual one.

#ifndef MANTARAY_COMMON_STEADY_CLOCK_H_
#define MANTARAY_COMMON_STEADY_CLOCK_H_

#include <chrono>
#include <cstdint>

#include "mantaray/common/clock.h"

namespace mantaray {

// Milliseconds since an arbitrary fixed moment; never goes back.
inline int64_t SteadyNowMs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

class SteadyClock final : public Clock {
 public:
  int64_t NowMs() const override { return SteadyNowMs(); }
};

}  // namespace mantaray

#endif  // MANTARAY_COMMON_STEADY_CLOCK_H_
