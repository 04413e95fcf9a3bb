// How simulated raylets reach the GCS or a relay: a connection and a sync stream for each node.
//
// Two implementations: SocketTransport speaks HTTP/2 by hand and costs little beside what is measured; GrpcTransport
// uses the gRPC library, as raylets do, and costs what it costs. Errors are texts, and only standard types pass here,
// because the gRPC library brings an Abseil of its own.

#ifndef MANTARAY_BENCHMARKS_SYNC_STORM_TRANSPORT_H_
#define MANTARAY_BENCHMARKS_SYNC_STORM_TRANSPORT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mantaray::storm {

inline constexpr char kSyncMethod[] = "/ray.rpc.syncer.RaySyncer/StartSync";

struct TransportOptions {
  std::vector<std::string> targets;   // host:port, numeric; node i connects to target i modulo their number
  std::vector<std::string> node_ids;  // hex, one a node
  std::string token;                  // sent as `authorization: Bearer <token>` if not empty
  uint32_t window_bytes = 1 << 20;    // of a stream; the gRPC library chooses its own
};

// Not thread-safe: everything happens in calls of Poll.
class Transport {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void OnMessage(uint32_t node, std::string_view data) = 0;
    // CanSend() may have become true.
    virtual void OnRoom(uint32_t node) = 0;
  };

  virtual ~Transport() = default;
  // Opens all streams; they become ready while polled. Returns what went wrong, or nothing.
  virtual std::string Start() = 0;
  // Whether the node may send a message of this size now; at most one is on its way at a time.
  virtual bool CanSend(uint32_t node, size_t bytes) const = 0;
  virtual void Send(uint32_t node, const std::string& message) = 0;
  // Waits so long for something to happen and passes it on. Returns what went wrong, or nothing.
  virtual std::string Poll(int wait_ms, Listener* listener) = 0;
  virtual uint64_t received_bytes() const = 0;
};

std::unique_ptr<Transport> MakeSocketTransport(TransportOptions options);
std::unique_ptr<Transport> MakeGrpcTransport(TransportOptions options);

}  // namespace mantaray::storm

#endif  // MANTARAY_BENCHMARKS_SYNC_STORM_TRANSPORT_H_
