// See relay_digests.h.

#include "mantaray/syncer/relay_digests.h"

#include <bit>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "mantaray/syncer/digest.h"

namespace mantaray::syncer {
namespace {

// Returns the version of an entry that was sent last.
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

void RelayDigests::AddTalk(RelayStream* stream, bool has_taken_all, std::optional<Frame>* frame) {
  std::string talk;
  size_t messages = 0;
  if (stream->buckets_to_request != 0) AppendRepairRequest(std::exchange(stream->buckets_to_request, 0), &talk);
  // A bucket travels in a frame of its own, because what a frame with complete buckets does not name counts as gone.
  if (stream->buckets_to_send != 0 && !*frame) {
    const size_t bucket = std::countr_zero(stream->buckets_to_send);
    stream->buckets_to_send &= stream->buckets_to_send - 1;
    talk += RepairBucket(*stream, bucket, &messages);
    if (state_->Settled()) AppendCompleteBuckets(uint64_t{1} << bucket, &talk);
    ++state_->metrics.repaired_buckets;
  } else if (Due(*stream, has_taken_all)) {
    stream->digest_sent_ms = state_->clock->NowMs();
    RelayTalk digest;
    digest.relays = state_->relays_above;
    digest.relays.insert(digest.relays.begin(), state_->relay_id);
    if (stream->is_upstream() || state_->Settled()) {
      digest.digest = DigestOf(state_->view, [&](const ViewEntry& entry) { return ShouldKnow(*stream, entry); });
    }
    AppendRelayDigest(EncodeRelayTalk(digest), &talk);
  }
  if (talk.empty()) return;
  if (!*frame) frame->emplace();
  auto owned = std::make_shared<const std::string>(std::move(talk));
  (*frame)->Add(owned, *owned);
  (*frame)->messages += messages;
}

std::string RelayDigests::RepairBucket(const RelayStream& stream, size_t bucket, size_t* messages) const {
  std::string bytes;
  for (const auto& [id, node] : state_->view.nodes()) {
    if (DigestBucket(id) != bucket) continue;
    for (const auto& entry : node->entries) {
      if (entry == nullptr || !ShouldKnow(stream, *entry)) continue;
      bytes.append(*entry->encoded);
      ++*messages;
    }
  }
  return bytes;
}

absl::Status RelayDigests::OnTalk(RelayStream* stream, const Shield::CheckedFrame& frame,
                                  std::vector<NodeState*>* gone) {
  stream->buckets_to_send |= frame.split.repair_request;
  if (frame.split.complete_buckets != 0) *gone = Missing(*stream, frame);
  if (!frame.split.relay_digest) return absl::OkStatus();
  const std::optional<RelayTalk> talk = ParseRelayTalk(*frame.split.relay_digest);
  if (!talk) return state_->shield.Refuse(Refusal::kMalformed, "a relay's digest that is not well-formed");
  if (stream->is_upstream()) {
    const std::set<std::string> below = state_->RelaysBelow();
    for (const std::string& relay : talk->relays) {
      if (relay == state_->relay_id || below.contains(relay))
        return state_->shield.Refuse(Refusal::kLoop, "upstream lies below this relay");
    }
    state_->relays_above = talk->relays;
  }
  if (!talk->digest) return absl::OkStatus();
  const Digest held = DigestOf(state_->view, [&](const ViewEntry& entry) { return HeldFrom(*stream, entry); });
  stream->buckets_to_request |= held.DifferenceTo(*talk->digest);
  return absl::OkStatus();
}

// A node that lives behind the other relay and is not named is gone. The other relay no longer reports what it does not
// name of other nodes.
std::vector<NodeState*> RelayDigests::Missing(const RelayStream& stream, const Shield::CheckedFrame& frame) {
  std::set<std::pair<NodeId, MessageType>> named;
  for (const SyncMessage& message : frame.messages) named.emplace(message.node_id, message.type);
  std::vector<NodeState*> missing;
  for (const auto& [id, node] : state_->view.nodes()) {
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
    // A node that another stream carries is there, whatever this stream says.
    const bool lives_there = stream.is_upstream() ? !LivesBelow(*node) : node->carried_by == stream.id;
    if (is_held && !is_named && lives_there) missing.push_back(node.get());
  }
  return missing;
}

bool RelayDigests::ShouldKnow(const RelayStream& stream, const ViewEntry& entry) const {
  if (stream.is_upstream() && !LivesBelow(*entry.node)) return false;
  return entry.position[stream.direction] != 0 && !IsOwn(stream, entry);
}

bool RelayDigests::HeldFrom(const RelayStream& stream, const ViewEntry& entry) const {
  return entry.source == (stream.is_upstream() ? kFromUpstream : stream.id);
}

bool RelayDigests::Due(const RelayStream& stream, bool has_taken_all) const {
  if (state_->options.digest_ms <= 0 || !stream.is_relay() || stream.dialect == Dialect::kUnknown) return false;
  if (state_->clock->NowMs() < stream.digest_sent_ms + state_->options.digest_ms) return false;
  // A digest covers all that was ever published, so it goes when the stream has taken all of that.
  return has_taken_all;
}

int64_t RelayDigests::DueMs(const RelayStream& stream) const {
  const bool listens = stream.dialect != Dialect::kUnknown && stream.waiting;
  if (state_->options.digest_ms <= 0 || !listens) return kNeverMs;
  return stream.digest_sent_ms + state_->options.digest_ms;
}

}  // namespace mantaray::syncer
