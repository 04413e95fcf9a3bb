// The view, its change logs and the frames that are made from them.

#include "mantaray/syncer/view_store.h"

#include <algorithm>
#include <utility>

namespace mantaray::syncer {

ViewStore::Outcome ViewStore::Apply(const SyncMessage& message, StreamId source, ViewEntry** entry) {
  NodeState* node = FindOrAdd(message.node_id);
  if (node == nullptr) return Outcome::kFull;
  std::unique_ptr<ViewEntry>& slot = node->entries[static_cast<size_t>(message.type)];
  if (slot == nullptr) {
    slot = std::make_unique<ViewEntry>();
    slot->node = node;
    slot->type = message.type;
  }
  *entry = slot.get();
  if (message.version <= slot->version) return Outcome::kStale;
  auto encoded = std::make_shared<std::string>();
  encoded->reserve(message.bytes.size() + 6);
  AppendBatchEntry(message.bytes, encoded.get());
  slot->version = message.version;
  slot->bare_bytes = message.bytes.size();
  slot->payload = {};
  if (!message.payload.empty()) {
    const size_t at = encoded->size() - slot->bare_bytes + (message.payload.data() - message.bytes.data());
    slot->payload = std::string_view(*encoded).substr(at, message.payload.size());
  }
  slot->encoded = std::move(encoded);
  slot->source = source;
  return Outcome::kNewer;
}

NodeState* ViewStore::Find(const NodeId& id) {
  const auto found = nodes_.find(id);
  return found == nodes_.end() ? nullptr : found->second.get();
}

const NodeState* ViewStore::Find(const NodeId& id) const {
  const auto found = nodes_.find(id);
  return found == nodes_.end() ? nullptr : found->second.get();
}

NodeState* ViewStore::FindOrAdd(const NodeId& id) {
  if (NodeState* node = Find(id)) return node;
  if (nodes_.size() >= max_nodes_) return nullptr;
  auto node = std::make_unique<NodeState>();
  node->id = id;
  return nodes_.emplace(id, std::move(node)).first->second.get();
}

size_t ViewStore::payload_bytes() const {
  size_t total = 0;
  for (const auto& [id, node] : nodes_) {
    for (const auto& entry : node->entries) total += entry != nullptr && entry->encoded ? entry->encoded->size() : 0;
  }
  return total;
}

size_t ChangeLog::IndexAfter(uint64_t position) const {
  const auto after = std::upper_bound(slots_.begin(), slots_.end(), position,
                                      [](uint64_t wanted, const Slot& slot) { return wanted < slot.position; });
  return after - slots_.begin();
}

uint64_t ChangeLog::Append(ViewEntry* entry) {
  Remove(entry);
  CompactIfSparse();
  slots_.push_back({next_, entry});
  ++live_;
  entry->position[direction_] = next_;
  return next_++;
}

void ChangeLog::Remove(ViewEntry* entry) {
  uint64_t& position = entry->position[direction_];
  if (position == 0) return;
  slots_[IndexAfter(position - 1)].entry = nullptr;
  position = 0;
  --live_;
}

void ChangeLog::CompactIfSparse() {
  if (slots_.size() < 2 * live_ + 64) return;
  std::erase_if(slots_, [](const Slot& slot) { return slot.entry == nullptr; });
}

Frame Segment::For(StreamId stream) const {
  Frame frame;
  frame.messages = messages;
  const std::string_view all = *bytes;
  size_t done = 0;
  auto part = std::lower_bound(carried.begin(), carried.end(), stream,
                               [](const Part& a, StreamId wanted) { return a.carrier < wanted; });
  for (; part != carried.end() && part->carrier == stream; ++part) {
    if (part->at > done) frame.Add(bytes, all.substr(done, part->at - done));
    done = part->at + part->size;
    --frame.messages;
  }
  if (done < all.size()) frame.Add(bytes, all.substr(done));
  return frame;
}

void Channel::Add(ViewEntry* entry, int64_t now_ms) {
  const bool was_waiting = IsWaiting(*entry);
  log_.Append(entry);
  if (!was_waiting) coalescer_.Add(now_ms);
}

void Channel::Remove(ViewEntry* entry) {
  if (entry->position[direction_] == 0) return;
  log_.Remove(entry);
  ForgetSegments();
}

std::shared_ptr<const Segment> Channel::Build(uint64_t from) {
  for (const Recent& recent : recent_) {
    if (recent.segment->from == from && recent.latest == log_.latest()) return recent.segment;
  }
  auto segment = std::make_shared<Segment>();
  segment->from = from;
  segment->to = log_.latest();
  auto bytes = std::make_shared<std::string>();
  uint64_t last = from;
  log_.VisitAfter(from, [&](const ViewEntry* entry) {
    const bool fits =
        segment->messages < limits_.max_messages && bytes->size() + entry->encoded->size() <= limits_.max_bytes;
    if (segment->messages > 0 && !fits) {
      segment->to = last;
      return false;
    }
    const StreamId carrier = entry->node->carried_by;
    const auto exclude = [&](StreamId stream) {
      if (stream == kNoStream || stream == kFromUpstream) return;
      segment->carried.push_back({stream, bytes->size(), entry->encoded->size()});
    };
    exclude(carrier);
    if (entry->source != carrier) exclude(entry->source);
    bytes->append(*entry->encoded);
    ++segment->messages;
    last = entry->position[direction_];
    return true;
  });
  std::sort(segment->carried.begin(), segment->carried.end(), [](const Segment::Part& a, const Segment::Part& b) {
    return a.carrier != b.carrier ? a.carrier < b.carrier : a.at < b.at;
  });
  segment->bytes = std::move(bytes);
  if (recent_.size() >= kRecentSegments) recent_.erase(recent_.begin());
  recent_.push_back({log_.latest(), segment});
  return segment;
}

}  // namespace mantaray::syncer
