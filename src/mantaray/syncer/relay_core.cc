// Streams of the relay: how they come, speak and go.

#include "mantaray/syncer/relay_core.h"

#include <algorithm>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace mantaray::syncer {

RelayCore::RelayCore(const RelayOptions& options, const Clock* clock, RelayObserver* observer)
    : state_(options, clock),
      digests_(&state_),
      frames_(&state_, &digests_),
      nodes_(&state_, &frames_, observer),
      upstream_dialect_(options.upstream_dialect) {}

RelayCore::~RelayCore() = default;

RelayStream* RelayCore::AddStream(Hello hello, Peer* peer, size_t direction) {
  auto stream = std::make_unique<RelayStream>();
  stream->id = ++last_stream_;
  stream->peer = peer;
  stream->hello = std::move(hello);
  stream->direction = direction;
  stream->connected_ms = state_.clock->NowMs();
  stream->digest_sent_ms = stream->connected_ms;
  stream->commands_floor = frames_.ChannelOf(MessageType::kCommands, direction).latest();
  if (stream->is_relay()) state_.relay_streams.emplace(stream->id, stream.get());
  return state_.streams.emplace(stream->id, std::move(stream)).first->second.get();
}

// --- Who may come

absl::Status RelayCore::CheckLoop(const Hello& hello) {
  std::set<std::string> theirs(hello.other_relays.begin(), hello.other_relays.end());
  if (hello.relay_id.empty() && theirs.empty()) return absl::OkStatus();
  theirs.insert(hello.relay_id);
  bool loop = theirs.contains(state_.relay_id);
  for (const std::string& above : state_.relays_above) loop = loop || theirs.contains(above);
  if (!loop) return absl::OkStatus();
  return state_.shield.Refuse(Refusal::kLoop, absl::StrCat("relay ", hello.relay_id, " would close a loop"));
}

absl::StatusOr<StreamId> RelayCore::AddDownstream(const StreamMetadata& metadata, Peer* peer) {
  absl::StatusOr<Hello> hello = state_.shield.CheckClient(metadata);
  if (!hello.ok()) return hello.status();
  if (!hello->withdrawn_by.empty()) return Withdraw(*hello);
  if (hello->node_id == state_.options.node_id) return state_.shield.Refuse(Refusal::kLoop, "this relay's own node id");
  if (absl::Status status = CheckLoop(*hello); !status.ok()) return status;
  if (!hello->relay_id.empty() && state_.RelaysBelow().size() + hello->other_relays.size() >= kMaxRelays) {
    return state_.shield.Refuse(Refusal::kBadRelayMetadata, "too many relays below this one");
  }
  const auto before = stream_of_node_.find(hello->node_id);
  if (before == stream_of_node_.end() && downstream_streams() >= state_.options.max_streams) {
    return state_.shield.Refuse(Refusal::kTooManyStreams,
                                absl::StrCat("there are ", state_.options.max_streams, " already"));
  }
  const bool is_node = hello->relay_id.empty();
  if (is_node) nodes_.MakeRoomFor(hello->node_id);
  NodeState* node = is_node ? state_.view.FindOrAdd(hello->node_id) : nullptr;
  if (is_node && node == nullptr) {
    return state_.shield.Refuse(Refusal::kTooManyNodes,
                                absl::StrCat("there are ", state_.options.max_nodes, " already"));
  }
  const StreamId replaced = before == stream_of_node_.end() ? kNoStream : before->second;
  RelayStream* stream = AddStream(*std::move(hello), peer, kDown);
  stream_of_node_[stream->hello.node_id] = stream->id;
  if (node != nullptr) nodes_.Bind(node, stream);
  if (RelayStream* old = state_.FindStream(replaced)) {
    ++state_.metrics.streams_replaced;
    CloseStream(old, absl::AbortedError("a newer stream of the same node took the place of this one"));
  }
  return stream->id;
}

