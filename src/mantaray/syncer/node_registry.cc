// See node_registry.h.

#include "mantaray/syncer/node_registry.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace mantaray::syncer {
namespace {

constexpr MessageType kView = MessageType::kResourceView;

}  // namespace

void NodeRegistry::Bind(NodeState* node, RelayStream* stream) {
  const ViewEntry* view = EntryOf(*node, kView);
  const bool moved = node->carried_by == kNoStream && view != nullptr && view->source == kFromUpstream;
  if (moved) resend_.emplace(state_->clock->NowMs() + 2 * state_->options.grace_ms, node->id);
  StayFor(node, kNeverMs);
  if (node->carried_by == stream->id) return;
  node->carried_by = stream->id;
  frames_->ForgetSegments();
}

NodeRegistry::Contenders NodeRegistry::Unbind(NodeState* node) {
  node->carried_by = kNoStream;
  frames_->ForgetSegments();
  StayFor(node, state_->clock->NowMs() + state_->options.grace_ms);
  return std::move(node->contenders);
}

void NodeRegistry::ForgetIfSilent(NodeState* node) {
  const bool never_spoke = node->entries[0] == nullptr && node->entries[1] == nullptr;
  if (node->carried_by == kNoStream && never_spoke) Forget(node);
}

void NodeRegistry::Revive(const NodeId& node_id) {
  if (const auto left = dead_.find(node_id); left != dead_.end()) left->second.dead = false;
}

void NodeRegistry::LivesElsewhere(NodeState* node) {
  if (node->carried_by == kNoStream && node->leaves_ms == kNeverMs) return;
  const RelayStream* carrier = state_->FindStream(node->carried_by);
  if (carrier != nullptr && !carrier->is_relay()) return;
  node->carried_by = kNoStream;
  StayFor(node, kNeverMs);
  frames_->ForgetSegments();
}

void NodeRegistry::StayFor(NodeState* node, int64_t leaves_ms) {
  if (node->leaves_ms != kNeverMs) leaving_.erase({node->leaves_ms, node->id});
  node->leaves_ms = leaves_ms;
  if (leaves_ms != kNeverMs) leaving_.emplace(leaves_ms, node->id);
}

void NodeRegistry::Forget(NodeState* node) {
  for (const auto& entry : node->entries) {
    if (entry != nullptr) frames_->Remove(entry.get());
  }
  StayFor(node, kNeverMs);
  state_->view.Erase(NodeId(node->id));
}

void NodeRegistry::Leave(NodeState* node, bool dead) {
  const NodeId id = node->id;
  Tombstone tombstone;
  // The node may have left before, and have sent nothing of one type since. Then the old version of that type holds.
  if (const auto before = dead_.find(id); before != dead_.end()) tombstone.versions = before->second.versions;
  for (size_t type = 0; type < kMessageTypes; ++type) {
    int64_t& version = tombstone.versions[type];
    version = std::max(version, VersionOf(*node, static_cast<MessageType>(type)));
  }
  tombstone.dead = dead;
  Forget(node);
  if (dead_.insert_or_assign(id, tombstone).second) dead_order_.push_back(id);
  while (dead_order_.size() > state_->options.max_nodes) {
    unannounced_.erase(dead_order_.front());
    dead_.erase(dead_order_.front());
    dead_order_.pop_front();
  }
  if (!dead) return;
  ++state_->metrics.nodes_left;
  Announce(id);
}

int64_t NodeRegistry::FloorOf(const SyncMessage& message) const {
  const auto found = dead_.find(message.node_id);
  return found == dead_.end() ? -1 : found->second.versions[static_cast<size_t>(message.type)];
}

bool NodeRegistry::IsWordOfTheDead(const SyncMessage& message) const {
  const auto found = dead_.find(message.node_id);
  return found != dead_.end() && found->second.dead && message.type == MessageType::kCommands && FloorOf(message) < 0;
}

