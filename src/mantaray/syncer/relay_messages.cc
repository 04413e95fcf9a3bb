// Messages of the relay: whom to believe, what goes on, and which nodes are in the view.

#include <algorithm>
#include <utility>

#include "mantaray/syncer/relay_core.h"
#include "mantaray/syncer/relay_stream.h"

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

const ViewEntry* EntryOf(const NodeState& node, MessageType type) {
  return node.entries[static_cast<size_t>(type)].get();
}

int64_t VersionOf(const NodeState& node, MessageType type) {
  const ViewEntry* entry = EntryOf(node, type);
  return entry == nullptr ? -1 : entry->version;
}

}  // namespace

// --- Whom to believe

RelayCore::Verdict RelayCore::Judge(const Stream& stream, const SyncMessage& message) {
  if (message.node_id == stream.hello.node_id) return stream.is_relay() ? Verdict::kDrop : Verdict::kAccept;
  const NodeState* node = view_.Find(message.node_id);
  const Stream* carrier = node == nullptr ? nullptr : FindStream(node->carried_by);
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
  const bool retells = clock_->NowMs() < stream.connected_ms + kRetellingMs;
  const bool plausible = message.version - VersionOf(*node, message.type) < kPlausibleLead;
  return retells && plausible ? Verdict::kDrop : Verdict::kImpersonation;
}

void RelayCore::Contend(const Stream& stream, const SyncMessage& message) {
  ++metrics_.contended;
  NodeState* node = view_.Find(message.node_id);
  if (node == nullptr) return;
  auto contender = std::make_unique<Contender>();
  contender->stream = stream.id;
  contender->message = std::string(message.bytes);
  node->contenders[static_cast<size_t>(message.type)] = std::move(contender);
}

absl::Status RelayCore::AcceptFromBelow(Stream* stream, const SyncMessage& given) {
  const size_t type = static_cast<size_t>(given.type);
  const bool is_own = !stream->is_relay();
  SyncMessage message = given;
  std::string storage;
  ViewEntry before;
  if (const NodeState* node = view_.Find(message.node_id); node != nullptr && EntryOf(*node, message.type) != nullptr) {
    before = *EntryOf(*node, message.type);
  }
  before.version = std::max(before.version, FloorOf(message));
  if (!is_own && (message.version < before.version || IsWordOfTheDead(message))) {
    ++metrics_.stale;
    return absl::OkStatus();
  }
  if (is_own) {
    RaiseIfBehind(stream, message, before);
    if (stream->raised_by[type] > 0 && message.version < kHighestVersionToPass) {
      ++metrics_.raised;
      storage = WithVersion(message.bytes, message.version + stream->raised_by[type]);
      const absl::StatusOr<SyncMessage> raised = ParseMessage(storage, options_.wire);
      if (!raised.ok()) return raised.status();
      message = *raised;
    }
  }
  ViewEntry* entry = nullptr;
  MakeRoomFor(message.node_id);
  switch (view_.Apply(message, stream->id, &entry)) {
    case ViewStore::Outcome::kFull:
      return shield_.Refuse(Refusal::kTooManyNodes, "more nodes than this relay may carry");
    case ViewStore::Outcome::kStale:
      ++metrics_.stale;
      if (message.version == entry->version) Adopt(entry, stream);
      return absl::OkStatus();
    case ViewStore::Outcome::kNewer:
      break;
  }
  if (const auto left = dead_.find(message.node_id); left != dead_.end()) left->second.dead = false;
  if (SaysWhere(*entry, *stream)) Bind(entry->node, stream);
  entry->waiting_since_ms = clock_->NowMs();
  if (is_own && HoldAsNoise(entry, before)) return absl::OkStatus();
  Publish(entry, /*from_below=*/true);
  return absl::OkStatus();
}