absl::Status RelayCore::Withdraw(const Hello& hello) {
  NodeState* node = state_.view.Find(hello.node_id);
  if (node != nullptr) {
    const RelayStream* carrier = state_.FindStream(node->carried_by);
    const bool by_its_relay = carrier != nullptr && carrier->hello.relay_id == hello.withdrawn_by;
    if (by_its_relay || (carrier == nullptr && node->leaves_ms != kNeverMs)) nodes_.Leave(node, /*dead=*/true);
  }
  return absl::CancelledError("node withdrawn");
}

StreamMetadata RelayCore::DownstreamMetadata() const {
  StreamMetadata metadata = {{std::string(kRelayKey), state_.relay_id}};
  if (!state_.relays_above.empty()) metadata.emplace_back(kRelaysAboveKey, absl::StrJoin(state_.relays_above, ","));
  return metadata;
}

StreamMetadata RelayCore::UpstreamMetadata() const {
  StreamMetadata metadata = {{std::string(kNodeIdKey), state_.options.node_id.Hex()},
                             {std::string(kRelayKey), state_.relay_id}};
  if (const std::set<std::string> below = state_.RelaysBelow(); !below.empty()) {
    metadata.emplace_back(kRelaysBelowKey, absl::StrJoin(below, ","));
  }
  return metadata;
}

StreamMetadata RelayCore::WithdrawMetadata(const NodeId& node_id) const {
  return {{std::string(kNodeIdKey), node_id.Hex()}, {std::string(kWithdrawKey), state_.relay_id}};
}

// --- What they say

void RelayCore::OnDownstreamBytes(StreamId id, std::string_view bytes) {
  RelayStream* stream = state_.FindStream(id);
  if (stream == nullptr || stream->is_upstream()) return;
  ++state_.metrics.frames_in;
  state_.metrics.bytes_in += bytes.size();
  // What relays have to tell each other comes as a batch, whatever their nodes speak.
  const Dialect dialect = stream->is_relay() ? Dialect::kUnknown : stream->dialect;
  const absl::StatusOr<Shield::CheckedFrame> frame = state_.shield.CheckFrame(bytes, dialect);
  const absl::Status status = frame.ok() ? TakeIn(stream, *frame) : frame.status();
  if (!status.ok()) CloseStream(stream, status);
  frames_.ReleaseAll();
}

absl::Status RelayCore::TakeIn(RelayStream* stream, const Shield::CheckedFrame& frame) {
  state_.metrics.messages_in += frame.messages.size();
  std::vector<Verdict> verdicts;
  verdicts.reserve(frame.messages.size());
  for (const SyncMessage& message : frame.messages) {
    verdicts.push_back(Judge(*stream, message));
    if (verdicts.back() != Verdict::kImpersonation) continue;
    return state_.shield.Refuse(Refusal::kImpersonation, absl::StrCat("it speaks for node ", message.node_id.Hex(),
                                                                      ", which has a stream of its own"));
  }
  LearnDialect(stream, frame);
  for (size_t at = 0; at < frame.messages.size(); ++at) {
    const SyncMessage& message = frame.messages[at];
    if (verdicts[at] == Verdict::kDrop) ++state_.metrics.echoes;
    if (verdicts[at] == Verdict::kWait) Contend(*stream, message);
    if (verdicts[at] != Verdict::kAccept) continue;
    if (absl::Status status = AcceptFromBelow(stream, message); !status.ok()) return status;
  }
  const absl::Status status = stream->is_relay() ? OnRelayTalk(stream, frame) : absl::OkStatus();
  if (status.ok()) frames_.Wake(stream);
  return status;
}

void RelayCore::LearnDialect(RelayStream* stream, const Shield::CheckedFrame& frame) {
  if (stream->dialect != Dialect::kUnknown || frame.split.has_relay_talk()) return;
  stream->dialect = frame.split.dialect;
  GuessUpstreamDialect();
}

void RelayCore::SpeakUpstream(Dialect dialect) {
  upstream_dialect_ = dialect;
  state_.upstream->dialect = dialect;
  frames_.Wake(state_.upstream);
}

