// The world of resource-view sync.

#include "mantaray/sim/syncer_world.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mantaray/common/clock.h"
#include "mantaray/sim/random.h"
#include "mantaray/sim/virtual_clock.h"
#include "mantaray/syncer/backoff.h"
#include "mantaray/syncer/payload.h"

namespace mantaray::sim {
namespace {

using syncer::AppendBatchEntry;
using syncer::Dialect;
using syncer::Frame;
using syncer::MessageType;
using syncer::NodeId;
using syncer::RelayCore;
using syncer::StreamId;
using syncer::StreamMetadata;

using Version = uint32_t;
constexpr uint32_t kNobody = UINT32_MAX;
constexpr uint32_t kRelayBit = 0x80000000;
constexpr size_t kMostViolations = 20;
// A time for everybody to connect, and one for those who join last to learn what there is.
constexpr int64_t kBootMs = 3'000;
constexpr int64_t kLateMs = 1'500;
// Beyond this many nodes only some of them give commands: every node remembers what it saw of each.
constexpr size_t kSmallWorld = 1'000;
constexpr size_t kCommandersOfLargeWorld = 50;

NodeId IdOf(uint32_t index) {
  NodeId id;
  for (size_t at = 0; at < syncer::kNodeIdBytes; ++at) id.bytes[at] = static_cast<char>(Mix(index, at));
  std::memcpy(id.bytes.data(), &index, sizeof(index));
  return id;
}

uint32_t IndexOf(const NodeId& id) {
  uint32_t index = 0;
  std::memcpy(&index, id.bytes.data(), sizeof(index));
  return index;
}

std::string ResourcePayload(double cpu, double store_bytes) {
  const auto entry = [](std::string_view name, double amount) {
    std::string bytes("\x0a");
    syncer::AppendVarint(name.size(), &bytes);
    bytes.append(name);
    bytes.push_back('\x11');
    bytes.append(reinterpret_cast<const char*>(&amount), sizeof(amount));
    std::string field("\x0a");
    syncer::AppendVarint(bytes.size(), &field);
    return field + bytes;
  };
  return entry("CPU", cpu) + entry("object_store_memory", store_bytes);
}

// One sync message as the models see it.
struct Item {
  uint32_t node = 0;
  Version version = 0;
  MessageType type = MessageType::kResourceView;
  uint8_t flags = 0;
  uint32_t at = 0;  // where it begins in its buffer
};

std::vector<Item> DecodeFrame(std::string_view bytes) {
  std::vector<Item> items;
  const auto split = syncer::Split(bytes, {});
  if (!split.ok()) return items;
  items.reserve(split->messages.size());
  for (const std::string_view part : split->messages) {
    const auto message = syncer::ParseMessage(part, {});
    if (!message.ok()) continue;
    Item item{IndexOf(message->node_id), static_cast<Version>(message->version), message->type, 0,
              static_cast<uint32_t>(part.data() - bytes.data())};
    if (item.type == MessageType::kCommands) item.flags = syncer::ReadCommandFlags(message->payload);
    items.push_back(item);
  }
  return items;
}

// A frame on its way: as the models read it and, for relays, its bytes.
struct Parcel {
  Frame frame;
  std::string bytes;
};

class World {
 public:
  explicit World(const SyncerWorldOptions& options);
  ~World();
  SyncerWorldOutcome Run();

 private:
  // --- Who there is

  enum class Kind : uint8_t { kNode, kRelay, kGcs };
  struct Actor {
    Kind kind = Kind::kNode;
    uint32_t number = 0;  // index into nodes_ or relays_
    friend bool operator==(const Actor&, const Actor&) = default;
  };

  enum Direction : uint8_t { kUpward = 0, kDownward = 1 };

  struct Link;
  // A relay's end of a link.
  struct End : syncer::Peer {
    World* world = nullptr;
    uint32_t link = 0;
    Direction direction = kUpward;
    void WriteReady() override { world->ready_.emplace_back(link, direction); }
    void Close(const absl::Status& status) override { world->OnClosed(link, direction, status); }
  };

