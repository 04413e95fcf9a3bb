// See relay_frames.h.

#include "mantaray/syncer/relay_frames.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "mantaray/syncer/payload.h"

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

Channel MakeChannel(const RelayOptions& options, MessageType type, size_t direction) {
  const bool at_once = type == MessageType::kCommands;
  return {direction,
          at_once              ? CoalescerOptions{}
          : direction == kDown ? options.downward
                               : options.upward,
          options.frames};
}

}  // namespace

RelayFrames::RelayFrames(RelayState* state, RelayDigests* digests)
    : state_(state),
      digests_(digests),
      channels_{{{MakeChannel(state->options, MessageType::kResourceView, kDown),
                  MakeChannel(state->options, MessageType::kResourceView, kUp)},
                 {MakeChannel(state->options, MessageType::kCommands, kDown),
                  MakeChannel(state->options, MessageType::kCommands, kUp)}}} {}

Channel& RelayFrames::ChannelOf(MessageType type, size_t direction) {
  return channels_[static_cast<size_t>(type)][direction];
}

const Channel& RelayFrames::ChannelOf(MessageType type, size_t direction) const {
  return channels_[static_cast<size_t>(type)][direction];
}

void RelayFrames::ForgetSegments() {
  for (auto& of_type : channels_) of_type[kDown].ForgetSegments();
}

void RelayFrames::ReleaseAll() {
  const int64_t now_ms = state_->clock->NowMs();
  bool released_down = false;
  for (auto& of_type : channels_) {
    if (of_type[kUp].Release(now_ms, [](const ViewEntry*) {}) && state_->upstream != nullptr) Wake(state_->upstream);
    released_down |= of_type[kDown].Release(
        now_ms, [&](const ViewEntry* entry) { state_->metrics.delay.Add(now_ms - entry->waiting_since_ms); });
  }
  if (!released_down) return;
  for (const auto& [id, stream] : state_->streams) {
    if (!stream->is_upstream()) Wake(stream.get());
  }
}

bool RelayFrames::IsBehind(const RelayStream& stream) const {
  for (size_t type = 0; type < kMessageTypes; ++type) {
    if (stream.taken[type] < channels_[type][stream.direction].released()) return true;
  }
  return false;
}

bool RelayFrames::HasTakenAll(const RelayStream& stream) const {
  for (size_t type = 0; type < kMessageTypes; ++type) {
    if (stream.taken[type] < channels_[type][stream.direction].latest()) return false;
  }
  return true;
}

void RelayFrames::Wake(RelayStream* stream) {
  const bool behind = IsBehind(*stream);
  if (behind && stream->behind_since_ms == kNeverMs) stream->behind_since_ms = state_->clock->NowMs();
  if (!stream->waiting || stream->dialect == Dialect::kUnknown) return;
  const bool talk =
      stream->buckets_to_send != 0 || stream->buckets_to_request != 0 || digests_->Due(*stream, HasTakenAll(*stream));
  if (!behind && !talk) return;
  stream->waiting = false;
  stream->peer->WriteReady();
}

std::optional<Frame> RelayFrames::Take(RelayStream* stream) {
  stream->waiting = false;
  stream->commands_written = stream->taken[kCommandsType];
  std::optional<Frame> frame;
  if (stream->dialect != Dialect::kUnknown) {
    const bool batches = stream->dialect == Dialect::kBatch;
    frame = TakeCommands(stream);
    if (!frame) frame = batches ? TakeViews(stream) : TakeBareView(stream);
    // What relays tell each other does not fit into a bare message. It goes by itself when those have been sent.
    if (stream->is_relay() && (batches || !frame)) digests_->AddTalk(stream, HasTakenAll(*stream), &frame);
    if (!IsBehind(*stream)) stream->behind_since_ms = kNeverMs;
  }
  if (frame) {
    CountOut(*stream, *frame);
  } else {
    stream->waiting = true;
  }
  return frame;
}

void RelayFrames::CountOut(const RelayStream& stream, const Frame& frame) {
  ++state_->metrics.frames_out;
  state_->metrics.messages_out += frame.messages;
  state_->metrics.bytes_out += frame.size_bytes;
  if (!stream.is_upstream()) return;
  ++state_->metrics.upstream_frames_out;
  state_->metrics.upstream_messages_out += frame.messages;
  state_->metrics.upstream_bytes_out += frame.size_bytes;
}

