// Validation of streams and frames.

#include "mantaray/syncer/shield.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "mantaray/syncer/payload.h"

namespace mantaray::syncer {
namespace {

constexpr std::array<std::string_view, kRefusals> kNames = {
    "missing_node_id", "bad_node_id", "bad_relay_metadata", "loop",      "too_many_streams", "too_many_nodes",
    "empty_batch",     "malformed",   "wrong_dialect",      "oversized", "bad_payload",      "impersonation",
};

const std::string* FindKey(const StreamMetadata& metadata, std::string_view key) {
  for (const auto& [name, value] : metadata) {
    if (name == key) return &value;
  }
  return nullptr;
}

bool IsRelayId(std::string_view text) {
  if (text.size() != kRelayIdDigits) return false;
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Appends the ids of a list separated by commas; whether all of them are ids and there are not too many.
bool ParseRelayIds(std::string_view list, std::vector<std::string>* ids) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    const std::string_view id = list.substr(0, comma);
    if (!IsRelayId(id) || ids->size() >= kMaxRelays) return false;
    ids->emplace_back(id);
    if (comma == std::string_view::npos) return true;
    list.remove_prefix(comma + 1);
  }
  return true;
}

absl::StatusCode CodeOf(Refusal refusal) {
  switch (refusal) {
    case Refusal::kLoop:
      return absl::StatusCode::kFailedPrecondition;
    case Refusal::kTooManyStreams:
    case Refusal::kTooManyNodes:
    case Refusal::kOversized:
      return absl::StatusCode::kResourceExhausted;
    case Refusal::kImpersonation:
      return absl::StatusCode::kPermissionDenied;
    default:
      return absl::StatusCode::kInvalidArgument;
  }
}

// Why a frame or a message is refused that the parser did not accept.
Refusal ReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return Refusal::kOversized;
    case absl::StatusCode::kNotFound:
      return Refusal::kEmptyBatch;
    default:
      return Refusal::kMalformed;
  }
}

}  // namespace

std::string_view RefusalName(Refusal refusal) { return kNames[static_cast<size_t>(refusal)]; }

absl::Status Shield::Refuse(Refusal refusal, absl::string_view why) {
  ++refused_[static_cast<size_t>(refusal)];
  return {CodeOf(refusal), absl::StrCat("sync stream refused: ", why)};
}

uint64_t Shield::refused_total() const { return std::accumulate(refused_.begin(), refused_.end(), uint64_t{0}); }

absl::Status Shield::ParseRelays(const StreamMetadata& metadata, std::string_view others_key, Hello* hello) {
  if (const std::string* relay = FindKey(metadata, kRelayKey)) {
    if (!IsRelayId(*relay)) return Refuse(Refusal::kBadRelayMetadata, "mantaray-relay is not 16 hexadecimal digits");
    hello->relay_id = *relay;
  }
  if (const std::string* others = FindKey(metadata, others_key)) {
    if (!ParseRelayIds(*others, &hello->other_relays)) {
      return Refuse(Refusal::kBadRelayMetadata, "a list of relays that is malformed or too long");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Hello> Shield::CheckClient(const StreamMetadata& metadata) {
  const std::string* hex = FindKey(metadata, kNodeIdKey);
  if (hex == nullptr) return Refuse(Refusal::kMissingNodeId, "no node_id in its metadata");
  const std::optional<NodeId> id = NodeId::FromHex(*hex);
  if (!id) return Refuse(Refusal::kBadNodeId, "the node_id in its metadata is not 56 hexadecimal digits");
  Hello hello;
  hello.node_id = *id;
  if (absl::Status status = ParseRelays(metadata, kRelaysBelowKey, &hello); !status.ok()) return status;
  if (const std::string* by = FindKey(metadata, kWithdrawKey)) {
    if (!IsRelayId(*by)) return Refuse(Refusal::kBadRelayMetadata, "mantaray-withdraw is not 16 hexadecimal digits");
    hello.withdrawn_by = *by;
  }
  return hello;
}

absl::StatusOr<Hello> Shield::CheckServer(const StreamMetadata& metadata) {
  Hello hello;
  if (absl::Status status = ParseRelays(metadata, kRelaysAboveKey, &hello); !status.ok()) return status;
  return hello;
}

absl::StatusOr<SyncMessage> Shield::CheckMessage(std::string_view bytes) {
  absl::StatusOr<SyncMessage> message = ParseMessage(bytes, limits_);
  if (!message.ok()) return message;
  if (absl::Status status = CheckPayload(message->type, message->payload); !status.ok()) return status;
  return message;
}

absl::StatusOr<Shield::CheckedFrame> Shield::CheckFrame(std::string_view frame, Dialect dialect) {
  absl::StatusOr<SplitFrame> split = Split(frame, limits_);
  if (!split.ok()) {
    return Refuse(ReasonOf(split.status()), split.status().message());
  }
  if (dialect != Dialect::kUnknown && dialect != split->dialect) {
    return Refuse(Refusal::kWrongDialect, "bare messages and batches on one stream");
  }
  CheckedFrame checked;
  checked.messages.reserve(split->messages.size());
  for (const std::string_view bytes : split->messages) {
    absl::StatusOr<SyncMessage> message = ParseMessage(bytes, limits_);
    if (!message.ok()) {
      return Refuse(ReasonOf(message.status()), message.status().message());
    }
    if (absl::Status status = CheckPayload(message->type, message->payload); !status.ok()) {
      return Refuse(Refusal::kBadPayload, status.message());
    }
    checked.messages.push_back(*message);
  }
  checked.split = *std::move(split);
  return checked;
}

absl::StatusOr<Shield::CheckedFrame> Shield::CheckUpstreamFrame(std::string_view frame) {
  absl::StatusOr<SplitFrame> split = Split(frame, limits_);
  if (!split.ok()) return split.status();
  CheckedFrame checked;
  checked.messages.reserve(split->messages.size());
  for (const std::string_view bytes : split->messages) {
    const absl::StatusOr<SyncMessage> message = CheckMessage(bytes);
    if (message.ok()) {
      checked.messages.push_back(*message);
    } else {
      ++skipped_;
    }
  }
  checked.split = *std::move(split);
  return checked;
}

}  // namespace mantaray::syncer
