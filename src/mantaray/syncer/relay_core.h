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

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/common/clock.h"
#include "mantaray/syncer/coalescer.h"
#include "mantaray/syncer/payload.h"
#include "mantaray/syncer/shield.h"
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

class RelayCore {
 public:
  // `clock` and `observer` (may be null) outlive the core.
  RelayCore(RelayOptions options, const Clock* clock, RelayObserver* observer = nullptr);
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
  absl::Status RefuseRing() { return shield_.Refuse(Refusal::kLoop, "it has come through this relay before"); }
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
  std::optional<Frame> Take(StreamId stream);

  // Does what is due.
  void Tick();
  // When Tick is next worth calling; kNeverMs if never. May move to earlier with every call of another method.
  int64_t NextDeadlineMs() const;

  const RelayMetrics& metrics() const { return metrics_; }
  const Shield& shield() const { return shield_; }
  const ViewStore& view() const { return view_; }
  const std::string& relay_id() const { return relay_id_; }
  std::vector<StreamStatus> Streams() const;
  size_t downstream_streams() const { return streams_.size() - (upstream_ != nullptr ? 1 : 0); }
  bool upstream_connected() const { return upstream_ != nullptr; }
  // Whether the stream upstream can carry messages already (its dialect is known).
  bool upstream_ready() const;
  // Bytes held for messages, the streams' share included.
  size_t MemoryBytes() const;

 private:
  struct Stream;
  // What is known of a node that left: the versions below which it never comes back, and if it died here, up to which.
  struct Tombstone {
    std::array<int64_t, kMessageTypes> versions{-1, -1};
    bool dead = false;
    StreamId told = kNoStream;  // the stream upstream during which the observer heard of it
  };
  enum class Verdict : uint8_t { kAccept, kDrop, kWait, kImpersonation };

  // Streams (relay_core.cc).
  Stream* FindStream(StreamId id);
  absl::Status CheckLoop(const Hello& hello);
  absl::Status Withdraw(const Hello& hello);
  std::set<std::string> RelaysBelow() const;
  Stream* AddStream(Hello hello, Peer* peer, size_t direction);
  void CloseStream(Stream* stream, const absl::Status& status);
  void EraseStream(Stream* stream);
  void DropUpstream();
  void SpeakUpstream(Dialect dialect);
  void GuessUpstreamDialect();
  absl::Status TakeIn(Stream* stream, const Shield::CheckedFrame& frame);
  void LearnDialect(Stream* stream, const Shield::CheckedFrame& frame);

  // Messages (relay_messages.cc).
  Verdict Judge(const Stream& stream, const SyncMessage& message);
  absl::Status AcceptFromBelow(Stream* stream, const SyncMessage& message);
  void AcceptFromAbove(const SyncMessage& message);
  void Contend(const Stream& stream, const SyncMessage& message);
  int64_t FloorOf(const SyncMessage& message) const;
  bool IsWordOfTheDead(const SyncMessage& message) const;
  bool IsKnownDead(const SyncMessage& message);
  void RaiseIfBehind(Stream* stream, const SyncMessage& message, const ViewEntry& known);
  void Adopt(ViewEntry* entry, Stream* stream);
  bool HoldAsNoise(ViewEntry* entry, const ViewEntry& before);
  void Publish(ViewEntry* entry, bool from_below);
  void ReleaseNoise();
  void Resend();

  // Nodes (relay_messages.cc).
  static bool SaysWhere(const ViewEntry& entry, const Stream& stream);
  static bool LivesBelow(const NodeState& node);
  void Bind(NodeState* node, Stream* stream);
  void Unbind(NodeState* node);
  void LivesElsewhere(NodeState* node);
  void StayFor(NodeState* node, int64_t leaves_ms);
  void Leave(NodeState* node, bool dead);
  void Forget(NodeState* node);
  void ExpireNodes();
  void Announce(const NodeId& node_id);
  void AnnounceAll();
  void SweepUpstream();
  void MakeRoomFor(const NodeId& node_id);

  // Frames (relay_frames.cc).
  Channel& ChannelOf(MessageType type, size_t direction);
  const Channel& ChannelOf(MessageType type, size_t direction) const;
  void ForgetSegments();
  void ReleaseAll();
  void Wake(Stream* stream);
  bool IsBehind(const Stream& stream) const;
  std::optional<Frame> TakeCommands(Stream* stream);
  std::optional<Frame> TakeViews(Stream* stream);
  std::optional<Frame> TakeBareView(Stream* stream);
  void TakeRelayTalk(Stream* stream, std::optional<Frame>* frame);
  std::string WithFlagsFor(const Stream& stream, const ViewEntry& entry) const;
  void CountOut(const Stream& stream, const Frame& frame);

  // Between relays (relay_frames.cc, digest.h).
  bool DigestDue(const Stream& stream) const;
  bool HasTakenAll(const Stream& stream) const;
  static bool IsOwn(const Stream& stream, const ViewEntry& entry);
  bool ShouldKnow(const Stream& stream, const ViewEntry& entry) const;
  bool HeldFrom(const Stream& stream, const ViewEntry& entry) const;
  bool Settled() const;
  int64_t SettledAtMs() const;
  absl::Status OnRelayTalk(Stream* stream, const Shield::CheckedFrame& frame);
  void ForgetMissing(const Stream& stream, const Shield::CheckedFrame& frame);
  std::string RepairBucket(const Stream& stream, size_t bucket, size_t* messages) const;

  RelayOptions options_;
  const Clock* clock_;
  RelayObserver* observer_;
  std::string relay_id_;
  Shield shield_;
  ViewStore view_;
  RelayMetrics metrics_;
  std::array<std::array<Channel, kDirections>, kMessageTypes> channels_;  // by type and direction
  std::map<StreamId, std::unique_ptr<Stream>> streams_;                   // all of them, upstream's too
  std::unordered_map<NodeId, StreamId, NodeIdHash> stream_of_node_;       // downstream
  std::map<StreamId, Stream*> relay_streams_;                             // to and from other relays
  Stream* upstream_ = nullptr;
  StreamId last_stream_ = kNoStream;
  Dialect upstream_dialect_;
  std::vector<std::string> relays_above_;  // the nearest first
  int64_t upstream_since_ms_ = 0;
  // The stream upstream whose replay has been compared with the view.
  StreamId swept_ = kNoStream;
  // Up to where upstream has got the commands; later ones go with all their flags when a new stream begins.
  uint64_t commands_up_ = 0;
  std::set<std::pair<int64_t, NodeId>> leaving_;  // by when
  std::set<std::pair<int64_t, NodeId>> noise_;    // by when it goes on
  std::set<std::pair<int64_t, NodeId>> resend_;   // nodes that moved here, by when they go upstream once more
  std::set<NodeId> unannounced_;                  // dead, and upstream has yet to say whether it knows better
  std::unordered_map<NodeId, Tombstone, NodeIdHash> dead_;
  std::deque<NodeId> dead_order_;
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_RELAY_CORE_H_