// A node that starts over says so with its first word, which is never behind otherwise. Later on, old words of a node
// that moved may still be on their way, so several new ones have to be behind what is known.
void RelayCore::RaiseIfBehind(Stream* stream, const SyncMessage& message, const ViewEntry& known) {
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

// The version below which nothing is believed of a node that left.
int64_t RelayCore::FloorOf(const SyncMessage& message) const {
  const auto found = dead_.find(message.node_id);
  return found == dead_.end() ? -1 : found->second.versions[static_cast<size_t>(message.type)];
}

// Relays far away go on telling the last command of a node that died. Where none is known to compare it with, it brings
// nobody back.
bool RelayCore::IsWordOfTheDead(const SyncMessage& message) const {
  const auto found = dead_.find(message.node_id);
  return found != dead_.end() && found->second.dead && message.type == MessageType::kCommands && FloorOf(message) < 0;
}

bool RelayCore::IsKnownDead(const SyncMessage& message) {
  const auto found = dead_.find(message.node_id);
  if (found == dead_.end()) return false;
  if (IsWordOfTheDead(message)) return true;
  Tombstone& tombstone = found->second;
  const int64_t floor = tombstone.versions[static_cast<size_t>(message.type)];
  if (message.version > floor || (message.version == floor && !tombstone.dead)) {
    // Alive again; of the other type, nothing older than before is believed either.
    tombstone.dead = false;
    return false;
  }
  if (!tombstone.dead) return true;
  // Upstream still has it: the withdrawal was lost.
  if (tombstone.told != upstream_->id) Announce(message.node_id);
  return true;
}

void RelayCore::AcceptFromAbove(const SyncMessage& message) {
  if (IsKnownDead(message)) {
    ++metrics_.dead_dropped;
    return;
  }
  ViewEntry* entry = nullptr;
  MakeRoomFor(message.node_id);
  const ViewStore::Outcome outcome = view_.Apply(message, kFromUpstream, &entry);
  if (outcome == ViewStore::Outcome::kFull) return;
  entry->node->named_by = upstream_->id;
  const bool says_where = entry->type == kView || EntryOf(*entry->node, kView) == nullptr;
  if (outcome == ViewStore::Outcome::kNewer) {
    if (says_where) LivesElsewhere(entry->node);
  } else {
    ++metrics_.stale;
    // Not a replay of what this relay said itself: another one speaks for a node that is away from here.
    const bool replay = clock_->NowMs() < upstream_since_ms_ + options_.replay_ms;
    const bool is_away = entry->node->leaves_ms != kNeverMs;
    if (message.version != entry->version || entry->node->carried_by != kNoStream) return;
    if (is_away && (replay || !says_where)) return;
    LivesElsewhere(entry->node);
    entry->source = kFromUpstream;
    ChannelOf(entry->type, kUp).Remove(entry);
    return;
  }
  entry->waiting_since_ms = clock_->NowMs();
  Publish(entry, /*from_below=*/false);
}

// --- What goes on

bool RelayCore::HoldAsNoise(ViewEntry* entry, const ViewEntry& before) {
  const bool can_wait = options_.noise.enabled && entry->type == kView && entry->position[kDown] != 0;
  if (!can_wait) return false;
  const bool waits_already = entry->noise_until_ms != kNeverMs;
  const std::string_view published = waits_already ? entry->published_payload : before.payload;
  if (!IsNoise(published, entry->payload, options_.noise)) return false;
  ++metrics_.noise_held;
  if (waits_already) return true;
  entry->published = before.encoded;
  entry->published_payload = before.payload;
  entry->published_version = before.version;
  entry->noise_until_ms = clock_->NowMs() + options_.noise.max_delay_ms;
  noise_.emplace(entry->noise_until_ms, entry->node->id);
  return true;
}

void RelayCore::Publish(ViewEntry* entry, bool from_below) {
  if (entry->noise_until_ms != kNeverMs) {
    noise_.erase({entry->noise_until_ms, entry->node->id});
    entry->noise_until_ms = kNeverMs;
    entry->published.reset();
  }
  const int64_t now_ms = clock_->NowMs();
  if (ChannelOf(entry->type, kDown).IsWaiting(*entry)) ++metrics_.coalesced;
  ChannelOf(entry->type, kDown).Add(entry, now_ms);
  if (from_below) {
    ChannelOf(entry->type, kUp).Add(entry, now_ms);
  } else {
    ChannelOf(entry->type, kUp).Remove(entry);
  }
  if (entry->type != MessageType::kCommands) return;
  const uint8_t flags = ReadCommandFlags(entry->payload);
  for (size_t flag = 0; flag < std::size(kCommandFlags); ++flag) {
    if ((flags & kCommandFlags[flag]) != 0) entry->flag_position[flag] = entry->position;
  }
}

// What was known from elsewhere is said by a stream of ours: it is ours to tell upstream now.
void RelayCore::Adopt(ViewEntry* entry, Stream* stream) {
  if (SaysWhere(*entry, *stream)) Bind(entry->node, stream);
  const StreamId before = std::exchange(entry->source, stream->id);
  if (before == stream->id) return;
  ForgetSegments();
  if (entry->position[kUp] == 0) ChannelOf(entry->type, kUp).Add(entry, clock_->NowMs());
  // The relay that spoke for it before hears so.
  if (before != kFromUpstream) ChannelOf(entry->type, kDown).Add(entry, clock_->NowMs());
}

void RelayCore::ReleaseNoise() {
  const int64_t now_ms = clock_->NowMs();
  while (!noise_.empty() && noise_.begin()->first <= now_ms) {
    NodeState* node = view_.Find(noise_.begin()->second);
    Publish(node->entries[static_cast<size_t>(kView)].get(), /*from_below=*/true);
  }
}

void RelayCore::Resend() {
  const int64_t now_ms = clock_->NowMs();
  while (!resend_.empty() && resend_.begin()->first <= now_ms) {
    const NodeState* node = view_.Find(resend_.begin()->second);
    resend_.erase(resend_.begin());
    if (node == nullptr || node->carried_by == kNoStream) continue;
    for (const auto& entry : node->entries) {
      if (entry == nullptr || entry->position[kUp] == 0) continue;
      ChannelOf(entry->type, kUp).Add(entry.get(), now_ms);
      ++metrics_.resent;
    }
  }
}

// --- Nodes

// Views say where a node lives. Its last command stays for long with relays that it left, and they repeat it.
bool RelayCore::SaysWhere(const ViewEntry& entry, const Stream& stream) {
  if (entry.type == kView || !stream.is_relay()) return true;
  const ViewEntry* view = EntryOf(*entry.node, kView);
  return view == nullptr || view->source == stream.id;
}

bool RelayCore::LivesBelow(const NodeState& node) { return node.carried_by != kNoStream || node.leaves_ms != kNeverMs; }

void RelayCore::Bind(NodeState* node, Stream* stream) {
  const ViewEntry* view = EntryOf(*node, kView);
  const bool moved = node->carried_by == kNoStream && view != nullptr && view->source == kFromUpstream;
  if (moved) resend_.emplace(clock_->NowMs() + 2 * options_.grace_ms, node->id);
  StayFor(node, kNeverMs);
  if (node->carried_by == stream->id) return;
  node->carried_by = stream->id;
  ForgetSegments();
}

// Upstream knows it from somebody else. A stream of its own here is broken and will end by itself.
void RelayCore::LivesElsewhere(NodeState* node) {
  if (node->carried_by == kNoStream && node->leaves_ms == kNeverMs) return;
  const Stream* carrier = FindStream(node->carried_by);
  if (carrier != nullptr && !carrier->is_relay()) return;
  node->carried_by = kNoStream;
  StayFor(node, kNeverMs);
  ForgetSegments();
}

void RelayCore::StayFor(NodeState* node, int64_t leaves_ms) {
  if (node->leaves_ms != kNeverMs) leaving_.erase({node->leaves_ms, node->id});
  node->leaves_ms = leaves_ms;
  if (leaves_ms != kNeverMs) leaving_.emplace(leaves_ms, node->id);
}

void RelayCore::Unbind(NodeState* node) {
  node->carried_by = kNoStream;
  ForgetSegments();
  StayFor(node, clock_->NowMs() + options_.grace_ms);
  const std::array<std::unique_ptr<Contender>, kMessageTypes> contenders = std::move(node->contenders);
  for (const auto& contender : contenders) {
    Stream* stream = contender == nullptr ? nullptr : FindStream(contender->stream);
    if (stream == nullptr) continue;
    const absl::StatusOr<SyncMessage> message = ParseMessage(contender->message, options_.wire);
    // The node is there, so that nothing can be full.
    if (message.ok()) AcceptFromBelow(stream, *message).IgnoreError();
  }
  const bool never_spoke = node->entries[0] == nullptr && node->entries[1] == nullptr;
  if (node->carried_by == kNoStream && never_spoke) Forget(node);
}

void RelayCore::Forget(NodeState* node) {
  for (const auto& entry : node->entries) {
    if (entry == nullptr) continue;
    if (entry->noise_until_ms != kNeverMs) noise_.erase({entry->noise_until_ms, node->id});
    ChannelOf(entry->type, kDown).Remove(entry.get());
    ChannelOf(entry->type, kUp).Remove(entry.get());
  }
  StayFor(node, kNeverMs);
  view_.Erase(NodeId(node->id));
}

void RelayCore::Leave(NodeState* node, bool dead) {
  const NodeId id = node->id;
  Tombstone tombstone;
  // It may have left before, and have said nothing of one type since: what holds for that type goes on to hold.
  if (const auto before = dead_.find(id); before != dead_.end()) tombstone.versions = before->second.versions;
  for (size_t type = 0; type < kMessageTypes; ++type) {
    int64_t& version = tombstone.versions[type];
    version = std::max(version, VersionOf(*node, static_cast<MessageType>(type)));
  }
  tombstone.dead = dead;
  Forget(node);
  if (dead_.insert_or_assign(id, tombstone).second) dead_order_.push_back(id);
  while (dead_order_.size() > options_.max_nodes) {
    unannounced_.erase(dead_order_.front());
    dead_.erase(dead_order_.front());
    dead_order_.pop_front();
  }
  if (!dead) return;
  ++metrics_.nodes_left;
  Announce(id);
}

// Upstream hears that a node left, but not before it has said all it knows: the node may live elsewhere by now.
void RelayCore::Announce(const NodeId& node_id) {
  if (!Settled()) {
    unannounced_.insert(node_id);
    return;
  }
  if (const auto found = dead_.find(node_id); found != dead_.end()) found->second.told = upstream_->id;
  if (observer_ != nullptr) observer_->NodeLeft(node_id);
}

void RelayCore::AnnounceAll() {
  if (!Settled()) return;
  for (const NodeId& node_id : std::exchange(unannounced_, {})) {
    const auto found = dead_.find(node_id);
    if (found != dead_.end() && found->second.dead) Announce(node_id);
  }
}

// A GCS does not say who is gone; but a new stream is told of everybody who is there.
void RelayCore::SweepUpstream() {
  if (!Settled() || swept_ == upstream_->id) return;
  swept_ = upstream_->id;
  if (upstream_->is_relay()) return;  // its digests say it
  std::vector<NodeState*> gone;
  for (const auto& [id, node] : view_.nodes()) {
    if (!LivesBelow(*node) && node->named_by != upstream_->id) gone.push_back(node.get());
  }
  metrics_.swept += gone.size();
  for (NodeState* node : gone) Leave(node, /*dead=*/false);
}

// Nobody is refused for nodes that are gone and that upstream has not told of.
void RelayCore::MakeRoomFor(const NodeId& node_id) {
  if (view_.size() < options_.max_nodes || view_.Find(node_id) != nullptr) return;
  NodeState* oldest = nullptr;
  for (const MessageType type : {kView, MessageType::kCommands}) {
    ChannelOf(type, kDown).log().VisitAfter(0, [&](const ViewEntry* entry) {
      if (!LivesBelow(*entry->node)) oldest = entry->node;
      return oldest == nullptr;
    });
    if (oldest != nullptr) break;
  }
  if (oldest == nullptr) return;
  ++metrics_.evicted;
  Leave(oldest, /*dead=*/false);
}

void RelayCore::ExpireNodes() {
  const int64_t now_ms = clock_->NowMs();
  while (!leaving_.empty() && leaving_.begin()->first <= now_ms) {
    Leave(view_.Find(leaving_.begin()->second), /*dead=*/true);
  }
}

}  // namespace mantaray::syncer