// Returns the message with every command that was set since the stream last got it.
std::string RelayFrames::WithFlagsFor(const RelayStream& stream, const ViewEntry& entry) const {
  const uint64_t seen = std::max(stream.taken[kCommandsType], stream.commands_floor);
  uint8_t flags = 0;
  for (size_t flag = 0; flag < std::size(kCommandFlags); ++flag) {
    if (entry.flag_position[flag][stream.direction] > seen) flags |= kCommandFlags[flag];
  }
  flags &= static_cast<uint8_t>(~ReadCommandFlags(entry.payload));
  if (flags == 0) return std::string(entry.bare());
  return WithPayload(entry.bare(), WithCommandFlags(entry.payload, flags));
}

std::optional<Frame> RelayFrames::TakeCommands(RelayStream* stream) {
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
    const bool full = stream->dialect == Dialect::kBare || messages >= state_->options.frames.max_messages ||
                      bytes.size() >= state_->options.frames.max_bytes;
    if (full) taken = entry->position[stream->direction];
    return !full;
  });
  stream->taken[kCommandsType] = taken;
  if (messages == 0) return std::nullopt;
  return FrameOf(std::move(bytes), messages);
}

std::optional<Frame> RelayFrames::TakeViews(RelayStream* stream) {
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

std::optional<Frame> RelayFrames::TakeBareView(RelayStream* stream) {
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

bool RelayFrames::HoldAsNoise(ViewEntry* entry, const ViewEntry& before) {
  const bool can_wait =
      state_->options.noise.enabled && entry->type == MessageType::kResourceView && entry->position[kDown] != 0;
  if (!can_wait) return false;
  const bool waits_already = entry->noise_until_ms != kNeverMs;
  const std::string_view published = waits_already ? entry->published_payload : before.payload;
  if (!IsNoise(published, entry->payload, state_->options.noise)) return false;
  ++state_->metrics.noise_held;
  if (waits_already) return true;
  entry->published = before.encoded;
  entry->published_payload = before.payload;
  entry->published_version = before.version;
  entry->noise_until_ms = state_->clock->NowMs() + state_->options.noise.max_delay_ms;
  noise_.emplace(entry->noise_until_ms, entry->node->id);
  return true;
}

void RelayFrames::Publish(ViewEntry* entry, bool from_below) {
  if (entry->noise_until_ms != kNeverMs) {
    noise_.erase({entry->noise_until_ms, entry->node->id});
    entry->noise_until_ms = kNeverMs;
    entry->published.reset();
  }
  const int64_t now_ms = state_->clock->NowMs();
  if (ChannelOf(entry->type, kDown).IsWaiting(*entry)) ++state_->metrics.coalesced;
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

void RelayFrames::ReleaseNoise() {
  const int64_t now_ms = state_->clock->NowMs();
  while (!noise_.empty() && noise_.begin()->first <= now_ms) {
    NodeState* node = state_->view.Find(noise_.begin()->second);
    Publish(node->entries[kViews].get(), /*from_below=*/true);
  }
}

void RelayFrames::Remove(ViewEntry* entry) {
  if (entry->noise_until_ms != kNeverMs) noise_.erase({entry->noise_until_ms, entry->node->id});
  ChannelOf(entry->type, kDown).Remove(entry);
  ChannelOf(entry->type, kUp).Remove(entry);
}

size_t RelayFrames::Behind(const RelayStream& stream) const {
  size_t behind = 0;
  for (size_t type = 0; type < kMessageTypes; ++type) {
    channels_[type][stream.direction].log().VisitAfter(stream.taken[type], [&](const ViewEntry*) {
      ++behind;
      return true;
    });
  }
  return behind;
}

size_t RelayFrames::Slots() const {
  size_t slots = 0;
  for (const auto& of_type : channels_) {
    for (const Channel& channel : of_type) slots += channel.log().slots();
  }
  return slots;
}

int64_t RelayFrames::NextDeadlineMs() const {
  int64_t next_ms = noise_.empty() ? kNeverMs : noise_.begin()->first;
  for (const auto& of_type : channels_) {
    for (const Channel& channel : of_type) next_ms = std::min(next_ms, channel.DeadlineMs());
  }
  for (const auto& [id, stream] : state_->relay_streams) {
    // A stream that is behind gets its digest with what it takes next.
    if (HasTakenAll(*stream)) next_ms = std::min(next_ms, digests_->DueMs(*stream));
  }
  return next_ms;
}

}  // namespace mantaray::syncer
