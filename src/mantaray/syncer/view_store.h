// The newest message of each node and type, and the order in which they changed.
//
// A ViewStore keeps one entry for each (node, type). A message enters it only with a higher version than the one that
// is there; everything else is stale and leaves no trace. Two relays that saw the same messages in any order hold the
// same view.
//
// A ChangeLog remembers in which order entries changed, each entry once, at its newest change. A reader is a position
// in it: what lies behind the position is what the reader has yet to see, in its newest form. A reader that falls
// behind costs itself freshness and nobody memory, however many readers there are: the log never holds more than about
// two slots an entry.
//
// A Channel is a change log with a Coalescer, which says up to where readers may be woken, and with the frames
// that were built last, so that readers at the same position share one frame.
//
// Not thread-safe. Pure.

#ifndef MANTARAY_SYNCER_VIEW_STORE_H_
#define MANTARAY_SYNCER_VIEW_STORE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mantaray/syncer/coalescer.h"
#include "mantaray/syncer/payload.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::syncer {

// A stream of a relay; 0 is none. Never used twice.
using StreamId = uint64_t;
inline constexpr StreamId kNoStream = 0;
// As the source of a message: upstream, whichever stream that was.
inline constexpr StreamId kFromUpstream = UINT64_MAX;

// The two directions in which an entry may be on its way.
inline constexpr size_t kDown = 0;  // to the nodes of this relay
inline constexpr size_t kUp = 1;    // to the GCS, or the next relay towards it
inline constexpr size_t kDirections = 2;

struct NodeState;

// The newest message of one node and type.
struct ViewEntry {
  NodeState* node = nullptr;
  MessageType type = MessageType::kResourceView;
  int64_t version = -1;
  // As an entry of a batch; the last `bare_bytes` of it are the message as it came. Shared with frames on their way.
  std::shared_ptr<const std::string> encoded;
  size_t bare_bytes = 0;
  std::string_view payload;
  StreamId source = kNoStream;   // whose message it was
  int64_t waiting_since_ms = 0;  // when what is on its way came here
  // Position in the change log of each direction; 0: not in it.
  std::array<uint64_t, kDirections> position{};
  // Position at which each command of kCommandFlags was last set.
  std::array<std::array<uint64_t, kDirections>, std::size(kCommandFlags)> flag_position{};
  // What last went on, while a newer version that is noise waits until `noise_until_ms`.
  std::shared_ptr<const std::string> published;
  std::string_view published_payload;
  int64_t published_version = -1;
  int64_t noise_until_ms = kNeverMs;

  std::string_view bare() const { return std::string_view(*encoded).substr(encoded->size() - bare_bytes); }
};

// A message that has to wait until the stream that carries its node has ended.
struct Contender {
  StreamId stream = kNoStream;
  std::string message;
};

// What is known of one node.
struct NodeState {
  NodeId id;
  StreamId carried_by = kNoStream;  // the downstream stream behind which it lives
  int64_t leaves_ms = kNeverMs;     // when it leaves the view unless it returns
  StreamId named_by = kNoStream;    // the stream upstream that named it last
  std::array<std::unique_ptr<ViewEntry>, kMessageTypes> entries;
  std::array<std::unique_ptr<Contender>, kMessageTypes> contenders;
};

class ViewStore {
 public:
  explicit ViewStore(size_t max_nodes) : max_nodes_(max_nodes) {}

  enum class Outcome { kNewer, kStale, kFull };

  // Takes a message in. kFull: its node would be one too many. The entry, unless kFull, is put into `*entry`.
  Outcome Apply(const SyncMessage& message, StreamId source, ViewEntry** entry);

  NodeState* Find(const NodeId& id);
  const NodeState* Find(const NodeId& id) const;
  // The node, made if missing; null if it would be one too many.
  NodeState* FindOrAdd(const NodeId& id);
  // Forgets a node; its entries must be in no change log.
  void Erase(const NodeId& id) { nodes_.erase(id); }

