// The relay: many downstream streams (nodes, or further relays), one upstream stream (the GCS, or the next relay).
//
// It takes in what its streams say, keeps the newest of it, and hands each stream what that stream has yet to see:
// changes gathered for a window in both directions, commands at once and none of them lost. Frames are made once and
// shared by all streams that stand at the same position. A node never gets its own messages back.
//
// What it survives, in terms of its transport: streams that end at any moment without a word, in either direction, and
// come back; readers that stop reading; frames lost, repeated or late across streams (within one stream they come in
// order); an upstream that restarts empty or replays what it had; its own restart; hostile clients (shield.h).
//
// How nodes come and go:
// - A node's own stream is its authority. The newest stream of a node replaces the one before. What another stream says
//   about it: an echo (raylets send all they know when they connect) is dropped; a newer version than the node itself
//   or the relay below that carries it has sent ends a stream of a node (PermissionDenied), and waits on a stream of a
//   relay until the node's own has ended. From a node that has just connected it is dropped as well if it is little
//   ahead: the other one may have moved, while the end of its stream here is not known yet.
// - A node without a stream stays for `grace_ms`, then leaves the view. From then on this relay knows it to be dead:
//   upstream's replay does not bring it back, and nobody who joins is shown it. It comes back by connecting, or with a
//   newer version.
// - RelayObserver::NodeLeft lets the transport withdraw it upstream: a GCS forgets a node when a stream under that
//   node's id ends, so it opens one with WithdrawMetadata() and ends it. A relay upstream takes the same stream as
//   notice. It is told only when upstream has had `replay_ms` to say that the node lives elsewhere by now.
// - Upstream may take such a word for one about a node that has moved here meanwhile and says nothing new: what is
//   known of a node that comes from elsewhere goes upstream once more after two grace times.
// - A GCS does not say which nodes are gone. What it does not name within `replay_ms` of a new stream is forgotten, and
//   when the view is full, whatever of upstream's has not changed for longest.
// - A node whose own versions fall behind what is known of it (it started over, or somebody else spoke for it) has them
//   raised, so that they go on upwards.
//
// What is on its way once is not repeated to nodes and the GCS: a gRPC stream delivers all or ends, and a new one gets
// everything; they would log each repetition as stale. Between relays digests (digest.h) find what is missing.
//
// Peer: the transport's end of a stream. Core calls it, never after it was closed or removed; it must not call back
// into the core from there. Frames are pulled: Take is called when a write slot is free, so that at most one write is
// under way and whatever arrives meanwhile is gathered. After Take returned nothing, WriteReady says that it is worth
// calling again.
//
// Not thread-safe: calls are made one at a time. Pure: time is handed in, and Tick is called at NextDeadlineMs or
// later.

#ifndef MANTARAY_SYNCER_RELAY_CORE_H_
#define MANTARAY_SYNCER_RELAY_CORE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/common/clock.h"
#include "mantaray/syncer/node_registry.h"
#include "mantaray/syncer/relay_digests.h"
#include "mantaray/syncer/relay_frames.h"
#include "mantaray/syncer/relay_state.h"
#include "mantaray/syncer/relay_types.h"
#include "mantaray/syncer/shield.h"
#include "mantaray/syncer/view_store.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::syncer {

class RelayCore {
 public:
  // `clock` and `observer` (may be null) outlive the core.
  RelayCore(const RelayOptions& options, const Clock* clock, RelayObserver* observer = nullptr);
  ~RelayCore();
  RelayCore(const RelayCore&) = delete;
  RelayCore& operator=(const RelayCore&) = delete;

  // --- Downstream

  // A client opened a stream. `peer` outlives it. An error refuses it: finish the stream with that status, the core
  // knows nothing of it. Cancelled: it was a withdrawal, and has done its work.
  absl::StatusOr<StreamId> AddDownstream(const StreamMetadata& metadata, Peer* peer);
  // A gRPC message arrived on it. May end it (Peer::Close). Nothing happens for a stream that has ended.
  void OnDownstreamBytes(StreamId stream, std::string_view bytes);
  // For a stream that the transport found to have come round a ring of relays: counts it, and says how to end it.
  absl::Status RefuseRing() { return state_.shield.Refuse(Refusal::kLoop, "it has come through this relay before"); }
  // The stream ended. Nothing happens for one that has ended already.
  void RemoveDownstream(StreamId stream);
  // What to answer to a client, beside the `node_id` that upstream answers.
  StreamMetadata DownstreamMetadata() const;

