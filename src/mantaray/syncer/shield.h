// What a relay refuses, why, and how often it did.
//
// Nothing that is malformed or hostile gets past it: a real GCS dies of several of these. A refusal is an absl::Status
// with which the stream ends, and a count. Of upstream, which is the authority, single messages are skipped and counted
// instead. Not thread-safe. Pure.
//
// Metadata keys, besides Ray's `node_id`:
//   mantaray-relay          the sender is a relay; its id, 16 hexadecimal digits
//   mantaray-relay-below    ids of the relays that hang below a relay, separated by commas (sent by clients)
//   mantaray-relay-above    ids of the relays above (answered by servers)
//   mantaray-withdraw       this short stream only says that the node in `node_id` left that relay

#ifndef MANTARAY_SYNCER_SHIELD_H_
#define MANTARAY_SYNCER_SHIELD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::syncer {

inline constexpr std::string_view kNodeIdKey = "node_id";
inline constexpr std::string_view kRelayKey = "mantaray-relay";
inline constexpr std::string_view kRelaysBelowKey = "mantaray-relay-below";
inline constexpr std::string_view kRelaysAboveKey = "mantaray-relay-above";
inline constexpr std::string_view kWithdrawKey = "mantaray-withdraw";
inline constexpr size_t kRelayIdDigits = 16;
// Metadata travels in headers, which are small.
inline constexpr size_t kMaxRelays = 256;

using StreamMetadata = std::vector<std::pair<std::string, std::string>>;

enum class Refusal : uint8_t {
  kMissingNodeId,
  kBadNodeId,
  kBadRelayMetadata,
  kLoop,
  kTooManyStreams,
  kTooManyNodes,
  kEmptyBatch,
  kMalformed,
  kWrongDialect,
  kOversized,
  kBadPayload,
  kImpersonation,
};
inline constexpr size_t kRefusals = 12;
// The name of a reason, as in `impersonation`, for metrics.
std::string_view RefusalName(Refusal refusal);

// What the metadata of a stream say.
struct Hello {
  NodeId node_id;
  std::string relay_id;                   // empty: not a relay
  std::vector<std::string> other_relays;  // below a client, above a server
  std::string withdrawn_by;               // empty: an ordinary stream
};

class Shield {
 public:
  explicit Shield(WireLimits limits) : limits_(limits) {}

  // Counts a refusal and returns its status.
  absl::Status Refuse(Refusal refusal, absl::string_view why);

  // The metadata with which a client opened a stream. InvalidArgument: refused.
  absl::StatusOr<Hello> CheckClient(const StreamMetadata& metadata);
  // What a server answered; a GCS says nothing that is looked at. InvalidArgument: refused.
  absl::StatusOr<Hello> CheckServer(const StreamMetadata& metadata);

  struct CheckedFrame {
    SplitFrame split;
    std::vector<SyncMessage> messages;
  };
  // A frame of a downstream stream that has spoken `dialect` so far (kUnknown: its first). All of it is good or it is
  // refused.
  absl::StatusOr<CheckedFrame> CheckFrame(std::string_view frame, Dialect dialect);
  // A frame of upstream: messages that are not good are left out and counted in `skipped`. An error: nothing can be
  // made of it.
  absl::StatusOr<CheckedFrame> CheckUpstreamFrame(std::string_view frame);

  uint64_t refused(Refusal refusal) const { return refused_[static_cast<size_t>(refusal)]; }
  uint64_t refused_total() const;
  uint64_t skipped() const { return skipped_; }

 private:
  absl::StatusOr<SyncMessage> CheckMessage(std::string_view bytes);
  absl::Status ParseRelays(const StreamMetadata& metadata, std::string_view others_key, Hello* hello);

  WireLimits limits_;
  std::array<uint64_t, kRefusals> refused_{};
  uint64_t skipped_ = 0;
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_SHIELD_H_