void RelayCore::GuessUpstreamDialect() {
  if (state_.upstream == nullptr || state_.upstream->dialect != Dialect::kUnknown) return;
  if (!state_.upstream->is_relay() && state_.clock->NowMs() < state_.upstream_since_ms + state_.options.dialect_wait_ms)
    return;
  size_t bare = 0;
  size_t batch = 0;
  for (const auto& [id, stream] : state_.streams) {
    bare += stream->dialect == Dialect::kBare ? 1 : 0;
    batch += stream->dialect == Dialect::kBatch ? 1 : 0;
  }
  if (bare + batch > 0) SpeakUpstream(bare > batch ? Dialect::kBare : Dialect::kBatch);
}

void RelayCore::OnUpstreamBytes(StreamId id, std::string_view bytes) {
  if (state_.upstream == nullptr || state_.upstream->id != id) return;
  ++state_.metrics.frames_in;
  ++state_.metrics.upstream_frames_in;
  state_.metrics.bytes_in += bytes.size();
  state_.metrics.upstream_bytes_in += bytes.size();
  const absl::StatusOr<Shield::CheckedFrame> frame = state_.shield.CheckUpstreamFrame(bytes);
  if (!frame.ok()) {
    CloseStream(state_.upstream, frame.status());
    return;
  }
  state_.metrics.messages_in += frame->messages.size();
  state_.metrics.upstream_messages_in += frame->messages.size();
  // Damage is no dialect, nor is what relays have to tell each other.
  const bool tells = state_.options.upstream_dialect == Dialect::kUnknown && !frame->messages.empty() &&
                     !frame->split.has_relay_talk();
  if (tells && state_.upstream->dialect != frame->split.dialect) SpeakUpstream(frame->split.dialect);
  for (const SyncMessage& message : frame->messages) AcceptFromAbove(message);
  if (state_.upstream->is_relay()) {
    const absl::Status status = OnRelayTalk(state_.upstream, *frame);
    if (!status.ok()) {
      CloseStream(state_.upstream, status);
    } else {
      frames_.Wake(state_.upstream);
    }
  }
  frames_.ReleaseAll();
}

// --- How they go

void RelayCore::RemoveDownstream(StreamId id) {
  RelayStream* stream = state_.FindStream(id);
  if (stream != nullptr && !stream->is_upstream()) EraseStream(stream);
}

void RelayCore::CloseStream(RelayStream* stream, const absl::Status& status) {
  Peer* peer = stream->peer;
  EraseStream(stream);
  peer->Close(status);
}

void RelayCore::EraseStream(RelayStream* stream) {
  if (stream == state_.upstream) return DropUpstream();
  const auto of_node = stream_of_node_.find(stream->hello.node_id);
  if (of_node != stream_of_node_.end() && of_node->second == stream->id) stream_of_node_.erase(of_node);
  std::vector<NodeState*> carried;
  if (stream->is_relay()) {
    for (const auto& [id, node] : state_.view.nodes()) {
      if (node->carried_by == stream->id) carried.push_back(node.get());
    }
  } else if (NodeState* node = state_.view.Find(stream->hello.node_id);
             node != nullptr && node->carried_by == stream->id) {
    carried.push_back(node);
  }
  state_.relay_streams.erase(stream->id);
  state_.streams.erase(stream->id);
  for (NodeState* node : carried) Unbind(node);
}

void RelayCore::DropUpstream() {
  // A frame that was being written may not have arrived.
  commands_up_ = state_.upstream->commands_written;
  state_.relay_streams.erase(state_.upstream->id);
  state_.streams.erase(state_.upstream->id);
  state_.upstream = nullptr;
  state_.relays_above.clear();
}

void RelayCore::UpstreamLost(StreamId id) {
  if (state_.upstream != nullptr && state_.upstream->id == id) DropUpstream();
}

