// What relays tell each other, in fields that travel between relays only (wire.h).
//
// A relay tells the ones next to it, at most every RelayOptions::digest_ms and when they have taken all there is, which
// relays lie above it (a loop that no metadata could show at the time is found so) and a digest of what they should
// know by now: 64 buckets of nodes, each the xor of a hash of (node, type, version). The receiver compares it with what
// it holds, and asks for the buckets that differ; it gets them whole, and forgets nodes that are no longer in them. So
// a lost update, or a lost departure, stays lost for no longer than a period. It travels as a batch even between relays
// whose nodes speak bare messages. Nodes and the GCS cannot answer: what a stream has taken is what they have.

#ifndef MANTARAY_SYNCER_DIGEST_H_
#define MANTARAY_SYNCER_DIGEST_H_

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mantaray/syncer/node_id.h"
#include "mantaray/syncer/shield.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::syncer {

inline constexpr size_t kDigestBuckets = 64;

inline size_t DigestBucket(const NodeId& id) { return MixNodeId(id, 0x5eed) % kDigestBuckets; }

struct Digest {
  std::array<uint64_t, kDigestBuckets> buckets{};

  void Add(const NodeId& id, MessageType type, int64_t version) {
    const uint64_t seed = static_cast<uint64_t>(version) * kMessageTypes + static_cast<uint64_t>(type) + 1;
    buckets[DigestBucket(id)] ^= MixNodeId(id, seed * 0x9e3779b97f4a7c15ULL);
  }
  // A bit for each bucket that is not the same.
  uint64_t DifferenceTo(const Digest& other) const {
    uint64_t different = 0;
    for (size_t at = 0; at < kDigestBuckets; ++at) different |= uint64_t{buckets[at] != other.buckets[at]} << at;
    return different;
  }
};

struct RelayTalk {
  std::vector<std::string> relays;  // the sender and those above it
  std::optional<Digest> digest;
};

// A byte with the number of relays, 16 digits for each, the buckets or nothing.
inline std::string EncodeRelayTalk(const RelayTalk& talk) {
  const size_t count = talk.relays.size() < 255 ? talk.relays.size() : 255;
  std::string out(1, static_cast<char>(count));
  for (size_t at = 0; at < count; ++at) out += talk.relays[at];
  if (talk.digest) out.append(reinterpret_cast<const char*>(talk.digest->buckets.data()), sizeof(talk.digest->buckets));
  return out;
}

// Nothing if it is not well-formed.
inline std::optional<RelayTalk> ParseRelayTalk(std::string_view bytes) {
  if (bytes.empty()) return std::nullopt;
  const size_t count = static_cast<unsigned char>(bytes[0]);
  bytes.remove_prefix(1);
  if (bytes.size() < count * kRelayIdDigits) return std::nullopt;
  RelayTalk talk;
  for (size_t at = 0; at < count; ++at) talk.relays.emplace_back(bytes.substr(at * kRelayIdDigits, kRelayIdDigits));
  bytes.remove_prefix(count * kRelayIdDigits);
  if (bytes.empty()) return talk;
  Digest digest;
  if (bytes.size() != sizeof(digest.buckets)) return std::nullopt;
  std::memcpy(digest.buckets.data(), bytes.data(), bytes.size());
  talk.digest = digest;
  return talk;
}

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_DIGEST_H_