  // One stream, from its opening to its end.
  struct Link {
    uint32_t id = 0;
    Actor client;
    Actor server;
    uint64_t client_life = 0;  // which life of the client opened it
    uint64_t server_life = 0;
    bool client_open = false;
    bool server_open = false;
    std::array<bool, 2> writing{};
    std::array<int64_t, 2> last_arrival_ms{};
    std::array<bool, 2> skip_first{};
    StreamId client_stream = syncer::kNoStream;
    StreamId server_stream = syncer::kNoStream;
    End client_end;
    End server_end;
  };

  // What a node has of another one. Side by side: in a large world each is another piece of memory to wait for.
  struct Known {
    Version held = 0;
    Version on_stream = 0;  // the newest that came down the stream it has now
  };

  struct Node {
    bool alive = true;
    bool slow = false;
    uint64_t life = 1;
    Actor parent;
    uint32_t link = kNobody;
    bool ever_reconnected = false;
    Version version = 0;
    Version commands_version = 0;
    std::string payload;
    // What it has yet to say.
    bool view_dirty = false;
    bool snapshot_due = false;
    std::deque<std::pair<Version, uint8_t>> commands_due;
    std::vector<int64_t> published_ms;  // by version
    std::vector<Known> view;            // by node
    std::vector<Version> gc_seen;       // newest command with the flag, by commander
    Version gc_sent = 0;
    int64_t died_ms = 0;
    Actor died_behind{Kind::kGcs, 0};  // a relay that had its stream to the end, and the relay's life
    uint64_t died_in_life = 0;
  };

  struct Relay : syncer::RelayObserver {
    World* world = nullptr;
    uint32_t number = 0;
    Actor parent;
    uint64_t life = 1;
    bool up = true;
    std::unique_ptr<RelayCore> core;
    uint32_t link = kNobody;
    int64_t timer_ms = syncer::kNeverMs;
    bool touched = true;  // its deadline may have moved
    std::vector<NodeId> left;
    std::optional<Parcel> old_frame;
    void NodeLeft(const NodeId& id) override { left.push_back(id); }
  };

  struct GcsStream {
    uint32_t link = kNobody;
    uint32_t who = 0;  // node index, or a relay's number with kRelayBit
    std::set<uint32_t> views_due;
    std::deque<Item> commands_due;
  };
  struct GcsEntry {
    Version version = 0;
    uint32_t source_link = kNobody;
    std::string message;
  };
  struct Gcs {
    bool up = true;
    uint64_t life = 1;
    std::map<uint32_t, GcsEntry> views;
    std::map<uint32_t, GcsEntry> commands;
    std::map<uint32_t, GcsStream> streams;  // by link
  };

  // --- What happens

  using Event = std::function<void()>;
  void At(int64_t at_ms, Event event) { queue_.ScheduleAt(at_ms, std::move(event)); }
  void After(int64_t delay_ms, Event event) { queue_.ScheduleAfter(delay_ms, std::move(event)); }
  void RunUntil(int64_t until_ms);
  int64_t Delay() { return random_.Between(options_.min_delay_ms, options_.max_delay_ms); }
  bool Storm() const { return clock_.NowMs() >= storm_from_ms_ && clock_.NowMs() < storm_to_ms_; }
  bool Calm() const { return clock_.NowMs() >= calm_from_ms_ && clock_.NowMs() < storm_from_ms_; }
  void Violation(const std::string& what);
  void Trace(uint64_t what) { outcome_.trace = Mix(outcome_.trace, what, static_cast<uint64_t>(clock_.NowMs())); }

  uint32_t LifeOf(const Actor& actor) const;
  bool IsUp(const Actor& actor) const;

