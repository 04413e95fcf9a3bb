// What the parts of a relay's core share: its streams, the view, and what can be seen of it.

#ifndef MANTARAY_SYNCER_RELAY_STATE_H_
#define MANTARAY_SYNCER_RELAY_STATE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "mantaray/common/clock.h"
#include "mantaray/syncer/relay_types.h"
#include "mantaray/syncer/shield.h"
#include "mantaray/syncer/view_store.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::syncer {

// One stream of the relay, downstream or upstream.
struct RelayStream {
  StreamId id = kNoStream;
  Peer* peer = nullptr;
  Hello hello;
  size_t direction = kDown;
  Dialect dialect = Dialect::kUnknown;
  // Whether Take returned nothing. Then the peer gets WriteReady when there is something.
  bool waiting = true;
  // The position up to which the stream has taken what there is, by type.
  std::array<uint64_t, kMessageTypes> taken{};
  // Commands up to commands_floor are older than the stream. Commands up to commands_written were sent before the frame
  // that is being written.
  uint64_t commands_floor = 0;
  uint64_t commands_written = 0;
  int64_t connected_ms = 0;
  int64_t behind_since_ms = kNeverMs;
  // On a node's own stream: the newest version that the node has sent, and by how much its versions are raised, by
  // type.
  std::array<int64_t, kMessageTypes> own_version{-1, -1};
  std::array<int64_t, kMessageTypes> raised_by{};
  std::array<int, kMessageTypes> words_behind{};
  // Between relays: when the stream last got a digest, the buckets that the other end asked for, and the buckets to ask
  // it for.
  int64_t digest_sent_ms = 0;
  uint64_t buckets_to_send = 0;
  uint64_t buckets_to_request = 0;

  bool is_relay() const { return !hello.relay_id.empty(); }
  bool is_upstream() const { return direction == kUp; }
};

struct RelayState {
  RelayState(const RelayOptions& relay_options, const Clock* relay_clock);

  RelayStream* FindStream(StreamId id);
  // The ids of the relays that lie below this one.
  std::set<std::string> RelaysBelow() const;
  // Whether upstream has had the time to say all that it knows, and when it will have had.
  bool Settled() const;
  int64_t SettledAtMs() const { return upstream_since_ms + options.replay_ms; }

  const RelayOptions options;
  const Clock* const clock;
  const std::string relay_id;
  Shield shield;
  ViewStore view;
  RelayMetrics metrics;
  std::map<StreamId, std::unique_ptr<RelayStream>> streams;  // all streams, the one upstream included
  std::map<StreamId, RelayStream*> relay_streams;            // the streams to and from other relays
  RelayStream* upstream = nullptr;
  int64_t upstream_since_ms = 0;
  std::vector<std::string> relays_above;  // the nearest first
};

// The newest message of a node of one type; null if there is none.
inline const ViewEntry* EntryOf(const NodeState& node, MessageType type) {
  return node.entries[static_cast<size_t>(type)].get();
}

inline int64_t VersionOf(const NodeState& node, MessageType type) {
  const ViewEntry* entry = EntryOf(node, type);
  return entry == nullptr ? -1 : entry->version;
}

// Whether a node lives behind one of the relay's own streams, or did until a moment ago.
inline bool LivesBelow(const NodeState& node) { return node.carried_by != kNoStream || node.leaves_ms != kNeverMs; }

// Whether a stream brought an entry, or carries its node. Such an entry is never sent to it.
inline bool IsOwn(const RelayStream& stream, const ViewEntry& entry) {
  return entry.source == stream.id || entry.node->carried_by == stream.id;
}

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_RELAY_STATE_H_
