// The nodes of a relay: where each one lives, when it leaves the view, and what is known of nodes that have left.
//
// Part of a relay's core. relay_core.h says how nodes come and go. Not thread-safe.

#ifndef MANTARAY_SYNCER_NODE_REGISTRY_H_
#define MANTARAY_SYNCER_NODE_REGISTRY_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

#include "mantaray/syncer/relay_frames.h"
#include "mantaray/syncer/relay_state.h"

namespace mantaray::syncer {

class NodeRegistry {
 public:
  using Contenders = std::array<std::unique_ptr<Contender>, kMessageTypes>;

  // `observer` may be null.
  NodeRegistry(RelayState* state, RelayFrames* frames, RelayObserver* observer)
      : state_(state), frames_(frames), observer_(observer) {}

  // --- Where a node lives

  // The node lives behind this stream from now on.
  void Bind(NodeState* node, RelayStream* stream);
  // The stream of a node has ended. Returns the messages that had to wait for that. Call ForgetIfSilent when they have
  // been taken in.
  Contenders Unbind(NodeState* node);
  // Forgets a node without a stream that has never said anything.
  void ForgetIfSilent(NodeState* node);
  // Upstream knows the node from another relay or the node itself. A stream that it has here is broken and will end.
  void LivesElsewhere(NodeState* node);

  // --- Nodes that leave

  // Takes a node out of the view. `dead`: it died here, and upstream hears of that.
  void Leave(NodeState* node, bool dead);
  // A node that has left speaks again.
  void Revive(const NodeId& node_id);
  // The version below which nothing is believed of a node that has left; -1 if it has not.
  int64_t FloorOf(const SyncMessage& message) const;
  // Relays far away repeat the last command of a node that died. If there is no older one to compare it with, it brings
  // no node back.
  bool IsWordOfTheDead(const SyncMessage& message) const;
  // Whether upstream's message is about a node that is known to be dead.
  bool IsKnownDead(const SyncMessage& message);
  // Drops a node of upstream's if the view has no room for this one.
  void MakeRoomFor(const NodeId& node_id);

  // --- Time

  // Nodes leave whose grace time is over.
  void ExpireNodes();
  // Tells the observer of the nodes that left before upstream had said all that it knows.
  void AnnounceAll();
  // Forgets the nodes that a new stream upstream has not named.
  void SweepUpstream();
  // Sends entries of nodes that moved here upstream once more.
  void Resend();
  int64_t NextDeadlineMs() const;

 private:
  // What is known of a node that left: the versions below which it never comes back, and whether it died here.
  struct Tombstone {
    std::array<int64_t, kMessageTypes> versions{-1, -1};
    bool dead = false;
    StreamId told = kNoStream;  // the stream upstream during which the observer was told
  };

  void StayFor(NodeState* node, int64_t leaves_ms);
  void Forget(NodeState* node);
  void Announce(const NodeId& node_id);

  RelayState* state_;
  RelayFrames* frames_;
  RelayObserver* observer_;
  // The stream upstream whose replay has been compared with the view.
  StreamId swept_ = kNoStream;
  std::set<std::pair<int64_t, NodeId>> leaving_;  // nodes, by when they leave
  std::set<std::pair<int64_t, NodeId>> resend_;   // nodes that moved here, by when they go upstream once more
  std::set<NodeId> unannounced_;                  // dead nodes, while upstream may know better
  std::unordered_map<NodeId, Tombstone, NodeIdHash> dead_;
  std::deque<NodeId> dead_order_;
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_NODE_REGISTRY_H_
