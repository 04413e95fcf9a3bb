// The wire dialects of resource-view sync, parsed and written by hand.
//
// By hand, because a relay passes on what it got: the bytes of a message travel as they came, so that unknown fields
// survive, nothing is copied for each stream, and a message that Ray's parser would see otherwise than ours is refused
// rather than rewritten. Parsing is bounded by WireLimits, never reads beyond its input, never recurses and allocates
// only in proportion to the input. Strict where Ray dies: see src/mantaray/proto/ray_syncer.proto. Pure.
//
// Unknown fields *of messages* survive. Those of a batch belong to no message; they end here.

#ifndef MANTARAY_SYNCER_WIRE_H_
#define MANTARAY_SYNCER_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/syncer/node_id.h"

namespace mantaray::syncer {

inline constexpr std::string_view kStartSyncMethod = "/ray.rpc.syncer.RaySyncer/StartSync";

enum class Dialect : uint8_t { kUnknown, kBare, kBatch };
enum class MessageType : uint8_t { kResourceView = 0, kCommands = 1 };
inline constexpr size_t kMessageTypes = 2;

// What a relay accepts is bounded in bytes, because bytes are what it has to hold. A bound on the entries of a view
// would be a limit that Ray lacks: each one-CPU bundle of a placement group adds eight of them.
struct WireLimits {
  size_t max_frame_bytes = 64 << 20;    // one gRPC message
  size_t max_message_bytes = 16 << 20;  // one sync message
  size_t max_batch_messages = 100'000;  // sync messages in a frame
};

// Views into the frame that it was parsed from.
struct SyncMessage {
  int64_t version = 0;
  MessageType type = MessageType::kResourceView;
  NodeId node_id;
  std::string_view payload;
  std::string_view bytes;  // the whole message, in the bare dialect
};

// What a frame is made of, before its messages are looked at. Views into the frame.
struct SplitFrame {
  Dialect dialect = Dialect::kUnknown;
  std::vector<std::string_view> messages;
  // Between relays only, see digest.h.
  std::optional<std::string_view> relay_digest;
  uint64_t repair_request = 0;
  uint64_t complete_buckets = 0;

  bool has_relay_talk() const { return relay_digest.has_value() || repair_request != 0 || complete_buckets != 0; }
};

// kBatch if the first byte says so, kBare otherwise; kUnknown of nothing.
Dialect DialectOf(std::string_view frame);

// Splits a frame. Errors:
// - InvalidArgument: the frame is not well-formed.
// - NotFound: the frame is empty in a way that Ray dies of. It has no bytes, or it is a batch without a message that
//   carries nothing between relays either.
// - ResourceExhausted: the frame is larger than the limits allow.
absl::StatusOr<SplitFrame> Split(std::string_view frame, const WireLimits& limits);

// Parses one message. InvalidArgument: not well-formed, a negative version, an unknown type, a node id that has not
// 28 bytes. ResourceExhausted: beyond the limits.
absl::StatusOr<SyncMessage> ParseMessage(std::string_view bytes, const WireLimits& limits);

// A message in the bare dialect.
std::string EncodeMessage(int64_t version, MessageType type, const NodeId& node_id, std::string_view payload);

// The same message with another version; everything else, unknown fields too, stays.
std::string WithVersion(std::string_view message, int64_t version);
// The same message with another payload.
std::string WithPayload(std::string_view message, std::string_view payload);

// Appends `message` as an entry of a batch; a frame in the batch dialect is a concatenation of these.
void AppendBatchEntry(std::string_view message, std::string* out);
// Appends what relays tell each other in a batch.
void AppendRelayDigest(std::string_view digest, std::string* out);
void AppendRepairRequest(uint64_t buckets, std::string* out);
void AppendCompleteBuckets(uint64_t buckets, std::string* out);

// A part of a frame: bytes, and what keeps them alive. Shared by all frames that carry them.
struct Slice {
  std::shared_ptr<const std::string> owner;
  std::string_view bytes;
};

// One gRPC message to write, as parts in order.
struct Frame {
  std::vector<Slice> slices;
  size_t size_bytes = 0;
  size_t messages = 0;

  void Add(std::shared_ptr<const std::string> owner, std::string_view bytes) {
    size_bytes += bytes.size();
    slices.push_back({std::move(owner), bytes});
  }
  std::string Flatten() const {
    std::string flat;
    flat.reserve(size_bytes);
    for (const Slice& slice : slices) flat.append(slice.bytes);
    return flat;
  }
};

// --- For parsers of payloads

// Reads protobuf's wire format from front to back.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : rest_(bytes) {}

  enum class Kind : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  struct Field {
    uint32_t number = 0;
    Kind kind = Kind::kVarint;
    uint64_t value = 0;      // of kVarint, kFixed64 and kFixed32
    std::string_view bytes;  // of kBytes
  };

  // Reads the next field. False at the end and on damage, which `ok` tells apart. Groups count as damage.
  bool Next(Field* field);
  bool ok() const { return ok_; }

 private:
  bool ReadVarint(size_t max_bytes, uint64_t* value);
  bool ReadFixed(size_t size, uint64_t* value);
  bool Fail() {
    ok_ = false;
    return false;
  }

  std::string_view rest_;
  bool ok_ = true;
};

void AppendVarint(uint64_t value, std::string* out);

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_WIRE_H_
