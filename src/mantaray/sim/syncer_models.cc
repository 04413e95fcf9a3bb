// What the nodes, the relays and the GCS of the world do.

#include "mantaray/sim/syncer_world_impl.h"

namespace mantaray::sim {

void SyncerWorld::ArmTimer(Relay* relay) {
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

std::optional<Parcel> SyncerWorld::TakeFrom(Link* link, Direction direction) {
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

uint32_t SyncerWorld::AddNode(Actor parent) {
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

void SyncerWorld::Publish(uint32_t number, uint64_t life) {
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
void SyncerWorld::Command(uint32_t number) {
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

std::optional<Parcel> SyncerWorld::TakeFromNode(Node* node, uint32_t number) {
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
const std::vector<Item>& SyncerWorld::Decode(const std::shared_ptr<const std::string>& owner) {
  for (const auto& [known, items] : decoded_) {
    if (known == owner) return items;
  }
  if (decoded_.size() >= 64) decoded_.pop_front();
  decoded_.emplace_back(owner, DecodeFrame(*owner));
  return decoded_.back().second;
}

void SyncerWorld::ArriveAtNode(Link* link, const Parcel& parcel) {
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

void SyncerWorld::HandleItem(Link* link, Node* node, const Item& item) {
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

void SyncerWorld::StartRelay(Relay* relay) {
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

void SyncerWorld::WithdrawAbove(const Relay& relay, const NodeId& id) {
  const Actor parent = relay.parent;
  const StreamMetadata metadata = relay.core->WithdrawMetadata(id);
  After(Delay(), [this, parent, metadata, id] {
    if (!IsUp(parent)) return;
    if (parent.kind == Kind::kRelay) {
      End nobody;
      const auto stream = CoreOf(parent.number)->AddDownstream(metadata, &nobody);
      if (stream.ok()) Violation("a withdrawal opens a stream");
    } else {
      WithdrawAtGcs(IndexOf(id));
    }
    Settle();
  });
}

void SyncerWorld::OpenAtGcs(uint32_t stream, uint32_t who) {
  const std::optional<uint32_t> ended = gcs_.model.Open(stream, who);
  if (!ended || (*ended & kWithdrawalBit) != 0) return;
  links_[*ended]->server_open = false;
  After(Delay(), [this, link = *ended] { EndClient(link); });
}

// A relay opens a stream under the node's id, gets all that the GCS has, and ends the stream.
void SyncerWorld::WithdrawAtGcs(uint32_t who) {
  const uint32_t stream = kWithdrawalBit | gcs_.withdrawals++;
  OpenAtGcs(stream, who);
  while (!gcs_.model.Take(stream).empty()) {
  }
  const uint64_t life = gcs_.life;
  After(2 * Delay(), [this, stream, life] {
    if (gcs_.up && gcs_.life == life) gcs_.model.End(stream);
  });
}

void SyncerWorld::ArriveAtGcs(Link* link, const std::string& bytes) {
  std::vector<uint32_t> ready;
  if (const std::string dies = gcs_.model.Receive(link->id, bytes, &ready); !dies.empty()) Violation(dies);
  for (const uint32_t stream : ready) {
    if ((stream & kWithdrawalBit) == 0) ready_.emplace_back(stream, kDownward);
  }
}

std::optional<Parcel> SyncerWorld::TakeFromGcs(Link* link) {
  const std::vector<std::string> messages = gcs_.model.Take(link->id);
  if (messages.empty()) return std::nullopt;
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

void SyncerWorld::GcsEndsStream(uint32_t id) {
  if (!gcs_.model.has_stream(id)) return;
  gcs_.model.End(id);
  links_[id]->server_open = false;
  After(Delay(), [this, id] { EndClient(id); });
}

}  // namespace mantaray::sim