  // Streams.
  void Connect(Actor client);
  void Reconnect(Actor client, int64_t delay_ms);
  void Open(uint32_t link);
  void Opened(uint32_t link, const StreamMetadata& answer);
  void OnClosed(uint32_t link, Direction direction, const absl::Status& status);
  void BreakLink(uint32_t link);
  void EndClient(uint32_t link);
  void EndServer(uint32_t link);
  void Pump(uint32_t link, Direction direction);
  std::optional<Parcel> TakeFrom(Link* link, Direction direction);
  void Arrive(uint32_t link, Direction direction, const Parcel& parcel);
  void Settle();
  void ArmTimer(Relay* relay);

  // Nodes.
  uint32_t AddNode(Actor parent);
  void Publish(uint32_t number, uint64_t life);
  void Command(uint32_t number);
  // Every how many nodes one gives commands.
  size_t CommanderStep() const { return options_.nodes <= kSmallWorld ? 1 : options_.nodes / kCommandersOfLargeWorld; }
  bool IsCommander(uint32_t number) const { return number % CommanderStep() == 0; }
  std::optional<Parcel> TakeFromNode(Node* node, uint32_t number);
  void ArriveAtNode(Link* link, const Parcel& parcel);
  void HandleItem(Link* link, Node* node, const Item& item);
  void KillNode(uint32_t number);
  void MoveNode(uint32_t number);
  const std::vector<Item>& Decode(const std::shared_ptr<const std::string>& owner);

  // Relays.
  void StartRelay(Relay* relay);
  void CrashRelay(Relay* relay);
  RelayCore* CoreOf(uint32_t relay) {
    relays_[relay]->touched = true;
    return relays_[relay]->core.get();
  }
  void WithdrawAbove(const Relay& relay, const NodeId& id);

  // The GCS.
  void ArriveAtGcs(Link* link, const std::string& bytes);
  std::optional<Parcel> TakeFromGcs(Link* link);
  void GcsEndsStream(uint32_t link);
  void RestartGcs();

  // Faults and checks.
  void ScheduleFaults();
  void ScheduleFault(uint32_t rate, size_t count, const std::function<void()>& fault);
  void CheckEqualViews(const std::string& when);
  void CheckTheDead();
  void CheckCommands();
  void CheckMemory();
  void CheckRefusals();
  int64_t CalmBoundMs() const;
  void CountStaleness(int64_t ms);
  int64_t StalenessPercentile(double share) const;