bool NodeRegistry::IsKnownDead(const SyncMessage& message) {
  const auto found = dead_.find(message.node_id);
  if (found == dead_.end()) return false;
  if (IsWordOfTheDead(message)) return true;
  Tombstone& tombstone = found->second;
  const int64_t floor = tombstone.versions[static_cast<size_t>(message.type)];
  if (message.version > floor || (message.version == floor && !tombstone.dead)) {
    // The node is alive again. Of the other type, the old version holds.
    tombstone.dead = false;
    return false;
  }
  if (!tombstone.dead) return true;
  // Upstream still has it: the withdrawal was lost.
  if (tombstone.told != state_->upstream->id) Announce(message.node_id);
  return true;
}

// Tells the observer that a node left, but not before upstream has said all that it knows: the node may live elsewhere.
void NodeRegistry::Announce(const NodeId& node_id) {
  if (!state_->Settled()) {
    unannounced_.insert(node_id);
    return;
  }
  if (const auto found = dead_.find(node_id); found != dead_.end()) found->second.told = state_->upstream->id;
  if (observer_ != nullptr) observer_->NodeLeft(node_id);
}

void NodeRegistry::AnnounceAll() {
  if (!state_->Settled()) return;
  for (const NodeId& node_id : std::exchange(unannounced_, {})) {
    const auto found = dead_.find(node_id);
    if (found != dead_.end() && found->second.dead) Announce(node_id);
  }
}

void NodeRegistry::ExpireNodes() {
  const int64_t now_ms = state_->clock->NowMs();
  while (!leaving_.empty() && leaving_.begin()->first <= now_ms) {
    Leave(state_->view.Find(leaving_.begin()->second), /*dead=*/true);
  }
}

// A GCS does not report which nodes are gone, but it reports all that are there to a new stream.
void NodeRegistry::SweepUpstream() {
  if (!state_->Settled() || swept_ == state_->upstream->id) return;
  swept_ = state_->upstream->id;
  if (state_->upstream->is_relay()) return;  // Its digests show which nodes are gone.
  std::vector<NodeState*> gone;
  for (const auto& [id, node] : state_->view.nodes()) {
    if (!LivesBelow(*node) && node->named_by != state_->upstream->id) gone.push_back(node.get());
  }
  state_->metrics.swept += gone.size();
  for (NodeState* node : gone) Leave(node, /*dead=*/false);
}

// No node is refused because of others that are gone without a word from upstream.
void NodeRegistry::MakeRoomFor(const NodeId& node_id) {
  if (state_->view.size() < state_->options.max_nodes || state_->view.Find(node_id) != nullptr) return;
  NodeState* oldest = nullptr;
  for (const MessageType type : {kView, MessageType::kCommands}) {
    frames_->ChannelOf(type, kDown).log().VisitAfter(0, [&](const ViewEntry* entry) {
      if (!LivesBelow(*entry->node)) oldest = entry->node;
      return oldest == nullptr;
    });
    if (oldest != nullptr) break;
  }
  if (oldest == nullptr) return;
  ++state_->metrics.evicted;
  Leave(oldest, /*dead=*/false);
}

void NodeRegistry::Resend() {
  const int64_t now_ms = state_->clock->NowMs();
  while (!resend_.empty() && resend_.begin()->first <= now_ms) {
    const NodeState* node = state_->view.Find(resend_.begin()->second);
    resend_.erase(resend_.begin());
    if (node == nullptr || node->carried_by == kNoStream) continue;
    for (const auto& entry : node->entries) {
      if (entry == nullptr || entry->position[kUp] == 0) continue;
      frames_->ChannelOf(entry->type, kUp).Add(entry.get(), now_ms);
      ++state_->metrics.resent;
    }
  }
}

int64_t NodeRegistry::NextDeadlineMs() const {
  int64_t next_ms = kNeverMs;
  const RelayStream* upstream = state_->upstream;
  if (upstream != nullptr && (swept_ != upstream->id || !unannounced_.empty())) next_ms = state_->SettledAtMs();
  if (!leaving_.empty()) next_ms = std::min(next_ms, leaving_.begin()->first);
  if (!resend_.empty()) next_ms = std::min(next_ms, resend_.begin()->first);
  return next_ms;
}

}  // namespace mantaray::syncer
