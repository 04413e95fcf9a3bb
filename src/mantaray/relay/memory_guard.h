// Keeps a relay's memory under a limit: decides which calls end when the process has taken too much.
//
// gRPC reads and holds whole messages. Its own bound, the resource quota, cancels streams of any connection. It starts
// with the sync streams of nodes and with waiting long polls, and it uses a status that Ray does not repeat. So the
// relay looks at the memory that the process really has. Above the limit it ends calls that move large messages, a part
// of them at a time, with UNAVAILABLE, which Ray repeats. It ends
//
// - first the calls whose reader has taken nothing for kStalledMs, the oldest first,
// - then the youngest, so that the oldest get through and the retries of the others find room.
//
// The relay never ends a call without a large message. If no other call is left to end, it refuses new calls.

#ifndef MANTARAY_RELAY_MEMORY_GUARD_H_
#define MANTARAY_RELAY_MEMORY_GUARD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mantaray::relay {

// A call that moves a large message. `Call` is how the caller identifies a call.
template <typename Call>
struct BulkCall {
  Call call;
  int64_t began_ms = 0;  // when the message began to arrive, or to wait for its reader
  bool waits_for_reader = false;
};

inline constexpr int64_t kStalledMs = 5'000;

// Returns the calls to end now, out of those that move large messages: a quarter, and at least one.
template <typename Call>
std::vector<Call> CallsToEnd(std::vector<BulkCall<Call>> bulk, int64_t now_ms) {
  const auto stalled = [now_ms](const BulkCall<Call>& one) {
    return one.waits_for_reader && now_ms - one.began_ms >= kStalledMs;
  };
  std::sort(bulk.begin(), bulk.end(), [&stalled](const BulkCall<Call>& a, const BulkCall<Call>& b) {
    if (stalled(a) != stalled(b)) {
      return stalled(a);
    }
    return stalled(a) ? a.began_ms < b.began_ms : a.began_ms > b.began_ms;
  });
  std::vector<Call> ended;
  const size_t count = (bulk.size() + 3) / 4;
  for (size_t i = 0; i < count; ++i) {
    ended.push_back(bulk[i].call);
  }
  return ended;
}

// Bytes of memory that this process has resident.
int64_t ResidentBytes();

// Four fifths of the memory that this process may take: of its cgroup, or of the machine.
int64_t DefaultMemoryLimitBytes();

// Gives free memory back to the system.
void TrimMemory();

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_MEMORY_GUARD_H_
