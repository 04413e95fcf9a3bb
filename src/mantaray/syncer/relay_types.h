// What a relay's core is given, and what can be seen of it: options, the ends of its streams, metrics, status.

#ifndef MANTARAY_SYNCER_RELAY_TYPES_H_
#define MANTARAY_SYNCER_RELAY_TYPES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "mantaray/syncer/coalescer.h"
#include "mantaray/syncer/node_id.h"
#include "mantaray/syncer/payload.h"
#include "mantaray/syncer/view_store.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::syncer {

struct RelayOptions {
  NodeId node_id;  // under which it connects upstream; random, registered nowhere
  // How resource views are gathered on their way to nodes, where each message costs a write for every one of them, and
  // upstream, where it is one: what arrives while a write is under way is gathered there anyhow.
  CoalescerOptions downward{.window_ms = 25, .max_batch_messages = 0};
  CoalescerOptions upward{.window_ms = 0, .max_batch_messages = 0};
  int64_t grace_ms = 30'000;
  // How often relays compare what they know of each other. 0: never.
  int64_t digest_ms = 10'000;
  // A relay has heard all that upstream knows when it has been connected for this long.
  int64_t replay_ms = 10'000;
  NoiseOptions noise;
  WireLimits wire;
  FrameLimits frames;
  size_t max_nodes = 20'000;
  size_t max_streams = 10'000;
  // What to speak upstream. Set it when it is known, for a GCS dies of the wrong one. kUnknown: what upstream speaks
  // first; if it keeps silent for `dialect_wait_ms`, or is a relay, what most downstream streams speak (one cluster has
  // one Ray version).
  Dialect upstream_dialect = Dialect::kUnknown;
  int64_t dialect_wait_ms = 2'000;
};

class Peer {
 public:
  virtual ~Peer() = default;
  // Take will return a frame now.
  virtual void WriteReady() = 0;
  // The core has ended the stream, and forgot it. Finish it with this status.
  virtual void Close(const absl::Status& status) = 0;
};

class RelayObserver {
 public:
  virtual ~RelayObserver() = default;
  // A node was away for longer than the grace time and left the view; again, if upstream shows it all the same after a
  // reconnect. Must not call back.
  virtual void NodeLeft(const NodeId& node_id) = 0;
};

// How long messages stayed in the relay: counts by upper bound.
struct DelayHistogram {
  static constexpr std::array<int64_t, 14> kBoundsMs = {0,   1,   2,   5,     10,    20,    50,
                                                        100, 200, 500, 1'000, 2'000, 5'000, 10'000};
  std::array<uint64_t, kBoundsMs.size() + 1> counts{};
  uint64_t sum_ms = 0;

  void Add(int64_t delay_ms);
};

struct RelayMetrics {
  uint64_t frames_in = 0;
  uint64_t bytes_in = 0;
  uint64_t messages_in = 0;
  uint64_t frames_out = 0;
  uint64_t bytes_out = 0;
  uint64_t messages_out = 0;
  uint64_t upstream_frames_in = 0;  // of frames_in and so on, what came from or went upstream
  uint64_t upstream_messages_in = 0;
  uint64_t upstream_bytes_in = 0;
  uint64_t upstream_frames_out = 0;
  uint64_t upstream_messages_out = 0;
  uint64_t upstream_bytes_out = 0;
  uint64_t stale = 0;         // messages dropped for their version
  uint64_t echoes = 0;        // messages about other nodes, dropped
  uint64_t coalesced = 0;     // changes that were replaced by newer ones before they went on
  uint64_t noise_held = 0;    // updates that had to wait as noise
  uint64_t contended = 0;     // messages of relays about nodes that another stream carries
  uint64_t dead_dropped = 0;  // upstream's messages about nodes known to be dead
  uint64_t raised = 0;        // messages whose version was raised
  uint64_t resent = 0;        // entries of nodes that moved here, sent upstream once more
  uint64_t swept = 0;         // nodes that a new stream upstream did not name any more
  uint64_t evicted = 0;       // nodes of upstream's that made room
  uint64_t repaired_buckets = 0;
  uint64_t nodes_left = 0;
  uint64_t streams_replaced = 0;
  uint64_t upstream_connects = 0;
  DelayHistogram delay;  // from arrival until let go
};

struct StreamStatus {
  StreamId id = kNoStream;
  NodeId node_id;
  std::string relay_id;  // empty: a node
  bool is_upstream = false;
  Dialect dialect = Dialect::kUnknown;
  size_t nodes = 0;          // that live behind it
  size_t behind = 0;         // changes that it has yet to take
  int64_t behind_ms = 0;     // how long it has not been up to date
  int64_t connected_ms = 0;  // how long it has been there
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_RELAY_TYPES_H_
