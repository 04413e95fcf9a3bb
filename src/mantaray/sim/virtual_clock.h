// Virtual time: events wait in a queue, and taking the next one moves the clock to its moment. Nothing sleeps.
//
// Events of the same moment come in the order in which they were scheduled, so a run is a function of its inputs.

#ifndef MANTARAY_SIM_VIRTUAL_CLOCK_H_
#define MANTARAY_SIM_VIRTUAL_CLOCK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "mantaray/common/clock.h"

namespace mantaray::sim {

// Not thread-safe. `Event` is movable.
template <typename Event>
class EventQueue {
 public:
  // The clock is this queue's alone to move.
  explicit EventQueue(VirtualClock* clock) : clock_(clock) {}

  // A moment that has passed already counts as now.
  void ScheduleAt(int64_t at_ms, Event event) {
    entries_.push_back({std::max(at_ms, clock_->NowMs()), next_number_++, std::move(event)});
    std::push_heap(entries_.begin(), entries_.end(), Later);
  }

  void ScheduleAfter(int64_t delay_ms, Event event) { ScheduleAt(clock_->NowMs() + delay_ms, std::move(event)); }

  // Moves the clock to the next event and takes it; nothing when there is none.
  std::optional<Event> PopNext() {
    if (entries_.empty()) return std::nullopt;
    std::pop_heap(entries_.begin(), entries_.end(), Later);
    Entry entry = std::move(entries_.back());
    entries_.pop_back();
    clock_->AdvanceMs(entry.at_ms - clock_->NowMs());
    return std::move(entry.event);
  }

  // When the next event is due; nothing when there is none.
  std::optional<int64_t> NextAtMs() const {
    if (entries_.empty()) return std::nullopt;
    return entries_.front().at_ms;
  }

  // Forgets the events for which `unwanted(event)` holds, and returns how many.
  template <typename Predicate>
  size_t Drop(const Predicate& unwanted) {
    const size_t dropped = std::erase_if(entries_, [&](const Entry& entry) { return unwanted(entry.event); });
    std::make_heap(entries_.begin(), entries_.end(), Later);
    return dropped;
  }

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    int64_t at_ms;
    uint64_t number;
    Event event;
  };

  static bool Later(const Entry& one, const Entry& other) {
    return one.at_ms != other.at_ms ? one.at_ms > other.at_ms : one.number > other.number;
  }

  VirtualClock* const clock_;
  std::vector<Entry> entries_;
  uint64_t next_number_ = 0;
};

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_VIRTUAL_CLOCK_H_
