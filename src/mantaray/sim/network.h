// A network of numbered nodes under virtual time, with faults on a seeded schedule.
//
// Every message may be slow, may overtake others and may arrive twice; a link may be cut for a while. What happens to a
// message is a function of the seed, the link and the message's `key`, not of what else is sent, so that a shrinker can
// take messages away and the rest keep their fates.
//
// Messages sent over a link that is cut, or on their way when it is cut explicitly, are either held until it heals (a
// transport that sends again) or lost. Messages to a dead node vanish; what a node sent before it died may still
// arrive.

#ifndef MANTARAY_SIM_NETWORK_H_
#define MANTARAY_SIM_NETWORK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "mantaray/common/clock.h"
#include "mantaray/sim/random.h"
#include "mantaray/sim/virtual_clock.h"

namespace mantaray::sim {

using NodeNumber = uint32_t;

struct FaultOptions {
  // A usual message takes between these; whoever takes longer is overtaken.
  int64_t min_delay_ms = 1;
  int64_t max_delay_ms = 10;
  // Some take up to this long.
  uint32_t slow_permille = 0;
  int64_t slow_delay_ms = 200;
  // Some arrive a second time, up to slow_delay_ms after the first.
  uint32_t double_permille = 0;
  // Time is divided into periods; in some of them a link is cut for up to cut_ms. 0: never.
  uint32_t cut_permille = 0;
  int64_t cut_period_ms = 500;
  int64_t cut_ms = 200;
  // What becomes of messages on a cut link: held until it heals, or lost.
  bool cuts_lose = false;
};

// What becomes of one message.
struct Fate {
  int64_t delay_ms;
  // After the first arrival; negative: it does not arrive again.
  int64_t again_after_ms = -1;
};

// Decides everything from the seed; has no state.
class FaultSchedule {
 public:
  FaultSchedule(uint64_t seed, const FaultOptions& options) : seed_(seed), options_(options) {}

  Fate FateOf(NodeNumber from, NodeNumber to, uint64_t key) const {
    Random random(Mix(seed_, from, to, key));
    Fate fate{random.Between(options_.min_delay_ms, options_.max_delay_ms)};
    if (random.Chance(options_.slow_permille)) {
      fate.delay_ms = random.Between(options_.max_delay_ms, std::max(options_.max_delay_ms, options_.slow_delay_ms));
    }
    if (random.Chance(options_.double_permille)) fate.again_after_ms = random.Between(0, options_.slow_delay_ms);
    return fate;
  }

  // When the link between the two, which is cut at this moment, heals; nothing when it is not cut. Both ways alike.
  std::optional<int64_t> HealsAtMs(NodeNumber one, NodeNumber other, int64_t now_ms) const {
    if (options_.cut_permille == 0 || one == other) return std::nullopt;
    const int64_t period = now_ms / options_.cut_period_ms;
    Random random(Mix(seed_, 0xc07, std::min(one, other), std::max(one, other), static_cast<uint64_t>(period)));
    if (!random.Chance(options_.cut_permille)) return std::nullopt;
    const int64_t start = period * options_.cut_period_ms + random.Between(0, options_.cut_period_ms - 1);
    const int64_t end = start + random.Between(1, std::max<int64_t>(1, options_.cut_ms));
    if (now_ms < start || now_ms >= end) return std::nullopt;
    return end;
  }

  const FaultOptions& options() const { return options_; }

 private:
  const uint64_t seed_;
  const FaultOptions options_;
};

// A message that has arrived.
template <typename Message>
struct Delivery {
  NodeNumber from;
  NodeNumber to;
  Message message;
  // Whether it has arrived before.
  bool again = false;
};

// Not thread-safe. `Message` is copyable.
template <typename Message>
class VirtualNetwork {
 public:
  VirtualNetwork(VirtualClock* clock, FaultSchedule faults)
      : clock_(clock), faults_(std::move(faults)), in_flight_(clock) {}

  // Sends a message; it may overtake and be overtaken.
  void Send(NodeNumber from, NodeNumber to, uint64_t key, Message message) {
    SendAt(from, to, key, std::move(message), /*not_before_ms=*/0);
  }