  SyncerWorldOptions options_;
  VirtualClock clock_;
  EventQueue<Event> queue_;
  Random random_;
  SyncerWorldOutcome outcome_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<Relay>> relays_;
  Gcs gcs_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<std::pair<uint32_t, Direction>> ready_;
  int64_t calm_from_ms_ = 0;
  int64_t storm_from_ms_ = 0;
  int64_t storm_to_ms_ = 0;
  bool publishing_ = true;
  bool lossy_ = false;
  bool late_ = false;
  size_t dead_count_ = 0;
  std::vector<uint64_t> staleness_;  // how many by milliseconds
  std::deque<std::pair<std::shared_ptr<const std::string>, std::vector<Item>>> decoded_;
};

World::World(const SyncerWorldOptions& options) : options_(options), queue_(&clock_), random_(options.seed) {
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

World::~World() = default;

void World::Violation(const std::string& what) {
  if (outcome_.violations.size() >= kMostViolations) return;
  outcome_.violations.push_back(absl::StrCat("at ", clock_.NowMs() - 1'000'000, " ms: ", what));
}

uint32_t World::LifeOf(const Actor& actor) const {
  if (actor.kind == Kind::kNode) return nodes_[actor.number]->life;
  return actor.kind == Kind::kRelay ? relays_[actor.number]->life : gcs_.life;
}

bool World::IsUp(const Actor& actor) const {
  if (actor.kind == Kind::kNode) return nodes_[actor.number]->alive;
  return actor.kind == Kind::kRelay ? relays_[actor.number]->up : gcs_.up;
}

// --- Streams

void World::Reconnect(Actor client, int64_t delay_ms) {
  const uint64_t life = LifeOf(client);
  After(delay_ms, [this, client, life] {
    if (IsUp(client) && LifeOf(client) == life) Connect(client);
  });
}

void World::Connect(Actor client) {
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

void World::Open(uint32_t id) {
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
    GcsStream stream;
    stream.link = id;
    stream.who = link->client.kind == Kind::kRelay ? link->client.number | kRelayBit : link->client.number;
    for (const auto& [other, old] : gcs_.streams) {
      if (old.who != stream.who) continue;
      GcsEndsStream(other);
      break;
    }
    for (const auto& [node, entry] : gcs_.views) {
      if (node != stream.who) stream.views_due.insert(node);
    }
    gcs_.streams.emplace(id, std::move(stream));
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

void World::Opened(uint32_t id, const StreamMetadata& answer) {
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
void World::OnClosed(uint32_t id, Direction direction, const absl::Status& status) {
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

void World::EndClient(uint32_t id) {
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

void World::EndServer(uint32_t id) {
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

// What is on its way is lost; each end learns of it in its own time.
void World::BreakLink(uint32_t id) {
  Link* link = links_[id].get();
  link->last_arrival_ms = {syncer::kNeverMs, syncer::kNeverMs};
  After(random_.Between(1, 200), [this, id] { EndClient(id); });
  After(random_.Between(1, random_.Chance(200) ? 3'000 : 200), [this, id] { EndServer(id); });
}

// Does what calls into the cores have made possible: writes, withdrawals, timers.
void World::Settle() {
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

void World::ArmTimer(Relay* relay) {
  int64_t next_ms = relay->core->NextDeadlineMs();
  if (next_ms == syncer::kNeverMs) return;
  next_ms = std::max(next_ms, clock_.NowMs());
  // Ten windows late.
  if (options_.sabotage == Sabotage::kForgetsTimer)
    next_ms += 10 * std::max<int64_t>(options_.relay.downward.window_ms, 10);
  if (relay->timer_ms <= next_ms && relay->timer_ms >= clock_.NowMs()) return;
  relay->timer_ms = next_ms;
  const uint64_t life = relay->life;
  At(next_ms, [this, relay, life, next_ms] {
    if (relay->life != life || !relay->up || relay->timer_ms != next_ms) return;
    relay->timer_ms = syncer::kNeverMs;
    relay->touched = true;
    relay->core->Tick();
    Settle();
    // What is due at the same moment has to make progress.
    if (relay->core->NextDeadlineMs() <= clock_.NowMs()) Violation("a relay's deadline does not move on");
  });
}

std::optional<Parcel> World::TakeFrom(Link* link, Direction direction) {
  const Actor& from = direction == kUpward ? link->client : link->server;
  if (from.kind == Kind::kNode) return TakeFromNode(nodes_[from.number].get(), from.number);
  if (from.kind == Kind::kGcs) return TakeFromGcs(link);
  Relay* relay = relays_[from.number].get();
  relay->touched = true;
  std::optional<Frame> frame = relay->core->Take(direction == kUpward ? link->client_stream : link->server_stream);
  if (!frame) return std::nullopt;
  Parcel parcel;
  const Actor& to = direction == kUpward ? link->server : link->client;
  if (to.kind != Kind::kNode) parcel.bytes = frame->Flatten();
  parcel.frame = *std::move(frame);
  if (options_.sabotage == Sabotage::kEchoesToSender && to.kind == Kind::kNode && random_.Chance(2)) {
    const Node& node = *nodes_[to.number];
    auto own = std::make_shared<std::string>();
    AppendBatchEntry(syncer::EncodeMessage(node.version, MessageType::kResourceView, IdOf(to.number), node.payload),
                     own.get());
    parcel.frame.Add(own, *own);
  }
  if (options_.sabotage == Sabotage::kSendsOldVersions && to.kind == Kind::kNode && Calm()) {
    if (relay->old_frame && random_.Chance(50)) return relay->old_frame;
    if (!relay->old_frame || random_.Chance(2)) relay->old_frame = parcel;
  }
  return parcel;
}

void World::Pump(uint32_t id, Direction direction) {
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

void World::Arrive(uint32_t id, Direction direction, const Parcel& parcel) {
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

// --- Nodes

uint32_t World::AddNode(Actor parent) {
  const auto number = static_cast<uint32_t>(nodes_.size());
  auto node = std::make_unique<Node>();
  node->parent = parent;
  node->slow = !late_ && random_.Chance(options_.slow_permille);
  node->published_ms.push_back(0);
  nodes_.push_back(std::move(node));
  const auto period_ms = static_cast<int64_t>(1'000 / options_.hz);
  After(random_.Between(0, 200), [this, number] { Connect({Kind::kNode, number}); });
  After(random_.Between(0, late_ ? 10 : period_ms), [this, number] { Publish(number, 1); });
  return number;
}

void World::Publish(uint32_t number, uint64_t life) {
  Node* node = nodes_[number].get();
  if (!node->alive || node->life != life || (!publishing_ && node->version > 0)) return;
  ++node->version;
  node->published_ms.push_back(clock_.NowMs());
  node->payload = ResourcePayload(static_cast<double>(random_.Below(16)), static_cast<double>(random_.Below(1 << 30)));
  node->view_dirty = true;
  if (publishing_ && IsCommander(number) && random_.Chance(CommanderStep() == 1 ? 30 : 300)) Command(number);
  if (node->link != kNobody) Pump(node->link, kUpward);
  const auto period_ms = static_cast<int64_t>(1'000 / options_.hz);
  After(random_.Between(period_ms / 2, period_ms * 3 / 2), [this, number, life] { Publish(number, life); });
  Settle();
}

// A command with its flag set, and at once one without.
void World::Command(uint32_t number) {
  Node* node = nodes_[number].get();
  node->commands_due.emplace_back(++node->commands_version, syncer::kGlobalGc);
  if (Calm() && clock_.NowMs() + 500 < storm_from_ms_) node->gc_sent = node->commands_version;
  const uint64_t life = node->life;
  After(random_.Between(1, 20), [this, number, life] {
    Node* node = nodes_[number].get();
    if (!node->alive || node->life != life) return;
    node->commands_due.emplace_back(++node->commands_version, 0);
    if (node->link != kNobody) Pump(node->link, kUpward);
    Settle();
  });
}

std::optional<Parcel> World::TakeFromNode(Node* node, uint32_t number) {
  std::vector<std::string> messages;
  const auto own_view = [&] {
    return syncer::EncodeMessage(node->version, MessageType::kResourceView, IdOf(number), node->payload);
  };
  const bool room = !options_.bare;
  if (node->snapshot_due && node->version > 0) {
    messages.push_back(own_view());
    node->snapshot_due = node->view_dirty = false;
    // What it knows of others comes along.
    for (size_t other = 0; room && other < node->view.size(); ++other) {
      const Version held = node->view[other].held;
      if (other == number || held == 0) continue;
      messages.push_back(syncer::EncodeMessage(held, MessageType::kResourceView, IdOf(other), ""));
    }
  }
  while (!node->commands_due.empty() && (room || messages.empty())) {
    const auto [version, flags] = node->commands_due.front();
    node->commands_due.pop_front();
    messages.push_back(
        syncer::EncodeMessage(version, MessageType::kCommands, IdOf(number), syncer::WithCommandFlags("", flags)));
  }
  if (node->view_dirty && (room || messages.empty())) {
    messages.push_back(own_view());
    node->view_dirty = false;
  }
  if (messages.empty()) return std::nullopt;
  Parcel parcel;
  if (options_.bare) parcel.bytes = messages[0];
  for (const std::string& message : messages) {
    if (!options_.bare) AppendBatchEntry(message, &parcel.bytes);
  }
  return parcel;
}

// Frames that many share are read once.
const std::vector<Item>& World::Decode(const std::shared_ptr<const std::string>& owner) {
  for (const auto& [known, items] : decoded_) {
    if (known == owner) return items;
  }
  if (decoded_.size() >= 64) decoded_.pop_front();
  decoded_.emplace_back(owner, DecodeFrame(*owner));
  return decoded_.back().second;
}

void World::ArriveAtNode(Link* link, const Parcel& parcel) {
  Node* node = nodes_[link->client.number].get();
  for (const syncer::Slice& slice : parcel.frame.slices) {
    const std::vector<Item>& items = Decode(slice.owner);
    const auto from = static_cast<uint32_t>(slice.bytes.data() - slice.owner->data());
    const auto to = from + static_cast<uint32_t>(slice.bytes.size());
    auto item =
        std::lower_bound(items.begin(), items.end(), from, [](const Item& one, uint32_t at) { return one.at < at; });
    for (; item != items.end() && item->at < to; ++item) HandleItem(link, node, *item);
  }
}

void World::HandleItem(Link* link, Node* node, const Item& item) {
  ++outcome_.delivered_messages;
  if (item.node == link->client.number) return Violation(absl::StrCat("node ", item.node, " gets its own message"));
  if (item.type == MessageType::kCommands) {
    if (!IsCommander(item.node) || (item.flags & syncer::kGlobalGc) == 0) return;
    if (options_.sabotage == Sabotage::kDropsCommandFlags && random_.Chance(300)) return;
    const size_t commander = item.node / CommanderStep();
    if (node->gc_seen.size() <= commander) node->gc_seen.resize(nodes_.size() / CommanderStep() + 1);
    node->gc_seen[commander] = std::max(node->gc_seen[commander], item.version);
    return;
  }
  if (item.node >= nodes_.size()) return Violation("a message of a node that never was");
  if (node->view.size() <= item.node) node->view.resize(nodes_.size());
  Known& known = node->view[item.node];
  if (item.version < known.on_stream) {
    Violation(
        absl::StrCat("node ", item.node, " goes back from ", known.on_stream, " to ", item.version, " on one stream"));
  }
  known.on_stream = item.version;
  if (late_ && !nodes_[item.node]->alive && node->published_ms.size() <= 2 &&
      nodes_[item.node]->died_behind == node->parent && nodes_[item.node]->died_in_life == LifeOf(node->parent)) {
    Violation(absl::StrCat("who joins late is shown dead node ", item.node));
  }
  if (item.version <= known.held) return;
  const std::vector<int64_t>& published_ms = nodes_[item.node]->published_ms;
  if (item.version >= published_ms.size()) return Violation(absl::StrCat("a version nobody published of ", item.node));
  const int64_t missing_since_ms = published_ms[known.held + 1];
  if (Calm() && missing_since_ms >= calm_from_ms_ && !node->slow) CountStaleness(clock_.NowMs() - missing_since_ms);
  known.held = item.version;
}

void World::KillNode(uint32_t number) {
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

void World::MoveNode(uint32_t number) {
  Node* node = nodes_[number].get();
  if (!node->alive || node->parent.kind != Kind::kRelay || options_.leaf_relays < 2) return;
  if (node->link == kNobody || !links_[node->link]->client_open) return;
  node->parent.number = static_cast<uint32_t>(options_.mid_relays + random_.Below(options_.leaf_relays));
  BreakLink(node->link);
}

// --- Relays

void World::StartRelay(Relay* relay) {
  syncer::RelayOptions options = options_.relay;
  options.node_id = IdOf(relay->number | kRelayBit);
  relay->core = std::make_unique<RelayCore>(options, &clock_, relay);
  relay->timer_ms = syncer::kNeverMs;
  relay->link = kNobody;
  relay->up = true;
  relay->touched = true;
  relay->left.clear();
  Connect({Kind::kRelay, relay->number});
}

void World::CrashRelay(Relay* relay) {
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

void World::WithdrawAbove(const Relay& relay, const NodeId& id) {
  const Actor parent = relay.parent;
  const StreamMetadata metadata = relay.core->WithdrawMetadata(id);
  After(Delay(), [this, parent, metadata, id] {
    if (!IsUp(parent)) return;
    if (parent.kind == Kind::kRelay) {
      End nobody;
      const auto stream = CoreOf(parent.number)->AddDownstream(metadata, &nobody);
      if (stream.ok()) Violation("a withdrawal opens a stream");
    } else {
      gcs_.views.erase(IndexOf(id));
      gcs_.commands.erase(IndexOf(id));
      for (auto& [link, stream] : gcs_.streams) stream.views_due.erase(IndexOf(id));
    }
    Settle();
  });
}

// --- The GCS

void World::ArriveAtGcs(Link* link, const std::string& bytes) {
  const auto split = syncer::Split(bytes, {});
  if (!split.ok()) return Violation("the GCS gets a frame it dies of");
  if (split->dialect != (options_.bare ? Dialect::kBare : Dialect::kBatch)) {
    return Violation("the GCS gets a frame in a dialect it dies of");
  }
  if (split->messages.empty()) return Violation("the GCS gets an empty batch");
  for (const std::string_view part : split->messages) {
    ++outcome_.gcs_messages_in;
    const auto message = syncer::ParseMessage(part, {});
    if (!message.ok()) return Violation("the GCS gets a message it dies of");
    const uint32_t node = IndexOf(message->node_id);
    const bool is_view = message->type == MessageType::kResourceView;
    GcsEntry& entry = is_view ? gcs_.views[node] : gcs_.commands[node];
    const auto version = static_cast<Version>(message->version);
    if (version <= entry.version) continue;
    entry.version = version;
    entry.source_link = link->id;
    entry.message = std::string(part);
    for (auto& [id, stream] : gcs_.streams) {
      if (id == link->id || stream.who == node) continue;
      if (is_view) {
        stream.views_due.insert(node);
      } else {
        stream.commands_due.push_back(
            {node, version, MessageType::kCommands, syncer::ReadCommandFlags(message->payload), 0});
      }
      ready_.emplace_back(id, kDownward);
    }
  }
}

std::optional<Parcel> World::TakeFromGcs(Link* link) {
  const auto found = gcs_.streams.find(link->id);
  if (found == gcs_.streams.end()) return std::nullopt;
  GcsStream& stream = found->second;
  std::vector<std::string> messages;
  while (!stream.commands_due.empty() && (!options_.bare || messages.empty())) {
    const Item& item = stream.commands_due.front();
    messages.push_back(syncer::EncodeMessage(item.version, MessageType::kCommands, IdOf(item.node),
                                             syncer::WithCommandFlags("", item.flags)));
    stream.commands_due.pop_front();
  }
  while (!stream.views_due.empty() && (!options_.bare || messages.empty())) {
    const uint32_t node = *stream.views_due.begin();
    stream.views_due.erase(stream.views_due.begin());
    const auto entry = gcs_.views.find(node);
    if (entry != gcs_.views.end() && entry->second.version > 0) messages.push_back(entry->second.message);
  }
  if (messages.empty()) return std::nullopt;
  outcome_.gcs_messages_out += messages.size();
  std::string bytes = options_.bare ? messages[0] : "";
  for (const std::string& message : messages) {
    if (!options_.bare) AppendBatchEntry(message, &bytes);
  }
  Parcel parcel;
  parcel.bytes = bytes;
  auto owned = std::make_shared<const std::string>(std::move(bytes));
  parcel.frame.messages = messages.size();
  parcel.frame.Add(owned, *owned);
  return parcel;
}

void World::GcsEndsStream(uint32_t id) {
  const auto found = gcs_.streams.find(id);
  if (found == gcs_.streams.end()) return;
  gcs_.views.erase(found->second.who);
  gcs_.commands.erase(found->second.who);
  gcs_.streams.erase(found);
  links_[id]->server_open = false;
  After(Delay(), [this, id] { EndClient(id); });
}

void World::RestartGcs() {
  if (!gcs_.up) return;
  ++outcome_.gcs_restarts;
  gcs_.up = false;
  ++gcs_.life;
  for (const auto& [id, stream] : gcs_.streams) {
    links_[id]->server_open = false;
    const uint32_t link = id;
    After(random_.Between(1, 100), [this, link] { EndClient(link); });
  }
  gcs_.streams.clear();
  gcs_.views.clear();
  gcs_.commands.clear();
  After(random_.Between(100, 1'500), [this] { gcs_.up = true; });
}

// --- Faults

void World::ScheduleFault(uint32_t rate, size_t count, const std::function<void()>& fault) {
  const double expected =
      static_cast<double>(rate) * static_cast<double>(count) * static_cast<double>(options_.storm_ms) / 1'000 / 1'000;
  auto times = static_cast<int64_t>(expected);
  if (random_.Chance(static_cast<uint32_t>((expected - static_cast<double>(times)) * 1'000))) ++times;
  for (int64_t at = 0; at < times; ++at) At(random_.Between(storm_from_ms_, storm_to_ms_ - 1), fault);
}

void World::ScheduleFaults() {
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

// --- Checks

void World::CheckEqualViews(const std::string& when) {
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
    const auto entry = gcs_.views.find(other);
    if (entry == gcs_.views.end() || entry->second.version != nodes_[other]->version) {
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

void World::CheckTheDead() {
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

void World::CheckCommands() {
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

void World::CheckMemory() {
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

void World::CheckRefusals() {
  for (const auto& relay : relays_) {
    if (!relay->up) continue;
    if (relay->core->shield().refused_total() > 0) Violation("a relay refused something, and everybody is honest");
    if (relay->core->metrics().raised > 0) Violation("a relay raised versions, and nobody started over");
    outcome_.repaired_buckets += relay->core->metrics().repaired_buckets;
  }
}

// Up through the tree nothing waits but for the write before; down it is one window a relay. On each hop, a frame may
// wait for the one before it to be written and to arrive.
int64_t World::CalmBoundMs() const {
  const int64_t levels = (options_.mid_relays > 0 ? 2 : 1) + 1;
  const int64_t hop_ms = 2 * (options_.max_delay_ms + 1) + 1;
  const int64_t windows_ms = levels * (options_.relay.downward.window_ms + options_.relay.upward.window_ms);
  const int64_t noise_ms = options_.relay.noise.enabled ? options_.relay.noise.max_delay_ms : 0;
  // A bare stream carries one message a write: all nodes' messages may lie before this one.
  const int64_t queue_ms = options_.bare ? static_cast<int64_t>(4 * nodes_.size()) : 0;
  return windows_ms + 2 * levels * hop_ms + noise_ms + queue_ms;
}

void World::CountStaleness(int64_t ms) {
  if (static_cast<size_t>(ms) >= staleness_.size()) staleness_.resize(ms + 1);
  ++staleness_[ms];
  if (ms > CalmBoundMs()) Violation(absl::StrCat("an update took ", ms, " ms; bound ", CalmBoundMs()));
}

int64_t World::StalenessPercentile(double share) const {
  uint64_t total = 0;
  for (const uint64_t count : staleness_) total += count;
  auto left = static_cast<uint64_t>(static_cast<double>(total) * share);
  for (size_t ms = 0; ms < staleness_.size(); ++ms) {
    if (left < staleness_[ms]) return static_cast<int64_t>(ms);
    left -= staleness_[ms];
  }
  return std::max<int64_t>(static_cast<int64_t>(staleness_.size()) - 1, 0);
}

// --- The run

void World::RunUntil(int64_t until_ms) {
  bool done = false;
  At(until_ms, [&done] { done = true; });
  while (!done) {
    const std::optional<Event> event = queue_.PopNext();
    (*event)();
    ++outcome_.events;
  }
}

SyncerWorldOutcome World::Run() {
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
  outcome_.virtual_ms = clock_.NowMs() - start_ms;
  return outcome_;
}

}  // namespace

SyncerWorldOutcome RunSyncerWorld(const SyncerWorldOptions& options) { return World(options).Run(); }

}  // namespace mantaray::sim
