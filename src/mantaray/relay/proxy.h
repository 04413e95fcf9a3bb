// The byte-level proxy: every call that arrives leaves again, unchanged, to the upstream; unary and streaming alike.
//
// Carried both ways without a look inside: messages, metadata (credentials among it), trailers, status codes with
// message and details, deadlines, cancellation, half-closes. A message is neither parsed nor copied. Flow control is
// end to end: of each direction of a call at most two messages are held here. Calls for one package share a fetch
// (package_flights.h), and reads that ask the same, when there are many, share an answer (read_gate.h). There is a
// limit on calls under way, and one on watches of the relay's own health, which cost the upstream nothing and so are
// bounded by nobody else. When the process has more memory than its limit, calls that move large messages end with
// UNAVAILABLE (memory_guard.h).
//
// What the proxy adds: a `mantaray-relay-path` entry, the ids of the relays that a call came through, by which one that
// comes back to its own relay is refused (a ring of relays would otherwise carry it round for ever). What it answers
// itself: calls of the health service that ask for the service "mantaray" (see health.h), calls in a ring, and, while
// it is draining, calls that are still waiting (UNAVAILABLE).
//
// The calls of a client reach the upstream in the order in which they came: all are carried by one thread, and those of
// one client by one connection. (While that connection is being made, gRPC lets the calls that wait for it go in
// another order, as it does in Ray's processes.) A read that shares an answer may see what its client wrote after it,
// and never misses what its client wrote before it.

#ifndef MANTARAY_RELAY_PROXY_H_
#define MANTARAY_RELAY_PROXY_H_

#include <grpcpp/channel.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/metrics.h"
#include "mantaray/relay/package_flights.h"
#include "mantaray/relay/package_key.h"
#include "mantaray/relay/shared_reads.h"

namespace mantaray::relay {

class ProxyCall;

class Proxy {
 public:
  struct Limits {
    size_t calls = 50'000;                // under way; more are refused with UNAVAILABLE, which Ray repeats
    size_t watches = 100;                 // of the relay's own health; more are refused with RESOURCE_EXHAUSTED
    int64_t package_bytes = 256'000'000;  // no fetch of a package begins while messages of so many bytes wait here
    int64_t memory_bytes = 0;             // that this process may take; 0: no limit
    SharedReads::Options reads;
  };

  // Args: `loop` runs all calls, and `queue` is its queue, registered with the server; `channels` lead to the upstream,
  // each over a connection of its own; `relay_id` is this relay's in `mantaray-relay-path`.
  Proxy(EventLoop* loop, grpc::ServerCompletionQueue* queue, std::vector<std::shared_ptr<grpc::Channel>> channels,
        std::string relay_id, const Limits& limits, Metrics* metrics);
  ~Proxy();

  // To be registered with the server before that is started.
  grpc::AsyncGenericService* service() { return &service_; }
  // Begins to take calls. The server must be running, the loop not yet.
  void Start();
  // Ends the calls that are under way after so many milliseconds, with UNAVAILABLE. Any thread.
  void Drain(int64_t delay_ms);
  // Whether no call is under way. The loop's thread only.
  bool idle() const { return calls_.empty() && reads_.idle(); }

 private:
  friend class ProxyCall;

  // A package is not kept waiting for slow readers of others for longer than this.
  static constexpr int64_t kWaitForRoomMs = 5'000;
  // The proxy reads the size of the process every kLookAtMemoryMs, and every kLookOftenMs once half of the limit is
  // used. After it has ended calls, it waits for kLookAgainMs, in which their memory becomes free.
  static constexpr int64_t kLookAtMemoryMs = 50;
  static constexpr int64_t kLookOftenMs = 10;
  static constexpr int64_t kLookAgainMs = 100;
  // Free memory goes back to the system at most this often, and once before new calls are refused.
  static constexpr int64_t kTrimMs = 1'000;

  void AcceptOne();
  void OnReleased();
  // Sees to it that a package that waits for room gets its turn.
  void WatchRoom();
  void LookAtMemory(int64_t delay_ms);
  bool HasTooMuchMemory();
  // The same, after free memory has gone back to the system.
  bool HasTooMuchAfterTrim();
  void EndBulkCalls();
  // Takes a message into account for as long as it is here.
  HeldMessage Hold(const grpc::ByteBuffer& message);
  grpc::GenericStub* StubFor(const std::string& peer);

  grpc::AsyncGenericService service_;
  EventLoop* loop_;
  grpc::ServerCompletionQueue* queue_;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  std::string relay_id_;
  const Limits limits_;
  Metrics* metrics_;
  std::function<void()> released_;
  PackageFlights<FetchedPackage> packages_;
  SharedReads reads_;
  bool resume_deferred_ = false;
  EventLoop::TimerId room_timer_ = 0;
  std::unordered_set<ProxyCall*> calls_;  // under way
  size_t watches_ = 0;
  bool refuses_ = false;  // Refuses new calls, because calls that may not be ended use up the memory.
  int64_t trim_due_ms_ = 0;
  bool serving_ = true;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_PROXY_H_
