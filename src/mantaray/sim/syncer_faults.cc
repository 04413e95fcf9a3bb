// What breaks in the world.

#include "mantaray/sim/syncer_world_impl.h"

namespace mantaray::sim {

// What is on its way is lost; each end learns of it in its own time.
void SyncerWorld::BreakLink(uint32_t id) {
  Link* link = links_[id].get();
  link->last_arrival_ms = {syncer::kNeverMs, syncer::kNeverMs};
  After(random_.Between(1, 200), [this, id] { EndClient(id); });
  After(random_.Between(1, random_.Chance(200) ? 3'000 : 200), [this, id] { EndServer(id); });
}

void SyncerWorld::KillNode(uint32_t number) {
  Node* node = nodes_[number].get();
  if (!node->alive) return;
  node->alive = false;
  node->died_ms = clock_.NowMs();
  if (node->link != kNobody && links_[node->link]->server_open) {
    node->died_behind = links_[node->link]->server;
    node->died_in_life = LifeOf(node->died_behind);
  }
  ++dead_count_;
  ++outcome_.deaths;
  if (node->link == kNobody) return;
  links_[node->link]->client_open = false;
  const uint32_t link = node->link;
  After(random_.Between(1, 500), [this, link] { EndServer(link); });
}

void SyncerWorld::MoveNode(uint32_t number) {
  Node* node = nodes_[number].get();
  if (!node->alive || node->parent.kind != Kind::kRelay || options_.leaf_relays < 2) return;
  if (node->link == kNobody || !links_[node->link]->client_open) return;
  node->parent.number = static_cast<uint32_t>(options_.mid_relays + random_.Below(options_.leaf_relays));
  BreakLink(node->link);
}

void SyncerWorld::CrashRelay(Relay* relay) {
  if (!relay->up) return;
  ++outcome_.relay_crashes;
  relay->up = false;
  ++relay->life;
  for (const auto& link : links_) {
    const uint32_t id = link->id;
    const Actor self{Kind::kRelay, relay->number};
    if (link->server == self && link->server_open) {
      link->server_open = false;
      After(random_.Between(1, 100), [this, id] { EndClient(id); });
    }
    if (link->client == self && link->client_open) {
      link->client_open = false;
      After(random_.Between(1, 100), [this, id] { EndServer(id); });
    }
  }
  After(random_.Between(50, 1'000), [this, relay] {
    StartRelay(relay);
    Settle();
  });
}

void SyncerWorld::RestartGcs() {
  if (!gcs_.up) return;
  ++outcome_.gcs_restarts;
  gcs_.up = false;
  ++gcs_.life;
  for (const uint32_t stream : gcs_.model.Restart()) {
    if ((stream & kWithdrawalBit) != 0) continue;
    links_[stream]->server_open = false;
    After(random_.Between(1, 100), [this, stream] { EndClient(stream); });
  }
  After(random_.Between(100, 1'500), [this] { gcs_.up = true; });
}

void SyncerWorld::ScheduleFault(uint32_t rate, size_t count, const std::function<void()>& fault) {
  const double expected =
      static_cast<double>(rate) * static_cast<double>(count) * static_cast<double>(options_.storm_ms) / 1'000 / 1'000;
  auto times = static_cast<int64_t>(expected);
  if (random_.Chance(static_cast<uint32_t>((expected - static_cast<double>(times)) * 1'000))) ++times;
  for (int64_t at = 0; at < times; ++at) At(random_.Between(storm_from_ms_, storm_to_ms_ - 1), fault);
}

void SyncerWorld::ScheduleFaults() {
  const auto any_node = [this] { return static_cast<uint32_t>(random_.Below(nodes_.size())); };
  ScheduleFault(options_.breaks, options_.nodes, [this, any_node] {
    const Node& node = *nodes_[any_node()];
    if (node.alive && node.link != kNobody && links_[node.link]->client_open) BreakLink(node.link);
  });
  ScheduleFault(options_.deaths, options_.nodes, [this, any_node] { KillNode(any_node()); });
  ScheduleFault(options_.moves, options_.nodes, [this, any_node] { MoveNode(any_node()); });
  if (!relays_.empty()) {
    ScheduleFault(options_.relay_crashes, relays_.size(), [this] {
      CrashRelay(relays_[random_.Below(relays_.size())].get());
      Settle();
    });
    ScheduleFault(options_.breaks, relays_.size(), [this] {
      const Relay& relay = *relays_[random_.Below(relays_.size())];
      if (relay.up && relay.link != kNobody && links_[relay.link]->client_open) BreakLink(relay.link);
    });
  }
  ScheduleFault(options_.gcs_restarts, 1, [this] {
    RestartGcs();
    Settle();
  });
}

}  // namespace mantaray::sim
