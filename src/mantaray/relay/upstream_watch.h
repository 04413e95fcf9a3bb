// Decides when a relay stops hiding from its nodes that its upstream is gone. Pure.
//
// Ray's processes end themselves when their connection to the GCS stays broken. Behind a relay that connection leads to
// the relay and stays up, so a node that is cut off would retry its calls for ever. A relay whose upstream has been out
// of reach for a time therefore closes its listener and every connection, and Ray does what it does without a relay.
// The relay listens again as soon as the upstream is back.

#ifndef MANTARAY_RELAY_UPSTREAM_WATCH_H_
#define MANTARAY_RELAY_UPSTREAM_WATCH_H_

#include <cstdint>

namespace mantaray::relay {

// What is known of the connection to the upstream. `kUnknown`: no attempt has succeeded or failed since the last look.
enum class Upstream { kReachable, kOutOfReach, kUnknown };

class UpstreamWatch {
 public:
  enum class Order { kGoOn, kClose, kListen };

  // Args: `timeout_ms` is how long the upstream may be out of reach, 0 for ever. `now_ms`: the relay listens from now
  // on.
  UpstreamWatch(int64_t timeout_ms, int64_t now_ms) : timeout_ms_(timeout_ms), reachable_ms_(now_ms) {}

  // Tells how the upstream stands; call it often. Returns what to do about it.
  Order Observe(Upstream upstream, int64_t now_ms) {
    if (upstream == Upstream::kReachable) {
      reachable_ms_ = now_ms;
      lost_ = false;
      if (!listening_) {
        listening_ = true;
        return Order::kListen;
      }
      return Order::kGoOn;
    }
    lost_ = lost_ || upstream == Upstream::kOutOfReach;
    if (listening_ && lost_ && timeout_ms_ > 0 && now_ms - reachable_ms_ >= timeout_ms_) {
      listening_ = false;
      return Order::kClose;
    }
    return Order::kGoOn;
  }

  // How long the upstream has been out of reach.
  int64_t lost_ms(int64_t now_ms) const { return now_ms - reachable_ms_; }

 private:
  const int64_t timeout_ms_;
  int64_t reachable_ms_;
  bool lost_ = false;
  bool listening_ = true;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_UPSTREAM_WATCH_H_