  // Sends a message in a numbered stream from one node to the other: first arrivals keep the order of sending; a
  // second arrival may come any time after its first.
  void SendInOrder(NodeNumber from, NodeNumber to, uint64_t key, Message message) {
    int64_t& last_ms = last_in_order_ms_[{from, to}];
    last_ms = SendAt(from, to, key, std::move(message), last_ms);
  }

  // A message that no fault touches: a timer, or what a node tells itself.
  void SendAfter(NodeNumber from, NodeNumber to, int64_t delay_ms, Message message) {
    in_flight_.ScheduleAfter(delay_ms, {from, to, std::move(message), false});
  }

  // Moves the clock to the next arrival and returns it; nothing when nothing is on its way.
  std::optional<Delivery<Message>> Next() {
    while (std::optional<Delivery<Message>> delivery = in_flight_.PopNext()) {
      if (!dead_.contains(delivery->to)) return delivery;
    }
    return std::nullopt;
  }

  // When the next message arrives; nothing when nothing is on its way.
  std::optional<int64_t> NextAtMs() const { return in_flight_.NextAtMs(); }

  void Kill(NodeNumber node) {
    dead_.insert(node);
    in_flight_.Drop([&](const Delivery<Message>& delivery) { return delivery.to == node; });
  }

  bool IsDead(NodeNumber node) const { return dead_.contains(node); }

  // Cuts the link both ways until Heal, on top of the schedule; what is on its way is lost or held, as the options say.
  void Cut(NodeNumber one, NodeNumber other) {
    cut_.insert(std::minmax(one, other));
    const auto on_link = [&](const Delivery<Message>& delivery) {
      return std::minmax(delivery.from, delivery.to) == std::minmax(one, other);
    };
    if (faults_.options().cuts_lose) {
      in_flight_.Drop(on_link);
      return;
    }
    in_flight_.Drop([&](const Delivery<Message>& delivery) {
      if (!on_link(delivery)) return false;
      held_.push_back(delivery);
      return true;
    });
  }

  void Heal(NodeNumber one, NodeNumber other) {
    cut_.erase(std::minmax(one, other));
    std::erase_if(held_, [&](Delivery<Message>& delivery) {
      if (std::minmax(delivery.from, delivery.to) != std::minmax(one, other)) return false;
      in_flight_.ScheduleAfter(faults_.options().min_delay_ms, std::move(delivery));
      return true;
    });
  }

  size_t in_flight() const { return in_flight_.size(); }

 private:
  using Link = std::pair<NodeNumber, NodeNumber>;

  // Returns when it first arrives.
  int64_t SendAt(NodeNumber from, NodeNumber to, uint64_t key, Message message, int64_t not_before_ms) {
    const Fate fate = faults_.FateOf(from, to, key);
    int64_t sent_ms = clock_->NowMs();
    if (cut_.contains(std::minmax(from, to))) {
      if (!faults_.options().cuts_lose) held_.push_back({from, to, std::move(message), false});
      return not_before_ms;
    }
    if (const std::optional<int64_t> heals_ms = faults_.HealsAtMs(from, to, sent_ms)) {
      if (faults_.options().cuts_lose) return not_before_ms;
      sent_ms = *heals_ms;
    }
    const int64_t at_ms = std::max(sent_ms + fate.delay_ms, not_before_ms);
    // First the first arrival: the queue keeps the order of what is due at the same moment.
    in_flight_.ScheduleAt(at_ms, {from, to, message, false});
    if (fate.again_after_ms >= 0) {
      in_flight_.ScheduleAt(at_ms + fate.again_after_ms, {from, to, std::move(message), true});
    }
    return at_ms;
  }

  VirtualClock* const clock_;
  const FaultSchedule faults_;
  EventQueue<Delivery<Message>> in_flight_;
  std::vector<Delivery<Message>> held_;
  std::map<Link, int64_t> last_in_order_ms_;
  std::set<NodeNumber> dead_;
  std::set<Link> cut_;
};

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_NETWORK_H_
