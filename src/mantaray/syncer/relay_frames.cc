// Frames of the relay: what each stream is sent, and when.

#include <algorithm>
#include <bit>
#include <utility>

#include "mantaray/syncer/digest.h"
#include "mantaray/syncer/relay_core.h"
#include "mantaray/syncer/relay_stream.h"

namespace mantaray::syncer {
namespace {

constexpr size_t kViews = static_cast<size_t>(MessageType::kResourceView);
constexpr size_t kCommandsType = static_cast<size_t>(MessageType::kCommands);
// With more parts than this a copy is cheaper to write.
constexpr size_t kMostSlices = 16;

Frame FrameOf(std::string bytes, size_t messages) {
  auto owned = std::make_shared<const std::string>(std::move(bytes));
  Frame frame;
  frame.messages = messages;
  frame.Add(owned, *owned);
  return frame;
}

// What a version of the entry went on last.
int64_t PublishedVersion(const ViewEntry& entry) {
  return entry.noise_until_ms == kNeverMs ? entry.version : entry.published_version;
}

template <typename Wanted>
Digest DigestOf(const ViewStore& view, Wanted wanted) {
  Digest digest;
  for (const auto& [id, node] : view.nodes()) {
    for (const auto& entry : node->entries) {
      if (entry != nullptr && wanted(*entry)) digest.Add(id, entry->type, PublishedVersion(*entry));
    }
  }
  return digest;
}

}  // namespace

Channel& RelayCore::ChannelOf(MessageType type, size_t direction) {
  return channels_[static_cast<size_t>(type)][direction];
}

const Channel& RelayCore::ChannelOf(MessageType type, size_t direction) const {
  return channels_[static_cast<size_t>(type)][direction];
}

void RelayCore::ForgetSegments() {
  for (auto& of_type : channels_) of_type[kDown].ForgetSegments();
}

// --- Who has something to take

void RelayCore::ReleaseAll() {
  const int64_t now_ms = clock_->NowMs();
  bool released_down = false;
  for (auto& of_type : channels_) {
    if (of_type[kUp].Release(now_ms, [](const ViewEntry*) {}) && upstream_ != nullptr) Wake(upstream_);
    released_down |= of_type[kDown].Release(
        now_ms, [&](const ViewEntry* entry) { metrics_.delay.Add(now_ms - entry->waiting_since_ms); });
  }
  if (!released_down) return;
  for (const auto& [id, stream] : streams_) {
    if (!stream->is_upstream()) Wake(stream.get());
  }
}

bool RelayCore::IsBehind(const Stream& stream) const {
  for (size_t type = 0; type < kMessageTypes; ++type) {
    if (stream.taken[type] < channels_[type][stream.direction].released()) return true;
  }
  return false;
}

void RelayCore::Wake(Stream* stream) {
  const bool behind = IsBehind(*stream);
  if (behind && stream->behind_since_ms == kNeverMs) stream->behind_since_ms = clock_->NowMs();
  if (!stream->waiting || stream->dialect == Dialect::kUnknown) return;
  const bool talk = stream->buckets_to_send != 0 || stream->buckets_to_request != 0 || DigestDue(*stream);
  if (!behind && !talk) return;
  stream->waiting = false;
  stream->peer->WriteReady();
}

// --- What it takes

std::optional<Frame> RelayCore::Take(StreamId id) {
  Stream* stream = FindStream(id);
  if (stream == nullptr) return std::nullopt;
  stream->waiting = false;
  stream->commands_written = stream->taken[kCommandsType];
  std::optional<Frame> frame;
  if (stream->dialect != Dialect::kUnknown) {
    const bool batches = stream->dialect == Dialect::kBatch;
    frame = TakeCommands(stream);
    if (!frame) frame = batches ? TakeViews(stream) : TakeBareView(stream);
    // It does not go into a bare message; when those are done, by itself.
    if (stream->is_relay() && (batches || !frame)) TakeRelayTalk(stream, &frame);
    if (!IsBehind(*stream)) stream->behind_since_ms = kNeverMs;
  }
  if (frame) {
    CountOut(*stream, *frame);
  } else {
    stream->waiting = true;
  }
  return frame;
}

void RelayCore::CountOut(const Stream& stream, const Frame& frame) {
  ++metrics_.frames_out;
  metrics_.messages_out += frame.messages;
  metrics_.bytes_out += frame.size_bytes;
  if (!stream.is_upstream()) return;
  ++metrics_.upstream_frames_out;
  metrics_.upstream_messages_out += frame.messages;
  metrics_.upstream_bytes_out += frame.size_bytes;
}

// The message, with every command that was set since the stream last saw it.
std::string RelayCore::WithFlagsFor(const Stream& stream, const ViewEntry& entry) const {
  const uint64_t seen = std::max(stream.taken[kCommandsType], stream.commands_floor);
  uint8_t flags = 0;
  for (size_t flag = 0; flag < std::size(kCommandFlags); ++flag) {
    if (entry.flag_position[flag][stream.direction] > seen) flags |= kCommandFlags[flag];
  }
  flags &= static_cast<uint8_t>(~ReadCommandFlags(entry.payload));
  if (flags == 0) return std::string(entry.bare());
  return WithPayload(entry.bare(), WithCommandFlags(entry.payload, flags));
}

std::optional<Frame> RelayCore::TakeCommands(Stream* stream) {
  const Channel& channel = ChannelOf(MessageType::kCommands, stream->direction);
  if (stream->taken[kCommandsType] >= channel.released()) return std::nullopt;
  std::string bytes;
  size_t messages = 0;
  uint64_t taken = channel.latest();
  channel.log().VisitAfter(stream->taken[kCommandsType], [&](const ViewEntry* entry) {
    if (IsOwn(*stream, *entry)) return true;
    const std::string message = WithFlagsFor(*stream, *entry);
    if (stream->dialect == Dialect::kBare) {
      bytes = message;
    } else {
      AppendBatchEntry(message, &bytes);
    }
    ++messages;
    const bool full = stream->dialect == Dialect::kBare || messages >= options_.frames.max_messages ||
                      bytes.size() >= options_.frames.max_bytes;
    if (full) taken = entry->position[stream->direction];
    return !full;
  });
  stream->taken[kCommandsType] = taken;
  if (messages == 0) return std::nullopt;
  return FrameOf(std::move(bytes), messages);
}

std::optional<Frame> RelayCore::TakeViews(Stream* stream) {
  Channel& channel = ChannelOf(MessageType::kResourceView, stream->direction);
  while (stream->taken[kViews] < channel.released()) {
    const std::shared_ptr<const Segment> segment = channel.Build(stream->taken[kViews]);
    stream->taken[kViews] = segment->to;
    Frame frame = segment->For(stream->id);
    if (frame.messages == 0) continue;
    return frame.slices.size() > kMostSlices ? FrameOf(frame.Flatten(), frame.messages) : std::move(frame);
  }
  return std::nullopt;
}

std::optional<Frame> RelayCore::TakeBareView(Stream* stream) {
  const Channel& channel = ChannelOf(MessageType::kResourceView, stream->direction);
  if (stream->taken[kViews] >= channel.released()) return std::nullopt;
  std::optional<Frame> frame;
  uint64_t taken = channel.latest();
  channel.log().VisitAfter(stream->taken[kViews], [&](const ViewEntry* entry) {
    if (IsOwn(*stream, *entry)) return true;
    frame.emplace();
    frame->messages = 1;
    frame->Add(entry->encoded, entry->bare());
    taken = entry->position[stream->direction];
    return false;
  });
  stream->taken[kViews] = taken;
  return frame;
}

// --- Between relays

int64_t RelayCore::SettledAtMs() const { return upstream_since_ms_ + options_.replay_ms; }

bool RelayCore::Settled() const { return upstream_ != nullptr && clock_->NowMs() >= SettledAtMs(); }

bool RelayCore::DigestDue(const Stream& stream) const {
  if (options_.digest_ms <= 0 || !stream.is_relay() || stream.dialect == Dialect::kUnknown) return false;
  if (clock_->NowMs() < stream.digest_sent_ms + options_.digest_ms) return false;
  // A digest speaks of all that was ever published, so it goes when all of that was taken.
  return HasTakenAll(stream);
}

bool RelayCore::HasTakenAll(const Stream& stream) const {
  for (size_t type = 0; type < kMessageTypes; ++type) {
    if (stream.taken[type] < channels_[type][stream.direction].latest()) return false;
  }
  return true;
}

bool RelayCore::IsOwn(const Stream& stream, const ViewEntry& entry) {
  return entry.source == stream.id || entry.node->carried_by == stream.id;
}

bool RelayCore::ShouldKnow(const Stream& stream, const ViewEntry& entry) const {
  if (stream.is_upstream() && !LivesBelow(*entry.node)) return false;
  return entry.position[stream.direction] != 0 && !IsOwn(stream, entry);
}

bool RelayCore::HeldFrom(const Stream& stream, const ViewEntry& entry) const {
  return entry.source == (stream.is_upstream() ? kFromUpstream : stream.id);
}

void RelayCore::TakeRelayTalk(Stream* stream, std::optional<Frame>* frame) {
  std::string talk;
  size_t messages = 0;
  if (stream->buckets_to_request != 0) AppendRepairRequest(std::exchange(stream->buckets_to_request, 0), &talk);
  // A bucket by itself: what a frame with complete buckets does not name is gone.
  if (stream->buckets_to_send != 0 && !*frame) {
    const size_t bucket = std::countr_zero(stream->buckets_to_send);
    stream->buckets_to_send &= stream->buckets_to_send - 1;
    talk += RepairBucket(*stream, bucket, &messages);
    if (Settled()) AppendCompleteBuckets(uint64_t{1} << bucket, &talk);
    ++metrics_.repaired_buckets;
  } else if (DigestDue(*stream)) {
    stream->digest_sent_ms = clock_->NowMs();
    RelayTalk digest;
    digest.relays = relays_above_;
    digest.relays.insert(digest.relays.begin(), relay_id_);
    if (stream->is_upstream() || Settled()) {
      digest.digest = DigestOf(view_, [&](const ViewEntry& entry) { return ShouldKnow(*stream, entry); });
    }
    AppendRelayDigest(EncodeRelayTalk(digest), &talk);
  }
  if (talk.empty()) return;
  if (!*frame) frame->emplace();
  auto owned = std::make_shared<const std::string>(std::move(talk));
  (*frame)->Add(owned, *owned);
  (*frame)->messages += messages;
}

std::string RelayCore::RepairBucket(const Stream& stream, size_t bucket, size_t* messages) const {
  std::string bytes;
  for (const auto& [id, node] : view_.nodes()) {
    if (DigestBucket(id) != bucket) continue;
    for (const auto& entry : node->entries) {
      if (entry == nullptr || !ShouldKnow(stream, *entry)) continue;
      bytes.append(*entry->encoded);
      ++*messages;
    }
  }
  return bytes;
}

absl::Status RelayCore::OnRelayTalk(Stream* stream, const Shield::CheckedFrame& frame) {
  stream->buckets_to_send |= frame.split.repair_request;
  if (frame.split.complete_buckets != 0) ForgetMissing(*stream, frame);
  if (!frame.split.relay_digest) return absl::OkStatus();
  const std::optional<RelayTalk> talk = ParseRelayTalk(*frame.split.relay_digest);
  if (!talk) return shield_.Refuse(Refusal::kMalformed, "a relay's digest that is not well-formed");
  if (stream->is_upstream()) {
    const std::set<std::string> below = RelaysBelow();
    for (const std::string& relay : talk->relays) {
      if (relay == relay_id_ || below.contains(relay))
        return shield_.Refuse(Refusal::kLoop, "upstream lies below this relay");
    }
    relays_above_ = talk->relays;
  }
  if (!talk->digest) return absl::OkStatus();
  const Digest held = DigestOf(view_, [&](const ViewEntry& entry) { return HeldFrom(*stream, entry); });
  stream->buckets_to_request |= held.DifferenceTo(*talk->digest);
  return absl::OkStatus();
}

// A node that lives there and is not named is gone. What is not named of others is not heard from there any more.
void RelayCore::ForgetMissing(const Stream& stream, const Shield::CheckedFrame& frame) {
  std::set<std::pair<NodeId, MessageType>> named;
  for (const SyncMessage& message : frame.messages) named.emplace(message.node_id, message.type);
  std::vector<NodeState*> missing;
  for (const auto& [id, node] : view_.nodes()) {
    if ((frame.split.complete_buckets >> DigestBucket(id) & 1) == 0) continue;
    bool is_named = false;
    bool is_held = false;
    for (const auto& entry : node->entries) {
      if (entry == nullptr) continue;
      if (named.contains({id, entry->type})) {
        is_named = true;
      } else if (HeldFrom(stream, *entry)) {
        is_held = true;
        entry->source = kNoStream;
      }
    }
    // Whoever is carried by another stream is there, whatever is said here.
    const bool lives_there = stream.is_upstream() ? !LivesBelow(*node) : node->carried_by == stream.id;
    if (is_held && !is_named && lives_there) missing.push_back(node.get());
  }
  ForgetSegments();
  for (NodeState* node : missing) Leave(node, /*dead=*/!stream.is_upstream());
}

}  // namespace mantaray::syncer