absl::StatusOr<StreamId> RelayCore::UpstreamConnected(const StreamMetadata& initial_metadata, Peer* peer) {
  absl::StatusOr<Hello> hello = state_.shield.CheckServer(initial_metadata);
  if (!hello.ok()) return hello.status();
  std::vector<std::string> above = hello->other_relays;
  if (!hello->relay_id.empty()) above.insert(above.begin(), hello->relay_id);
  const std::set<std::string> below = state_.RelaysBelow();
  for (const std::string& relay : above) {
    if (relay != state_.relay_id && !below.contains(relay)) continue;
    return state_.shield.Refuse(Refusal::kLoop, absl::StrCat("upstream lies below this relay (relay ", relay, ")"));
  }
  if (state_.upstream != nullptr)
    CloseStream(state_.upstream, absl::AbortedError("a newer stream upstream took the place of this one"));
  state_.relays_above = std::move(above);
  state_.upstream = AddStream(*std::move(hello), peer, kUp);
  state_.upstream->dialect = upstream_dialect_;
  state_.upstream->commands_floor = commands_up_;
  state_.upstream->commands_written = commands_up_;
  state_.upstream_since_ms = state_.clock->NowMs();
  ++state_.metrics.upstream_connects;
  GuessUpstreamDialect();
  frames_.Wake(state_.upstream);
  return state_.upstream->id;
}

bool RelayCore::upstream_ready() const {
  return state_.upstream != nullptr && state_.upstream->dialect != Dialect::kUnknown;
}

std::optional<Frame> RelayCore::Take(StreamId id) {
  RelayStream* stream = state_.FindStream(id);
  return stream == nullptr ? std::nullopt : frames_.Take(stream);
}

// --- Time

void RelayCore::Tick() {
  nodes_.SweepUpstream();
  nodes_.ExpireNodes();
  nodes_.AnnounceAll();
  frames_.ReleaseNoise();
  nodes_.Resend();
  GuessUpstreamDialect();
  frames_.ReleaseAll();
  for (const auto& [id, stream] : state_.relay_streams) frames_.Wake(stream);
}

int64_t RelayCore::NextDeadlineMs() const {
  int64_t next_ms = std::min(nodes_.NextDeadlineMs(), frames_.NextDeadlineMs());
  if (state_.upstream != nullptr && state_.upstream->dialect == Dialect::kUnknown) {
    const int64_t guess_ms = state_.upstream_since_ms + state_.options.dialect_wait_ms;
    if (guess_ms > state_.clock->NowMs()) next_ms = std::min(next_ms, guess_ms);
  }
  return next_ms;
}

// --- What can be seen of it

std::vector<StreamStatus> RelayCore::Streams() const {
  const int64_t now_ms = state_.clock->NowMs();
  std::unordered_map<StreamId, size_t> carried;
  for (const auto& [id, node] : state_.view.nodes()) ++carried[node->carried_by];
  std::vector<StreamStatus> all;
  for (const auto& [id, stream] : state_.streams) {
    StreamStatus status;
    status.id = id;
    status.node_id = stream->hello.node_id;
    status.relay_id = stream->hello.relay_id;
    status.is_upstream = stream->is_upstream();
    status.dialect = stream->dialect;
    status.nodes = carried[stream->is_upstream() ? kNoStream : id];
    status.behind = frames_.Behind(*stream);
    status.behind_ms = stream->behind_since_ms == kNeverMs ? 0 : now_ms - stream->behind_since_ms;
    status.connected_ms = now_ms - stream->connected_ms;
    all.push_back(std::move(status));
  }
  return all;
}

size_t RelayCore::MemoryBytes() const {
  constexpr size_t kSlotBytes = 16;
  return state_.view.payload_bytes() + state_.view.size() * (sizeof(NodeState) + kMessageTypes * sizeof(ViewEntry)) +
         frames_.Slots() * kSlotBytes + state_.streams.size() * sizeof(RelayStream);
}

}  // namespace mantaray::syncer
