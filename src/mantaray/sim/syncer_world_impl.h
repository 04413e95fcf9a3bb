// The world of syncer_world.h: who there is, and what happens. Its parts are in syncer_world.cc (streams and the run),
// syncer_models.cc, syncer_faults.cc and syncer_checks.cc.

#ifndef MANTARAY_SIM_SYNCER_WORLD_IMPL_H_
#define MANTARAY_SIM_SYNCER_WORLD_IMPL_H_

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
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mantaray/common/clock.h"
#include "mantaray/sim/gcs_model.h"
#include "mantaray/sim/random.h"
#include "mantaray/sim/sync_decoder.h"
#include "mantaray/sim/syncer_world.h"
#include "mantaray/sim/virtual_clock.h"
#include "mantaray/syncer/backoff.h"
#include "mantaray/syncer/payload.h"

namespace mantaray::sim {

using syncer::AppendBatchEntry;
using syncer::Dialect;
using syncer::Frame;
using syncer::MessageType;
using syncer::NodeId;
using syncer::RelayCore;
using syncer::StreamId;
using syncer::StreamMetadata;

using Version = uint32_t;
inline constexpr uint32_t kNobody = UINT32_MAX;
inline constexpr uint32_t kRelayBit = 0x80000000;
// Of streams to the GCS that withdraw a node: they are no links.
inline constexpr uint32_t kWithdrawalBit = 0x80000000;
inline constexpr size_t kMostViolations = 20;
// A time for everybody to connect, and one for those who join last to learn what there is.
inline constexpr int64_t kBootMs = 3'000;
inline constexpr int64_t kLateMs = 1'500;
// Beyond this many nodes only some of them give commands: every node remembers what it saw of each.
inline constexpr size_t kSmallWorld = 1'000;
inline constexpr size_t kCommandersOfLargeWorld = 50;

inline NodeId IdOf(uint32_t index) {
  NodeId id;
  for (size_t at = 0; at < syncer::kNodeIdBytes; ++at) id.bytes[at] = static_cast<char>(Mix(index, at));
  std::memcpy(id.bytes.data(), &index, sizeof(index));
  return id;
}

inline uint32_t IndexOf(std::string_view id) {
  uint32_t index = 0;
  std::memcpy(&index, id.data(), sizeof(index));
  return index;
}
inline uint32_t IndexOf(const NodeId& id) { return IndexOf(std::string_view(id.bytes.data(), id.bytes.size())); }

inline std::string ResourcePayload(double cpu, double store_bytes) {
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

inline std::vector<Item> DecodeFrame(std::string_view bytes) {
  const DecodedFrame frame = DecodeSyncFrame(bytes);
  std::vector<Item> items;
  items.reserve(frame.messages.size());
  for (const DecodedMessage& message : frame.messages) {
    Item item{IndexOf(message.node_id), static_cast<Version>(message.version), static_cast<MessageType>(message.type),
              0, static_cast<uint32_t>(message.bytes.data() - bytes.data())};
    if (item.type == MessageType::kCommands) item.flags = DecodeCommandFlags(message.payload);
    items.push_back(item);
  }
  return items;
}

// A frame on its way: as the models read it and, for relays, its bytes.
struct Parcel {
  Frame frame;
  std::string bytes;
};

class SyncerWorld {
 public:
  explicit SyncerWorld(const SyncerWorldOptions& options);
  ~SyncerWorld();
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
    SyncerWorld* world = nullptr;
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
    SyncerWorld* world = nullptr;
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

  struct Gcs {
    bool up = true;
    uint64_t life = 1;
    GcsModel model;
    uint32_t withdrawals = 0;  // streams that withdraw a node, so far
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
  void OpenAtGcs(uint32_t stream, uint32_t who);
  void WithdrawAtGcs(uint32_t who);
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

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_SYNCER_WORLD_IMPL_H_
