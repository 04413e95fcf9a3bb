// The world of resource-view sync: streams, and the run.

#include "mantaray/sim/syncer_world.h"

#include "mantaray/sim/syncer_world_impl.h"

namespace mantaray::sim {

SyncerWorld::SyncerWorld(const SyncerWorldOptions& options)
    : options_(options),
      queue_(&clock_),
      random_(options.seed),
      gcs_{.model = GcsModel(options.bare, [](std::string_view id) { return IndexOf(id); })} {
  clock_.AdvanceMs(1'000'000);
  if (options_.sabotage == Sabotage::kLostUpdatesStayLost) {
    options_.relay.digest_ms = 0;
    options_.lost_permille = std::max<uint32_t>(options_.lost_permille, 20);
  }
  if (options_.sabotage == Sabotage::kForgetsToResend) {
    // Repairs, and a last word of everybody, would make up for it.
    options_.gcs_restarts = 300;
    options_.relay.digest_ms = 0;
    options_.lost_permille = 0;
  }
  if (options_.sabotage == Sabotage::kForgetsTimer) {
    // In busy relays every message does the timer's work.
    options_.nodes = 12;
    options_.hz = 0.5;
    options_.calm_ms = 20'000;
  }
  if (options_.sabotage == Sabotage::kKeepsTheDead) options_.relay.grace_ms = 1'000'000'000;
}

SyncerWorld::~SyncerWorld() = default;

void SyncerWorld::Violation(const std::string& what) {
  if (outcome_.violations.size() >= kMostViolations) return;
  outcome_.violations.push_back(absl::StrCat("at ", clock_.NowMs() - 1'000'000, " ms: ", what));
}

uint32_t SyncerWorld::LifeOf(const Actor& actor) const {
  if (actor.kind == Kind::kNode) return nodes_[actor.number]->life;
  return actor.kind == Kind::kRelay ? relays_[actor.number]->life : gcs_.life;
}

bool SyncerWorld::IsUp(const Actor& actor) const {
  if (actor.kind == Kind::kNode) return nodes_[actor.number]->alive;
  return actor.kind == Kind::kRelay ? relays_[actor.number]->up : gcs_.up;
}

void SyncerWorld::Reconnect(Actor client, int64_t delay_ms) {
  const uint64_t life = LifeOf(client);
  After(delay_ms, [this, client, life] {
    if (IsUp(client) && LifeOf(client) == life) Connect(client);
  });
}

void SyncerWorld::Connect(Actor client) {
  uint32_t& current = client.kind == Kind::kNode ? nodes_[client.number]->link : relays_[client.number]->link;
  if (current != kNobody && links_[current]->client_open) return;
  auto link = std::make_unique<Link>();
  link->id = static_cast<uint32_t>(links_.size());
  link->client = client;
  link->server = client.kind == Kind::kNode ? nodes_[client.number]->parent : relays_[client.number]->parent;
  link->client_life = LifeOf(client);
  link->client_open = true;
  link->client_end.world = link->server_end.world = this;
  link->client_end.link = link->server_end.link = link->id;
  link->client_end.direction = kUpward;
  link->server_end.direction = kDownward;
  current = link->id;
  const uint32_t id = link->id;
  links_.push_back(std::move(link));
  ++outcome_.streams;
  After(Delay(), [this, id] { Open(id); });
}

void SyncerWorld::Open(uint32_t id) {
  Link* link = links_[id].get();
  if (!link->client_open) return;
  if (!IsUp(link->server)) {
    After(Delay(), [this, id] { EndClient(id); });
    return;
  }
  link->server_life = LifeOf(link->server);
  StreamMetadata answer;
  if (link->server.kind == Kind::kRelay) {
    RelayCore* core = CoreOf(link->server.number);
    StreamMetadata metadata = {{"node_id", IdOf(link->client.number).Hex()}};
    if (link->client.kind == Kind::kRelay) metadata = relays_[link->client.number]->core->UpstreamMetadata();
    const absl::StatusOr<StreamId> stream = core->AddDownstream(metadata, &link->server_end);
    if (!stream.ok()) {
      Violation(absl::StrCat("an honest stream is refused: ", stream.status().ToString()));
      After(Delay(), [this, id] { EndClient(id); });
      return;
    }
    link->server_stream = *stream;
    answer = core->DownstreamMetadata();
  } else {
    OpenAtGcs(id, link->client.kind == Kind::kRelay ? link->client.number | kRelayBit : link->client.number);
  }
  link->server_open = true;
  if (link->client.kind == Kind::kNode) {
    for (Known& known : nodes_[link->client.number]->view) known.on_stream = 0;
  }
  // The answer comes before all that is sent.
  link->last_arrival_ms[kDownward] = clock_.NowMs() + Delay();
  At(link->last_arrival_ms[kDownward], [this, id, answer] { Opened(id, answer); });
  ready_.emplace_back(id, kDownward);
  Settle();
}

void SyncerWorld::Opened(uint32_t id, const StreamMetadata& answer) {
  Link* link = links_[id].get();
  if (!link->client_open || LifeOf(link->client) != link->client_life) return;
  if (link->client.kind == Kind::kRelay) {
    const auto stream = CoreOf(link->client.number)->UpstreamConnected(answer, &link->client_end);
    if (!stream.ok()) {
      Violation(absl::StrCat("an honest upstream is refused: ", stream.status().ToString()));
      return;
    }
    link->client_stream = *stream;
    if (options_.sabotage == Sabotage::kForgetsToResend && clock_.NowMs() > storm_from_ms_) {
      while (CoreOf(link->client.number)->Take(link->client_stream)) {
      }
    }
  } else {
    nodes_[link->client.number]->snapshot_due = true;
  }
  ready_.emplace_back(id, kUpward);
  Settle();
}

// The relay at that end has ended the stream.
void SyncerWorld::OnClosed(uint32_t id, Direction direction, const absl::Status& status) {
  Link* link = links_[id].get();
  const bool replaced = status.code() == absl::StatusCode::kAborted;
  if (!replaced) Violation(absl::StrCat("an honest stream is ended: ", status.ToString()));
  if (direction == kDownward) {
    link->server_open = false;
    After(Delay(), [this, id] { EndClient(id); });
  } else {
    link->client_open = false;
    After(Delay(), [this, id] { EndServer(id); });
  }
}

void SyncerWorld::EndClient(uint32_t id) {
  Link* link = links_[id].get();
  if (!link->client_open) return;
  link->client_open = false;
  if (LifeOf(link->client) != link->client_life || !IsUp(link->client)) return;
  if (link->client.kind == Kind::kRelay) {
    if (link->client_stream != syncer::kNoStream) CoreOf(link->client.number)->UpstreamLost(link->client_stream);
  } else {
    nodes_[link->client.number]->ever_reconnected = true;
  }
  Reconnect(link->client, random_.Between(20, 300));
  Settle();
}

void SyncerWorld::EndServer(uint32_t id) {
  Link* link = links_[id].get();
  if (!link->server_open) return;
  link->server_open = false;
  if (LifeOf(link->server) != link->server_life || !IsUp(link->server)) return;
  if (link->server.kind == Kind::kRelay) {
    CoreOf(link->server.number)->RemoveDownstream(link->server_stream);
  } else {
    GcsEndsStream(id);
  }
  Settle();
}

// Does what calls into the cores have made possible: writes, withdrawals, timers.
void SyncerWorld::Settle() {
  while (!ready_.empty()) {
    const auto [link, direction] = ready_.back();
    ready_.pop_back();
    Pump(link, direction);
  }
  for (const auto& relay : relays_) {
    if (!relay->up || !std::exchange(relay->touched, false)) continue;
    for (const NodeId& id : std::exchange(relay->left, {})) WithdrawAbove(*relay, id);
    ArmTimer(relay.get());
  }
}

void SyncerWorld::Pump(uint32_t id, Direction direction) {
  Link* link = links_[id].get();
  const bool open = direction == kUpward ? link->client_open && link->server_open : link->server_open;
  if (!open || link->writing[direction]) return;
  const Actor& from = direction == kUpward ? link->client : link->server;
  const Actor& to = direction == kUpward ? link->server : link->client;
  const uint64_t life = direction == kUpward ? link->client_life : link->server_life;
  if (!IsUp(from) || LifeOf(from) != life) return;
  std::optional<Parcel> parcel = TakeFrom(link, direction);
  if (!parcel) return;
  link->writing[direction] = true;
  const bool slow = to.kind == Kind::kNode && nodes_[to.number]->slow;
  const int64_t write_ms = slow ? random_.Between(100, 1'000) : random_.Between(0, 1);
  int64_t& last_ms = link->last_arrival_ms[direction];
  const bool broken = last_ms == syncer::kNeverMs;
  const int64_t arrival_ms = broken ? clock_.NowMs() : std::max(last_ms, clock_.NowMs() + write_ms + Delay());
  if (!broken) last_ms = arrival_ms;
  After(write_ms, [this, id, direction] {
    links_[id]->writing[direction] = false;
    Pump(id, direction);
    Settle();
  });
  // What nobody gets that a node or the GCS sends, or is sent, nobody can know of.
  const bool can_be_lost = from.kind == Kind::kRelay && to.kind == Kind::kRelay && (Storm() || lossy_);
  if (broken || (can_be_lost && random_.Chance(options_.lost_permille))) return;
  At(arrival_ms, [this, id, direction, parcel = *std::move(parcel)] { Arrive(id, direction, parcel); });
}

void SyncerWorld::Arrive(uint32_t id, Direction direction, const Parcel& parcel) {
  Link* link = links_[id].get();
  const Actor& to = direction == kUpward ? link->server : link->client;
  const bool open = direction == kUpward ? link->server_open : link->client_open;
  const uint64_t life = direction == kUpward ? link->server_life : link->client_life;
  // The stream broke while it was on its way.
  if (link->last_arrival_ms[direction] == syncer::kNeverMs) return;
  if (!open || !IsUp(to) || LifeOf(to) != life) return;
  Trace(Mix(id, direction, parcel.frame.size_bytes, parcel.bytes.size()));
  if (to.kind == Kind::kNode) {
    ArriveAtNode(link, parcel);
  } else if (to.kind == Kind::kGcs) {
    ArriveAtGcs(link, parcel.bytes);
  } else if (direction == kUpward) {
    CoreOf(to.number)->OnDownstreamBytes(link->server_stream, parcel.bytes);
  } else {
    CoreOf(to.number)->OnUpstreamBytes(link->client_stream, parcel.bytes);
  }
  Settle();
}

void SyncerWorld::RunUntil(int64_t until_ms) {
  bool done = false;
  At(until_ms, [&done] { done = true; });
  while (!done) {
    const std::optional<Event> event = queue_.PopNext();
    (*event)();
    ++outcome_.events;
  }
}

SyncerWorldOutcome SyncerWorld::Run() {
  const int64_t start_ms = clock_.NowMs();
  calm_from_ms_ = start_ms + kBootMs;
  storm_from_ms_ = calm_from_ms_ + options_.calm_ms;
  storm_to_ms_ = storm_from_ms_ + options_.storm_ms;
  for (size_t number = 0; number < options_.mid_relays + options_.leaf_relays; ++number) {
    auto relay = std::make_unique<Relay>();
    relay->world = this;
    relay->number = static_cast<uint32_t>(number);
    relay->parent = {Kind::kGcs, 0};
    if (number >= options_.mid_relays && options_.mid_relays > 0) {
      relay->parent = {Kind::kRelay, static_cast<uint32_t>(number % options_.mid_relays)};
    }
    relays_.push_back(std::move(relay));
  }
  for (const auto& relay : relays_) StartRelay(relay.get());
  for (size_t number = 0; number < options_.nodes; ++number) {
    const bool direct = number < options_.direct_nodes || options_.leaf_relays == 0;
    const auto relay = static_cast<uint32_t>(options_.mid_relays + number % std::max<size_t>(options_.leaf_relays, 1));
    AddNode(direct ? Actor{Kind::kGcs, 0} : Actor{Kind::kRelay, relay});
  }
  ScheduleFaults();
  for (int64_t at_ms = start_ms + 500; at_ms < storm_to_ms_; at_ms += 500) At(at_ms, [this] { CheckMemory(); });
  RunUntil(storm_from_ms_);
  CheckCommands();
  outcome_.calm_bound_ms = CalmBoundMs();
  RunUntil(storm_to_ms_);
  publishing_ = false;
  for (const auto& node : nodes_) node->slow = false;
  // Half-open streams end, the grace time passes, and everything is repaired once: each level of the tree by itself.
  const int64_t levels = options_.mid_relays > 0 ? 3 : 2;
  const int64_t noise_ms = options_.relay.noise.enabled ? options_.relay.noise.max_delay_ms : 0;
  const int64_t repair_ms = levels * 2 * options_.relay.digest_ms;
  const int64_t grace_ms = std::min<int64_t>(options_.relay.grace_ms, 10'000);
  RunUntil(storm_to_ms_ + 4'000 + grace_ms);
  // A last word of everybody, some of which gets lost: a node that is away for long and comes back elsewhere is seen
  // again when it says something new.
  lossy_ = true;
  publishing_ = options_.sabotage != Sabotage::kForgetsToResend;
  for (uint32_t number = 0; number < nodes_.size(); ++number) Publish(number, nodes_[number]->life);
  publishing_ = false;
  RunUntil(clock_.NowMs() + 1'000);
  lossy_ = false;
  RunUntil(clock_.NowMs() + repair_ms + noise_ms);
  CheckEqualViews("after the quiet");
  CheckTheDead();
  CheckMemory();
  late_ = true;
  const size_t joiners = std::max<size_t>(options_.leaf_relays, 1);
  for (size_t at = 0; at < joiners; ++at) {
    const bool direct = options_.leaf_relays == 0;
    AddNode(direct ? Actor{Kind::kGcs, 0} : Actor{Kind::kRelay, static_cast<uint32_t>(options_.mid_relays + at)});
  }
  RunUntil(clock_.NowMs() + kLateMs + noise_ms);
  CheckEqualViews("after the last joined");
  CheckRefusals();
  outcome_.calm_staleness_p50_ms = StalenessPercentile(0.5);
  outcome_.calm_staleness_p99_ms = StalenessPercentile(0.99);
  outcome_.calm_staleness_max_ms = StalenessPercentile(1);
  outcome_.gcs_messages_in = gcs_.model.messages_in();
  outcome_.gcs_messages_out = gcs_.model.messages_out();
  outcome_.virtual_ms = clock_.NowMs() - start_ms;
  return outcome_;
}

SyncerWorldOutcome RunSyncerWorld(const SyncerWorldOptions& options) { return SyncerWorld(options).Run(); }

}  // namespace mantaray::sim
