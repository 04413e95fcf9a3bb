// What must hold in the world.

#include "mantaray/sim/syncer_world_impl.h"

namespace mantaray::sim {

void SyncerWorld::CheckEqualViews(const std::string& when) {
  for (size_t at = 0; at < nodes_.size(); ++at) {
    const Node& node = *nodes_[at];
    if (!node.alive) continue;
    for (size_t other = 0; other < nodes_.size(); ++other) {
      if (other == at || !nodes_[other]->alive) continue;
      const Version held = other < node.view.size() ? node.view[other].held : 0;
      if (held != nodes_[other]->version) {
        Violation(absl::StrCat(when, " node ", at, " has version ", held, " of node ", other, " instead of ",
                               nodes_[other]->version));
      }
    }
  }
  for (size_t other = 0; other < nodes_.size(); ++other) {
    if (!nodes_[other]->alive) continue;
    if (gcs_.model.VersionOf(static_cast<uint32_t>(other)) != nodes_[other]->version) {
      Violation(absl::StrCat(when, " the GCS does not have the newest of node ", other));
    }
    for (const auto& relay : relays_) {
      const syncer::NodeState* state = relay->core->view().Find(IdOf(other));
      if (state == nullptr || state->entries[0] == nullptr ||
          state->entries[0]->version != static_cast<int64_t>(nodes_[other]->version)) {
        Violation(absl::StrCat(when, " relay ", relay->number, " does not have the newest of node ", other));
      }
    }
  }
}

void SyncerWorld::CheckTheDead() {
  for (size_t at = 0; at < nodes_.size(); ++at) {
    const Node& node = *nodes_[at];
    if (node.alive || node.died_behind.kind != Kind::kRelay) continue;
    const Relay& relay = *relays_[node.died_behind.number];
    if (relay.life != node.died_in_life) continue;
    if (relay.core->view().Find(IdOf(at)) != nullptr) {
      Violation(absl::StrCat("relay ", relay.number, " still shows node ", at, ", which died behind it"));
    }
  }
}

void SyncerWorld::CheckCommands() {
  for (size_t at = 0; at < nodes_.size(); ++at) {
    const Node& node = *nodes_[at];
    if (node.slow || node.ever_reconnected) continue;
    for (size_t other = 0; other < nodes_.size(); other += CommanderStep()) {
      const size_t commander = other / CommanderStep();
      const Version seen = commander < node.gc_seen.size() ? node.gc_seen[commander] : 0;
      if (other != at && seen < nodes_[other]->gc_sent) {
        Violation(absl::StrCat("node ", at, " never saw a command of node ", other));
      }
    }
  }
}

void SyncerWorld::CheckMemory() {
  for (const auto& relay : relays_) {
    if (!relay->up) continue;
    size_t bytes = relay->core->MemoryBytes();
    if (options_.sabotage == Sabotage::kQueuesForSlowReaders) bytes += relay->core->metrics().messages_in * 100;
    outcome_.relay_memory_bytes = std::max(outcome_.relay_memory_bytes, bytes);
    // For each node ever seen lately: two states, their messages, their slots; for each stream its state.
    const size_t bound = nodes_.size() * 2'500 + (options_.nodes + options_.leaf_relays) * 500 + 100'000;
    if (bytes > bound) Violation(absl::StrCat("relay ", relay->number, " holds ", bytes, " bytes; bound ", bound));
  }
}

void SyncerWorld::CheckRefusals() {
  for (const auto& relay : relays_) {
    if (!relay->up) continue;
    if (relay->core->shield().refused_total() > 0) Violation("a relay refused something, and everybody is honest");
    if (relay->core->metrics().raised > 0) Violation("a relay raised versions, and nobody started over");
    outcome_.repaired_buckets += relay->core->metrics().repaired_buckets;
  }
}

// Up through the tree nothing waits but for the write before; down it is one window a relay. On each hop, a frame may
// wait for the one before it to be written and to arrive.
int64_t SyncerWorld::CalmBoundMs() const {
  const int64_t levels = (options_.mid_relays > 0 ? 2 : 1) + 1;
  const int64_t hop_ms = 2 * (options_.max_delay_ms + 1) + 1;
  const int64_t windows_ms = levels * (options_.relay.downward.window_ms + options_.relay.upward.window_ms);
  const int64_t noise_ms = options_.relay.noise.enabled ? options_.relay.noise.max_delay_ms : 0;
  // A bare stream carries one message a write: all nodes' messages may lie before this one.
  const int64_t queue_ms = options_.bare ? static_cast<int64_t>(4 * nodes_.size()) : 0;
  return windows_ms + 2 * levels * hop_ms + noise_ms + queue_ms;
}

void SyncerWorld::CountStaleness(int64_t ms) {
  if (static_cast<size_t>(ms) >= staleness_.size()) staleness_.resize(ms + 1);
  ++staleness_[ms];
  if (ms > CalmBoundMs()) Violation(absl::StrCat("an update took ", ms, " ms; bound ", CalmBoundMs()));
}

int64_t SyncerWorld::StalenessPercentile(double share) const {
  uint64_t total = 0;
  for (const uint64_t count : staleness_) total += count;
  auto left = static_cast<uint64_t>(static_cast<double>(total) * share);
  for (size_t ms = 0; ms < staleness_.size(); ++ms) {
    if (left < staleness_[ms]) return static_cast<int64_t>(ms);
    left -= staleness_[ms];
  }
  return std::max<int64_t>(static_cast<int64_t>(staleness_.size()) - 1, 0);
}

}  // namespace mantaray::sim