  // --- Upstream

  // What to open the upstream stream with, `node_id` included.
  StreamMetadata UpstreamMetadata() const;
  // Upstream answered with `initial_metadata`. Takes the place of a stream before it. FailedPrecondition: a loop; do
  // not use it, and try again later.
  absl::StatusOr<StreamId> UpstreamConnected(const StreamMetadata& initial_metadata, Peer* peer);
  void OnUpstreamBytes(StreamId stream, std::string_view bytes);
  void UpstreamLost(StreamId stream);
  // What to open the stream with that withdraws a node upstream (RelayObserver::NodeLeft).
  StreamMetadata WithdrawMetadata(const NodeId& node_id) const;

  // --- Both

  // The next frame to write on a stream, or nothing for now. Called again only when the frame before was written;
  // downstream one frame ahead may be taken, to be written together with the one before.
  std::optional<Frame> Take(StreamId id);

  // Does what is due.
  void Tick();
  // When Tick is next worth calling; kNeverMs if never. May move to earlier with every call of another method.
  int64_t NextDeadlineMs() const;

  const RelayMetrics& metrics() const { return state_.metrics; }
  const Shield& shield() const { return state_.shield; }
  const ViewStore& view() const { return state_.view; }
  const std::string& relay_id() const { return state_.relay_id; }
  std::vector<StreamStatus> Streams() const;
  size_t downstream_streams() const { return state_.streams.size() - (state_.upstream != nullptr ? 1 : 0); }
  bool upstream_connected() const { return state_.upstream != nullptr; }
  // Whether the stream upstream can carry messages already (its dialect is known).
  bool upstream_ready() const;
  // Bytes held for messages, the streams' share included.
  size_t MemoryBytes() const;

 private:
  enum class Verdict : uint8_t { kAccept, kDrop, kWait, kImpersonation };

  // Streams (relay_core.cc).
  absl::Status CheckLoop(const Hello& hello);
  absl::Status Withdraw(const Hello& hello);
  RelayStream* AddStream(Hello hello, Peer* peer, size_t direction);
  void CloseStream(RelayStream* stream, const absl::Status& status);
  void EraseStream(RelayStream* stream);
  void DropUpstream();
  void SpeakUpstream(Dialect dialect);
  void GuessUpstreamDialect();
  absl::Status TakeIn(RelayStream* stream, const Shield::CheckedFrame& frame);
  void LearnDialect(RelayStream* stream, const Shield::CheckedFrame& frame);

  // Messages (relay_messages.cc).
  Verdict Judge(const RelayStream& stream, const SyncMessage& message);
  absl::Status AcceptFromBelow(RelayStream* stream, const SyncMessage& message);
  void AcceptFromAbove(const SyncMessage& message);
  void Contend(const RelayStream& stream, const SyncMessage& message);
  void RaiseIfBehind(RelayStream* stream, const SyncMessage& message, const ViewEntry& known);
  void Adopt(ViewEntry* entry, RelayStream* stream);
  static bool SaysWhere(const ViewEntry& entry, const RelayStream& stream);
  void Unbind(NodeState* node);
  absl::Status OnRelayTalk(RelayStream* stream, const Shield::CheckedFrame& frame);

  RelayState state_;
  RelayDigests digests_;
  RelayFrames frames_;
  NodeRegistry nodes_;
  std::unordered_map<NodeId, StreamId, NodeIdHash> stream_of_node_;  // downstream
  StreamId last_stream_ = kNoStream;
  Dialect upstream_dialect_;
  // Up to where upstream has got the commands; later ones go with all their flags when a new stream begins.
  uint64_t commands_up_ = 0;
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_RELAY_CORE_H_