  size_t size() const { return nodes_.size(); }
  size_t payload_bytes() const;
  const std::unordered_map<NodeId, std::unique_ptr<NodeState>, NodeIdHash>& nodes() const { return nodes_; }

 private:
  size_t max_nodes_;
  std::unordered_map<NodeId, std::unique_ptr<NodeState>, NodeIdHash> nodes_;
};

class ChangeLog {
 public:
  explicit ChangeLog(size_t direction) : direction_(direction) {}

  // Puts an entry at the end, wherever it was; returns its position.
  uint64_t Append(ViewEntry* entry);
  // Takes an entry out, if it is in.
  void Remove(ViewEntry* entry);
  // The highest position given out so far.
  uint64_t latest() const { return next_ - 1; }
  size_t entries() const { return live_; }
  size_t slots() const { return slots_.size(); }

  // Calls `visit(entry)` for the entries behind `position`, in order, until it returns false.
  template <typename Visit>
  void VisitAfter(uint64_t position, Visit visit) const {
    for (size_t at = IndexAfter(position); at < slots_.size(); ++at) {
      if (slots_[at].entry != nullptr && !visit(slots_[at].entry)) return;
    }
  }

 private:
  struct Slot {
    uint64_t position = 0;
    ViewEntry* entry = nullptr;  // null: it changed again since, or left
  };

  size_t IndexAfter(uint64_t position) const;
  void CompactIfSparse();

  size_t direction_;
  std::vector<Slot> slots_;
  size_t live_ = 0;
  uint64_t next_ = 1;
};

struct FrameLimits {
  size_t max_messages = 2'000;
  size_t max_bytes = 1 << 20;
};

// Messages after a position, as a frame in the batch dialect.
struct Segment {
  uint64_t from = 0;
  uint64_t to = 0;  // a reader that has taken it stands here
  std::shared_ptr<const std::string> bytes;
  size_t messages = 0;
  // Where the messages lie that came from a stream or belong to its node, ordered by stream: they are not sent to it.
  struct Part {
    StreamId carrier = kNoStream;
    size_t at = 0;
    size_t size = 0;
  };
  std::vector<Part> carried;

  // The frame for a stream, without what it carries itself; empty if nothing is left.
  Frame For(StreamId stream) const;
};

class Channel {
 public:
  Channel(size_t direction, CoalescerOptions options, FrameLimits limits)
      : log_(direction), direction_(direction), coalescer_(options), limits_(limits) {}

  // An entry changed.
  void Add(ViewEntry* entry, int64_t now_ms);
  // An entry leaves the view, or this direction.
  void Remove(ViewEntry* entry);
  // Lets go what is due; whether anything was. `visit(entry)` is called for each entry let go.
  template <typename Visit>
  bool Release(int64_t now_ms, Visit visit) {
    if (!coalescer_.Due(now_ms)) return false;
    log_.VisitAfter(released_, [&](ViewEntry* entry) {
      visit(entry);
      return true;
    });
    released_ = log_.latest();
    coalescer_.Flushed(now_ms);
    return true;
  }
  int64_t DeadlineMs() const { return coalescer_.DeadlineMs(); }
  // Whether an entry waits to be let go.
  bool IsWaiting(const ViewEntry& entry) const { return entry.position[direction_] > released_; }
  // A reader before this position has something to take.
  uint64_t released() const { return released_; }
  uint64_t latest() const { return log_.latest(); }
  const ChangeLog& log() const { return log_; }

  // The frame for readers at `from`; shared as long as nothing changed.
  std::shared_ptr<const Segment> Build(uint64_t from);
  // Nodes moved from stream to stream: what segments know about that is out of date.
  void ForgetSegments() { recent_.clear(); }

 private:
  static constexpr size_t kRecentSegments = 8;
  struct Recent {
    uint64_t latest = 0;
    std::shared_ptr<const Segment> segment;
  };

  ChangeLog log_;
  size_t direction_;
  Coalescer coalescer_;
  FrameLimits limits_;
  uint64_t released_ = 0;
  std::vector<Recent> recent_;
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_VIEW_STORE_H_
