// The messages of Ray's resource-view sync, as far as simulated raylets need them: written by hand, so that reading
// half a million of them a second leaves the machine to the processes that are measured.
//
// RaySyncMessage {1 version, 2 type, 3 payload, 4 node id}; RaySyncMessageBatch {1 repeated RaySyncMessage}. Ray 2.48
// streams bare messages, Ray 2.53 and later stream batches; the first byte tells them apart.

#ifndef MANTARAY_BENCHMARKS_SYNC_STORM_SYNC_MESSAGES_H_
#define MANTARAY_BENCHMARKS_SYNC_STORM_SYNC_MESSAGES_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace mantaray::storm {

inline constexpr size_t kNodeIdBytes = 28;

enum class Dialect { kBare, kBatch };

// A message received; the views point into what was received.
struct SyncMessage {
  uint64_t version = 0;
  uint64_t type = 0;
  absl::string_view payload;
  absl::string_view node_id;
};

// The id of simulated node `index`: begins with the index, so that a receiver finds it without a lookup.
std::string NodeId(uint32_t index, uint64_t seed);
// The index that an id begins with; whether the rest fits is for the caller to compare.
uint32_t NodeIndex(absl::string_view node_id);

// A ResourceViewSyncMessage as a raylet would send it: what a node has and what of it is free. Its first field carries
// `sequence`, which is how a receiver knows what it got however often the message was re-packed on the way. The same
// arguments give the same bytes; those of nodes and sequences of a run have the same length but for a few bytes.
std::string Payload(uint32_t index, uint64_t sequence, size_t padding_bytes, uint32_t material_every = 1);
// Whether more than object-store bytes and idle time differs from the payload before.
bool IsMaterial(uint32_t index, uint64_t sequence, uint32_t material_every);
// The sequence of a payload made by Payload, 0 for any other.
uint64_t PayloadSequence(absl::string_view payload);

// A RaySyncMessage, in a batch of its own in the batch dialect.
std::string Encode(Dialect dialect, uint64_t version, absl::string_view payload, absl::string_view node_id);

// Calls `on_message` for each message of a bare message or batch; returns false when it is neither.
bool Decode(absl::string_view data, absl::FunctionRef<void(const SyncMessage&)> on_message);

}  // namespace mantaray::storm

#endif  // MANTARAY_BENCHMARKS_SYNC_STORM_SYNC_MESSAGES_H_
