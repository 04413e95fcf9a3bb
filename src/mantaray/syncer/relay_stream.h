// One stream of a RelayCore; part of its implementation.

#ifndef MANTARAY_SYNCER_RELAY_STREAM_H_
#define MANTARAY_SYNCER_RELAY_STREAM_H_

#include <array>
#include <cstdint>

#include "mantaray/syncer/relay_core.h"

namespace mantaray::syncer {

struct RelayCore::Stream {
  StreamId id = kNoStream;
  Peer* peer = nullptr;
  Hello hello;
  size_t direction = kDown;
  Dialect dialect = Dialect::kUnknown;
  // Take returned nothing: WriteReady is owed when there is something.
  bool waiting = true;
  // Up to where it has taken what there is, by type.
  std::array<uint64_t, kMessageTypes> taken{};
  // Commands up to here were before its time; those it was being sent when the last frame began.
  uint64_t commands_floor = 0;
  uint64_t commands_written = 0;
  int64_t connected_ms = 0;
  int64_t behind_since_ms = kNeverMs;
  // Of a node's own stream: the newest version it has sent, and by how much versions are raised, by type.
  std::array<int64_t, kMessageTypes> own_version{-1, -1};
  std::array<int64_t, kMessageTypes> raised_by{};
  std::array<int, kMessageTypes> words_behind{};
  // Between relays: when it last got a digest, the buckets it asked for, the buckets to ask it for.
  int64_t digest_sent_ms = 0;
  uint64_t buckets_to_send = 0;
  uint64_t buckets_to_request = 0;

  bool is_relay() const { return !hello.relay_id.empty(); }
  bool is_upstream() const { return direction == kUp; }
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_RELAY_STREAM_H_
