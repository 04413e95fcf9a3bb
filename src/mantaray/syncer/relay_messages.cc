// Messages of the relay: which ones to believe, and what becomes of them.

#include <algorithm>
#include <utility>

#include "mantaray/syncer/relay_core.h"

namespace mantaray::syncer {
namespace {

constexpr MessageType kView = MessageType::kResourceView;
// Versions are raised only where there is room to go on upwards.
constexpr int64_t kHighestVersionToPass = INT64_MAX / 2;
constexpr int kWordsToBelieve = 3;
// For how long a node that connects may tell what it heard elsewhere, and by how much that can be ahead of a node whose
// old stream has not ended yet (raylets say ten words a second at most).
constexpr int64_t kRetellingMs = 5'000;
constexpr int64_t kPlausibleLead = 100'000;

}  // namespace

RelayCore::Verdict RelayCore::Judge(const RelayStream& stream, const SyncMessage& message) {
  if (message.node_id == stream.hello.node_id) return stream.is_relay() ? Verdict::kDrop : Verdict::kAccept;
  const NodeState* node = state_.view.Find(message.node_id);
  const RelayStream* carrier = node == nullptr ? nullptr : state_.FindStream(node->carried_by);
  const bool has_own_stream = carrier != nullptr && !carrier->is_relay();
  const bool ahead = node == nullptr || message.version > VersionOf(*node, message.type);
  if (stream.is_relay()) {
    if (!has_own_stream) return Verdict::kAccept;
    return ahead ? Verdict::kWait : Verdict::kDrop;
  }
  if (carrier == nullptr || !ahead) return Verdict::kDrop;
  // Before a node has spoken itself, others may know more of it: they tell what they heard elsewhere.
  const bool has_spoken = carrier->is_relay() || carrier->own_version[static_cast<size_t>(message.type)] >= 0;
  if (!has_spoken) return Verdict::kDrop;
  const bool retells = state_.clock->NowMs() < stream.connected_ms + kRetellingMs;
  const bool plausible = message.version - VersionOf(*node, message.type) < kPlausibleLead;
  return retells && plausible ? Verdict::kDrop : Verdict::kImpersonation;
}

void RelayCore::Contend(const RelayStream& stream, const SyncMessage& message) {
  ++state_.metrics.contended;
  NodeState* node = state_.view.Find(message.node_id);
  if (node == nullptr) return;
  auto contender = std::make_unique<Contender>();
  contender->stream = stream.id;
  contender->message = std::string(message.bytes);
  node->contenders[static_cast<size_t>(message.type)] = std::move(contender);
}

absl::Status RelayCore::AcceptFromBelow(RelayStream* stream, const SyncMessage& given) {
  const size_t type = static_cast<size_t>(given.type);
  const bool is_own = !stream->is_relay();
  SyncMessage message = given;
  std::string storage;
  ViewEntry before;
  if (const NodeState* node = state_.view.Find(message.node_id);
      node != nullptr && EntryOf(*node, message.type) != nullptr) {
    before = *EntryOf(*node, message.type);
  }
  before.version = std::max(before.version, nodes_.FloorOf(message));
  if (!is_own && (message.version < before.version || nodes_.IsWordOfTheDead(message))) {
    ++state_.metrics.stale;
    return absl::OkStatus();
  }
  if (is_own) {
    RaiseIfBehind(stream, message, before);
    if (stream->raised_by[type] > 0 && message.version < kHighestVersionToPass) {
      ++state_.metrics.raised;
      storage = WithVersion(message.bytes, message.version + stream->raised_by[type]);
      const absl::StatusOr<SyncMessage> raised = ParseMessage(storage, state_.options.wire);
      if (!raised.ok()) return raised.status();
      message = *raised;
    }
  }
  ViewEntry* entry = nullptr;
  nodes_.MakeRoomFor(message.node_id);
  switch (state_.view.Apply(message, stream->id, &entry)) {
    case ViewStore::Outcome::kFull:
      return state_.shield.Refuse(Refusal::kTooManyNodes, "more nodes than this relay may carry");
    case ViewStore::Outcome::kStale:
      ++state_.metrics.stale;
      if (message.version == entry->version) Adopt(entry, stream);
      return absl::OkStatus();
    case ViewStore::Outcome::kNewer:
      break;
  }
  nodes_.Revive(message.node_id);
  if (SaysWhere(*entry, *stream)) nodes_.Bind(entry->node, stream);
  entry->waiting_since_ms = state_.clock->NowMs();
  if (is_own && frames_.HoldAsNoise(entry, before)) return absl::OkStatus();
  frames_.Publish(entry, /*from_below=*/true);
  return absl::OkStatus();
}

// A node that starts over says so with its first word, which is never behind otherwise. Later on, old words of a node
// that moved may still be on their way, so several new ones have to be behind what is known.
void RelayCore::RaiseIfBehind(RelayStream* stream, const SyncMessage& message, const ViewEntry& known) {
  const size_t type = static_cast<size_t>(message.type);
  const bool first = stream->own_version[type] < 0;
  if (message.version <= stream->own_version[type]) return;
  stream->own_version[type] = message.version;
  const int64_t version = message.version + stream->raised_by[type];
  const bool behind = first ? version < known.version : version <= known.version && known.source != stream->id;
  if (!behind || known.version >= kHighestVersionToPass) {
    stream->words_behind[type] = 0;
    return;
  }
  if (!first && ++stream->words_behind[type] < kWordsToBelieve) return;
  stream->words_behind[type] = 0;
  stream->raised_by[type] = known.version + 1 - message.version;
}

void RelayCore::AcceptFromAbove(const SyncMessage& message) {
  if (nodes_.IsKnownDead(message)) {
    ++state_.metrics.dead_dropped;
    return;
  }
  ViewEntry* entry = nullptr;
  nodes_.MakeRoomFor(message.node_id);
  const ViewStore::Outcome outcome = state_.view.Apply(message, kFromUpstream, &entry);
  if (outcome == ViewStore::Outcome::kFull) return;
  entry->node->named_by = state_.upstream->id;
  const bool says_where = entry->type == kView || EntryOf(*entry->node, kView) == nullptr;
  if (outcome == ViewStore::Outcome::kNewer) {
    if (says_where) nodes_.LivesElsewhere(entry->node);
  } else {
    ++state_.metrics.stale;
    // Not a replay of what this relay said itself: another one speaks for a node that is away from here.
    const bool replay = state_.clock->NowMs() < state_.upstream_since_ms + state_.options.replay_ms;
    const bool is_away = entry->node->leaves_ms != kNeverMs;
    if (message.version != entry->version || entry->node->carried_by != kNoStream) return;
    if (is_away && (replay || !says_where)) return;
    nodes_.LivesElsewhere(entry->node);
    entry->source = kFromUpstream;
    frames_.ChannelOf(entry->type, kUp).Remove(entry);
    return;
  }
  entry->waiting_since_ms = state_.clock->NowMs();
  frames_.Publish(entry, /*from_below=*/false);
}

// What was known from elsewhere is said by a stream of ours: it is ours to tell upstream now.
void RelayCore::Adopt(ViewEntry* entry, RelayStream* stream) {
  if (SaysWhere(*entry, *stream)) nodes_.Bind(entry->node, stream);
  const StreamId before = std::exchange(entry->source, stream->id);
  if (before == stream->id) return;
  frames_.ForgetSegments();
  if (entry->position[kUp] == 0) frames_.ChannelOf(entry->type, kUp).Add(entry, state_.clock->NowMs());
  // The relay that spoke for it before hears so.
  if (before != kFromUpstream) frames_.ChannelOf(entry->type, kDown).Add(entry, state_.clock->NowMs());
}

// Views say where a node lives. Its last command stays for long with relays that it left, and they repeat it.
bool RelayCore::SaysWhere(const ViewEntry& entry, const RelayStream& stream) {
  if (entry.type == kView || !stream.is_relay()) return true;
  const ViewEntry* view = EntryOf(*entry.node, kView);
  return view == nullptr || view->source == stream.id;
}

void RelayCore::Unbind(NodeState* node) {
  for (const auto& contender : nodes_.Unbind(node)) {
    RelayStream* stream = contender == nullptr ? nullptr : state_.FindStream(contender->stream);
    if (stream == nullptr) continue;
    const absl::StatusOr<SyncMessage> message = ParseMessage(contender->message, state_.options.wire);
    // The node is in the view already, so the view cannot be full.
    if (message.ok()) AcceptFromBelow(stream, *message).IgnoreError();
  }
  nodes_.ForgetIfSilent(node);
}

absl::Status RelayCore::OnRelayTalk(RelayStream* stream, const Shield::CheckedFrame& frame) {
  std::vector<NodeState*> gone;
  const bool from_below = !stream->is_upstream();
  const absl::Status status = digests_.OnTalk(stream, frame, &gone);
  if (frame.split.complete_buckets != 0) frames_.ForgetSegments();
  for (NodeState* node : gone) nodes_.Leave(node, /*dead=*/from_below);
  return status;
}

}  // namespace mantaray::syncer
