// Streams of the relay: how they come, speak and go.

#include "mantaray/syncer/relay_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "mantaray/syncer/relay_stream.h"

namespace mantaray::syncer {
namespace {

Channel MakeChannel(const RelayOptions& options, MessageType type, size_t direction) {
  const bool at_once = type == MessageType::kCommands;
  return {direction,
          at_once              ? CoalescerOptions{}
          : direction == kDown ? options.downward
                               : options.upward,
          options.frames};
}

}  // namespace

void DelayHistogram::Add(int64_t delay_ms) {
  const auto bound = std::lower_bound(kBoundsMs.begin(), kBoundsMs.end(), delay_ms);
  ++counts[bound - kBoundsMs.begin()];
  sum_ms += static_cast<uint64_t>(std::max<int64_t>(delay_ms, 0));
}

RelayCore::RelayCore(RelayOptions options, const Clock* clock, RelayObserver* observer)
    : options_(options),
      clock_(clock),
      observer_(observer),
      relay_id_(options.node_id.Hex().substr(0, kRelayIdDigits)),
      shield_(options.wire),
      view_(options.max_nodes),
      channels_{
          {{MakeChannel(options, MessageType::kResourceView, kDown),
            MakeChannel(options, MessageType::kResourceView, kUp)},
           {MakeChannel(options, MessageType::kCommands, kDown), MakeChannel(options, MessageType::kCommands, kUp)}}},
      upstream_dialect_(options.upstream_dialect) {}

RelayCore::~RelayCore() = default;

RelayCore::Stream* RelayCore::FindStream(StreamId id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second.get();
}

RelayCore::Stream* RelayCore::AddStream(Hello hello, Peer* peer, size_t direction) {
  auto stream = std::make_unique<Stream>();
  stream->id = ++last_stream_;
  stream->peer = peer;
  stream->hello = std::move(hello);
  stream->direction = direction;
  stream->connected_ms = clock_->NowMs();
  stream->digest_sent_ms = stream->connected_ms;
  stream->commands_floor = ChannelOf(MessageType::kCommands, direction).latest();
  if (stream->is_relay()) relay_streams_.emplace(stream->id, stream.get());
  return streams_.emplace(stream->id, std::move(stream)).first->second.get();
}

// --- Who may come

std::set<std::string> RelayCore::RelaysBelow() const {
  std::set<std::string> below;
  for (const auto& [id, stream] : relay_streams_) {
    if (stream->is_upstream()) continue;
    below.insert(stream->hello.relay_id);
    below.insert(stream->hello.other_relays.begin(), stream->hello.other_relays.end());
  }
  return below;
}

absl::Status RelayCore::CheckLoop(const Hello& hello) {
  std::set<std::string> theirs(hello.other_relays.begin(), hello.other_relays.end());
  if (hello.relay_id.empty() && theirs.empty()) return absl::OkStatus();
  theirs.insert(hello.relay_id);
  bool loop = theirs.contains(relay_id_);
  for (const std::string& above : relays_above_) loop = loop || theirs.contains(above);
  if (!loop) return absl::OkStatus();
  return shield_.Refuse(Refusal::kLoop, absl::StrCat("relay ", hello.relay_id, " would close a loop"));
}

absl::StatusOr<StreamId> RelayCore::AddDownstream(const StreamMetadata& metadata, Peer* peer) {
  absl::StatusOr<Hello> hello = shield_.CheckClient(metadata);
  if (!hello.ok()) return hello.status();
  if (!hello->withdrawn_by.empty()) return Withdraw(*hello);
  if (hello->node_id == options_.node_id) return shield_.Refuse(Refusal::kLoop, "this relay's own node id");
  if (absl::Status status = CheckLoop(*hello); !status.ok()) return status;
  if (!hello->relay_id.empty() && RelaysBelow().size() + hello->other_relays.size() >= kMaxRelays) {
    return shield_.Refuse(Refusal::kBadRelayMetadata, "too many relays below this one");
  }
  const auto before = stream_of_node_.find(hello->node_id);
  if (before == stream_of_node_.end() && downstream_streams() >= options_.max_streams) {
    return shield_.Refuse(Refusal::kTooManyStreams, absl::StrCat("there are ", options_.max_streams, " already"));
  }
  const bool is_node = hello->relay_id.empty();
  if (is_node) MakeRoomFor(hello->node_id);
  NodeState* node = is_node ? view_.FindOrAdd(hello->node_id) : nullptr;
  if (is_node && node == nullptr) {
    return shield_.Refuse(Refusal::kTooManyNodes, absl::StrCat("there are ", options_.max_nodes, " already"));
  }
  const StreamId replaced = before == stream_of_node_.end() ? kNoStream : before->second;
  Stream* stream = AddStream(*std::move(hello), peer, kDown);
  stream_of_node_[stream->hello.node_id] = stream->id;
  if (node != nullptr) Bind(node, stream);
  if (Stream* old = FindStream(replaced)) {
    ++metrics_.streams_replaced;
    CloseStream(old, absl::AbortedError("a newer stream of the same node took the place of this one"));
  }
  return stream->id;
}

absl::Status RelayCore::Withdraw(const Hello& hello) {
  NodeState* node = view_.Find(hello.node_id);
  if (node != nullptr) {
    const Stream* carrier = FindStream(node->carried_by);
    const bool by_its_relay = carrier != nullptr && carrier->hello.relay_id == hello.withdrawn_by;
    if (by_its_relay || (carrier == nullptr && node->leaves_ms != kNeverMs)) Leave(node, /*dead=*/true);
  }
  return absl::CancelledError("node withdrawn");
}

StreamMetadata RelayCore::DownstreamMetadata() const {
  StreamMetadata metadata = {{std::string(kRelayKey), relay_id_}};
  if (!relays_above_.empty()) metadata.emplace_back(kRelaysAboveKey, absl::StrJoin(relays_above_, ","));
  return metadata;
}

StreamMetadata RelayCore::UpstreamMetadata() const {
  StreamMetadata metadata = {{std::string(kNodeIdKey), options_.node_id.Hex()}, {std::string(kRelayKey), relay_id_}};
  if (const std::set<std::string> below = RelaysBelow(); !below.empty()) {
    metadata.emplace_back(kRelaysBelowKey, absl::StrJoin(below, ","));
  }
  return metadata;
}

StreamMetadata RelayCore::WithdrawMetadata(const NodeId& node_id) const {
  return {{std::string(kNodeIdKey), node_id.Hex()}, {std::string(kWithdrawKey), relay_id_}};
}

// --- What they say

void RelayCore::OnDownstreamBytes(StreamId id, std::string_view bytes) {
  Stream* stream = FindStream(id);
  if (stream == nullptr || stream->is_upstream()) return;
  ++metrics_.frames_in;
  metrics_.bytes_in += bytes.size();
  // What relays have to tell each other comes as a batch, whatever their nodes speak.
  const Dialect dialect = stream->is_relay() ? Dialect::kUnknown : stream->dialect;
  const absl::StatusOr<Shield::CheckedFrame> frame = shield_.CheckFrame(bytes, dialect);
  const absl::Status status = frame.ok() ? TakeIn(stream, *frame) : frame.status();
  if (!status.ok()) CloseStream(stream, status);
  ReleaseAll();
}

absl::Status RelayCore::TakeIn(Stream* stream, const Shield::CheckedFrame& frame) {
  metrics_.messages_in += frame.messages.size();
  std::vector<Verdict> verdicts;
  verdicts.reserve(frame.messages.size());
  for (const SyncMessage& message : frame.messages) {
    verdicts.push_back(Judge(*stream, message));
    if (verdicts.back() != Verdict::kImpersonation) continue;
    return shield_.Refuse(Refusal::kImpersonation, absl::StrCat("it speaks for node ", message.node_id.Hex(),
                                                                ", which has a stream of its own"));
  }
  LearnDialect(stream, frame);
  for (size_t at = 0; at < frame.messages.size(); ++at) {
    const SyncMessage& message = frame.messages[at];
    if (verdicts[at] == Verdict::kDrop) ++metrics_.echoes;
    if (verdicts[at] == Verdict::kWait) Contend(*stream, message);
    if (verdicts[at] != Verdict::kAccept) continue;
    if (absl::Status status = AcceptFromBelow(stream, message); !status.ok()) return status;
  }
  const absl::Status status = stream->is_relay() ? OnRelayTalk(stream, frame) : absl::OkStatus();
  if (status.ok()) Wake(stream);
  return status;
}

void RelayCore::LearnDialect(Stream* stream, const Shield::CheckedFrame& frame) {
  if (stream->dialect != Dialect::kUnknown || frame.split.has_relay_talk()) return;
  stream->dialect = frame.split.dialect;
  GuessUpstreamDialect();
}

void RelayCore::SpeakUpstream(Dialect dialect) {
  upstream_dialect_ = dialect;
  upstream_->dialect = dialect;
  Wake(upstream_);
}

void RelayCore::GuessUpstreamDialect() {
  if (upstream_ == nullptr || upstream_->dialect != Dialect::kUnknown) return;
  if (!upstream_->is_relay() && clock_->NowMs() < upstream_since_ms_ + options_.dialect_wait_ms) return;
  size_t bare = 0;
  size_t batch = 0;
  for (const auto& [id, stream] : streams_) {
    bare += stream->dialect == Dialect::kBare ? 1 : 0;
    batch += stream->dialect == Dialect::kBatch ? 1 : 0;
  }
  if (bare + batch > 0) SpeakUpstream(bare > batch ? Dialect::kBare : Dialect::kBatch);
}

void RelayCore::OnUpstreamBytes(StreamId id, std::string_view bytes) {
  if (upstream_ == nullptr || upstream_->id != id) return;
  ++metrics_.frames_in;
  ++metrics_.upstream_frames_in;
  metrics_.bytes_in += bytes.size();
  metrics_.upstream_bytes_in += bytes.size();
  const absl::StatusOr<Shield::CheckedFrame> frame = shield_.CheckUpstreamFrame(bytes);
  if (!frame.ok()) {
    CloseStream(upstream_, frame.status());
    return;
  }
  metrics_.messages_in += frame->messages.size();
  metrics_.upstream_messages_in += frame->messages.size();
  // Damage is no dialect, nor is what relays have to tell each other.
  const bool tells =
      options_.upstream_dialect == Dialect::kUnknown && !frame->messages.empty() && !frame->split.has_relay_talk();
  if (tells && upstream_->dialect != frame->split.dialect) SpeakUpstream(frame->split.dialect);
  for (const SyncMessage& message : frame->messages) AcceptFromAbove(message);
  if (upstream_->is_relay()) {
    const absl::Status status = OnRelayTalk(upstream_, *frame);
    if (!status.ok()) {
      CloseStream(upstream_, status);
    } else {
      Wake(upstream_);
    }
  }
  ReleaseAll();
}

// --- How they go

void RelayCore::RemoveDownstream(StreamId id) {
  Stream* stream = FindStream(id);
  if (stream != nullptr && !stream->is_upstream()) EraseStream(stream);
}

void RelayCore::CloseStream(Stream* stream, const absl::Status& status) {
  Peer* peer = stream->peer;
  EraseStream(stream);
  peer->Close(status);
}

void RelayCore::EraseStream(Stream* stream) {
  if (stream == upstream_) return DropUpstream();
  const auto of_node = stream_of_node_.find(stream->hello.node_id);
  if (of_node != stream_of_node_.end() && of_node->second == stream->id) stream_of_node_.erase(of_node);
  std::vector<NodeState*> carried;
  if (stream->is_relay()) {
    for (const auto& [id, node] : view_.nodes()) {
      if (node->carried_by == stream->id) carried.push_back(node.get());
    }
  } else if (NodeState* node = view_.Find(stream->hello.node_id); node != nullptr && node->carried_by == stream->id) {
    carried.push_back(node);
  }
  relay_streams_.erase(stream->id);
  streams_.erase(stream->id);
  for (NodeState* node : carried) Unbind(node);
}

void RelayCore::DropUpstream() {
  // A frame that was being written may not have arrived.
  commands_up_ = upstream_->commands_written;
  relay_streams_.erase(upstream_->id);
  streams_.erase(upstream_->id);
  upstream_ = nullptr;
  relays_above_.clear();
}

void RelayCore::UpstreamLost(StreamId id) {
  if (upstream_ != nullptr && upstream_->id == id) DropUpstream();
}

absl::StatusOr<StreamId> RelayCore::UpstreamConnected(const StreamMetadata& initial_metadata, Peer* peer) {
  absl::StatusOr<Hello> hello = shield_.CheckServer(initial_metadata);
  if (!hello.ok()) return hello.status();
  std::vector<std::string> above = hello->other_relays;
  if (!hello->relay_id.empty()) above.insert(above.begin(), hello->relay_id);
  const std::set<std::string> below = RelaysBelow();
  for (const std::string& relay : above) {
    if (relay != relay_id_ && !below.contains(relay)) continue;
    return shield_.Refuse(Refusal::kLoop, absl::StrCat("upstream lies below this relay (relay ", relay, ")"));
  }
  if (upstream_ != nullptr)
    CloseStream(upstream_, absl::AbortedError("a newer stream upstream took the place of this one"));
  relays_above_ = std::move(above);
  upstream_ = AddStream(*std::move(hello), peer, kUp);
  upstream_->dialect = upstream_dialect_;
  upstream_->commands_floor = commands_up_;
  upstream_->commands_written = commands_up_;
  upstream_since_ms_ = clock_->NowMs();
  ++metrics_.upstream_connects;
  GuessUpstreamDialect();
  Wake(upstream_);
  return upstream_->id;
}

bool RelayCore::upstream_ready() const { return upstream_ != nullptr && upstream_->dialect != Dialect::kUnknown; }

// --- Time

void RelayCore::Tick() {
  SweepUpstream();
  ExpireNodes();
  AnnounceAll();
  ReleaseNoise();
  Resend();
  GuessUpstreamDialect();
  ReleaseAll();
  for (const auto& [id, stream] : relay_streams_) Wake(stream);
}

int64_t RelayCore::NextDeadlineMs() const {
  int64_t next_ms = kNeverMs;
  if (upstream_ != nullptr && (swept_ != upstream_->id || !unannounced_.empty())) next_ms = SettledAtMs();
  if (upstream_ != nullptr && upstream_->dialect == Dialect::kUnknown) {
    const int64_t guess_ms = upstream_since_ms_ + options_.dialect_wait_ms;
    if (guess_ms > clock_->NowMs()) next_ms = std::min(next_ms, guess_ms);
  }
  for (const auto& of_type : channels_) {
    for (const Channel& channel : of_type) next_ms = std::min(next_ms, channel.DeadlineMs());
  }
  if (!leaving_.empty()) next_ms = std::min(next_ms, leaving_.begin()->first);
  if (!noise_.empty()) next_ms = std::min(next_ms, noise_.begin()->first);
  if (!resend_.empty()) next_ms = std::min(next_ms, resend_.begin()->first);
  if (options_.digest_ms > 0) {
    for (const auto& [id, stream] : relay_streams_) {
      // One that is behind gets its digest with what it takes next.
      const bool listens = stream->dialect != Dialect::kUnknown && stream->waiting;
      if (listens && HasTakenAll(*stream)) next_ms = std::min(next_ms, stream->digest_sent_ms + options_.digest_ms);
    }
  }
  return next_ms;
}

// --- What can be seen of it

std::vector<StreamStatus> RelayCore::Streams() const {
  const int64_t now_ms = clock_->NowMs();
  std::unordered_map<StreamId, size_t> carried;
  for (const auto& [id, node] : view_.nodes()) ++carried[node->carried_by];
  std::vector<StreamStatus> all;
  for (const auto& [id, stream] : streams_) {
    StreamStatus status;
    status.id = id;
    status.node_id = stream->hello.node_id;
    status.relay_id = stream->hello.relay_id;
    status.is_upstream = stream->is_upstream();
    status.dialect = stream->dialect;
    status.nodes = carried[stream->is_upstream() ? kNoStream : id];
    for (size_t type = 0; type < kMessageTypes; ++type) {
      channels_[type][stream->direction].log().VisitAfter(stream->taken[type], [&](const ViewEntry*) {
        ++status.behind;
        return true;
      });
    }
    status.behind_ms = stream->behind_since_ms == kNeverMs ? 0 : now_ms - stream->behind_since_ms;
    status.connected_ms = now_ms - stream->connected_ms;
    all.push_back(std::move(status));
  }
  return all;
}

size_t RelayCore::MemoryBytes() const {
  size_t slots = 0;
  for (const auto& of_type : channels_) {
    for (const Channel& channel : of_type) slots += channel.log().slots();
  }
  constexpr size_t kSlotBytes = 16;
  return view_.payload_bytes() + view_.size() * (sizeof(NodeState) + kMessageTypes * sizeof(ViewEntry)) +
         slots * kSlotBytes + streams_.size() * sizeof(Stream);
}

}  // namespace mantaray::syncer
