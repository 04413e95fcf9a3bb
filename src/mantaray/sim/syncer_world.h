// A cluster's resource-view sync under virtual time: a model of the GCS, a tree of real relay cores, and modelled
// raylets.
//
// One seed decides everything: who publishes when, how long each frame takes, what breaks. The same options give the
// same run, event by event; `Outcome::trace` is a digest of it.
//
// A run: everybody connects; a calm time in which nodes publish and nothing breaks; a storm in which it does; quiet,
// until all repairs have had their time; then new nodes join everywhere. The storm has: streams that break with frames
// on their way, ends that learn of it late (half-open), frames lost between relays on streams that live on, slow
// readers, nodes that die, that reconnect, that move to another relay; relays that crash and restart empty; a GCS that
// restarts empty.
//
// What must hold:
// - On one stream the versions of a node never go back, and no node gets its own messages.
// - In the calm time every update and every command, with all its flags, is everywhere within a bound that follows from
//   windows and delays.
// - After the quiet all views are equal to the truth: the GCS, every relay and every living node have the newest
//   version of every living node.
// - Nodes that died leave the view of their relay, and a node that joins there is not shown them.
// - The memory of a relay stays below a bound that follows from the number of nodes. At most one frame is on its way
//   to a stream.
// - Nothing that a GCS dies of reaches it. No honest stream is refused, and no honest node's versions are raised.
//
// The model of a raylet sends its newest view and what it knows of others when it connects, as a real raylet does, and
// then its changes. It drops what is not newer. gcs_model.h says what the model of the GCS does.

#ifndef MANTARAY_SIM_SYNCER_WORLD_H_
#define MANTARAY_SIM_SYNCER_WORLD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mantaray/syncer/relay_core.h"

namespace mantaray::sim {

// Bugs that a run must find: the transport around a relay, or the relay as its peers see it, misbehaves.
enum class Sabotage : uint8_t {
  kNone,
  kLostUpdatesStayLost,   // no digests, while frames get lost
  kSendsOldVersions,      // now and then a frame of the past is written again
  kEchoesToSender,        // a node gets its own message
  kDropsCommandFlags,     // newest wins, also over commands
  kForgetsTimer,          // windows end late
  kKeepsTheDead,          // the grace time never ends
  kForgetsToResend,       // after a reconnect upstream only changes are sent
  kQueuesForSlowReaders,  // what a slow reader does not take is kept for it
};

struct SyncerWorldOptions {
  uint64_t seed = 1;
  size_t nodes = 60;
  size_t direct_nodes = 2;  // of them, with a stream of their own to the GCS
  size_t leaf_relays = 4;
  size_t mid_relays = 2;  // between leaf relays and the GCS; 0: none
  bool bare = false;      // the dialect of the nodes and the GCS
  double hz = 2;          // updates a second of each node
  int64_t calm_ms = 3'000;
  int64_t storm_ms = 10'000;
  // How often something of each kind happens in the storm, for each node or relay, a thousand seconds.
  uint32_t breaks = 30;
  uint32_t deaths = 5;
  uint32_t moves = 10;
  uint32_t relay_crashes = 20;
  uint32_t gcs_restarts = 50;
  // Frames in a thousand that get lost in the storm.
  uint32_t lost_permille = 5;
  // Nodes in a thousand that read slowly.
  uint32_t slow_permille = 20;
  int64_t min_delay_ms = 1;
  int64_t max_delay_ms = 5;
  syncer::RelayOptions relay;
  Sabotage sabotage = Sabotage::kNone;

  SyncerWorldOptions() {
    relay.grace_ms = 2'000;
    relay.digest_ms = 1'000;
    relay.replay_ms = 1'000;
    relay.dialect_wait_ms = 100;
  }
};

struct SyncerWorldOutcome {
  std::vector<std::string> violations;  // empty: everything held; at most some of them are kept
  uint64_t trace = 0;
  uint64_t events = 0;
  uint64_t delivered_messages = 0;
  uint64_t gcs_messages_in = 0;
  uint64_t gcs_messages_out = 0;
  uint64_t streams = 0;
  uint64_t deaths = 0;
  uint64_t relay_crashes = 0;
  uint64_t gcs_restarts = 0;
  uint64_t repaired_buckets = 0;
  int64_t calm_staleness_p50_ms = 0;
  int64_t calm_staleness_p99_ms = 0;
  int64_t calm_staleness_max_ms = 0;
  int64_t calm_bound_ms = 0;
  size_t relay_memory_bytes = 0;  // the largest seen
  int64_t virtual_ms = 0;
};

SyncerWorldOutcome RunSyncerWorld(const SyncerWorldOptions& options);

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_SYNCER_WORLD_H_
