// Parsing and writing of the wire dialects.

#include "mantaray/syncer/wire.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace mantaray::syncer {
namespace {

constexpr char kBatchEntryTag = 0x0a;
constexpr uint32_t kVersionField = 1;
constexpr uint32_t kTypeField = 2;
constexpr uint32_t kPayloadField = 3;
constexpr uint32_t kNodeIdField = 4;
constexpr uint32_t kMessagesField = 1;
// Far from what Ray is likely to use next.
constexpr uint32_t kRelayDigestField = 1015;
constexpr uint32_t kRepairRequestField = 1016;
constexpr uint32_t kCompleteBucketsField = 1017;

constexpr size_t kMaxVarintBytes = 10;
// Of tags and sizes; protobuf takes a longer one for damage, even if all it adds is zeros.
constexpr size_t kMaxShortVarintBytes = 5;

using Kind = WireReader::Kind;

void AppendTag(uint32_t number, Kind kind, std::string* out) {
  AppendVarint((uint64_t{number} << 3) | static_cast<uint64_t>(kind), out);
}

void AppendBytes(uint32_t number, std::string_view bytes, std::string* out) {
  AppendTag(number, Kind::kBytes, out);
  AppendVarint(bytes.size(), out);
  out->append(bytes);
}

void AppendFixed64(uint32_t number, uint64_t value, std::string* out) {
  AppendTag(number, Kind::kFixed64, out);
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

absl::Status SplitBatch(std::string_view frame, const WireLimits& limits, SplitFrame* split) {
  WireReader reader(frame);
  WireReader::Field field;
  while (reader.Next(&field)) {
    if (field.number == kMessagesField && field.kind == Kind::kBytes) {
      if (split->messages.size() >= limits.max_batch_messages) {
        return absl::ResourceExhaustedError(
            absl::StrCat("a batch of more than ", limits.max_batch_messages, " sync messages"));
      }
      split->messages.push_back(field.bytes);
    } else if (field.number == kRelayDigestField && field.kind == Kind::kBytes) {
      split->relay_digest = field.bytes;
    } else if (field.number == kRepairRequestField && field.kind == Kind::kFixed64) {
      split->repair_request = field.value;
    } else if (field.number == kCompleteBucketsField && field.kind == Kind::kFixed64) {
      split->complete_buckets = field.value;
    }
  }
  if (!reader.ok()) return absl::InvalidArgumentError("a batch of sync messages that is not well-formed");
  const bool between_relays = split->relay_digest || split->repair_request != 0 || split->complete_buckets != 0;
  if (split->messages.empty() && !between_relays) return absl::NotFoundError("an empty batch of sync messages");
  return absl::OkStatus();
}

}  // namespace

bool WireReader::ReadVarint(size_t max_bytes, uint64_t* value) {
  *value = 0;
  for (size_t at = 0; at < max_bytes && at < rest_.size(); ++at) {
    const auto byte = static_cast<unsigned char>(rest_[at]);
    if (at == 9 && byte > 1) return Fail();
    *value |= uint64_t{byte & 0x7fU} << (7 * at);
    if (byte < 0x80) {
      rest_.remove_prefix(at + 1);
      return true;
    }
  }
  return Fail();
}

bool WireReader::ReadFixed(size_t size, uint64_t* value) {
  if (rest_.size() < size) return Fail();
  *value = 0;
  std::memcpy(value, rest_.data(), size);
  rest_.remove_prefix(size);
  return true;
}

bool WireReader::Next(Field* field) {
  if (!ok_ || rest_.empty()) return false;
  uint64_t tag = 0;
  if (!ReadVarint(kMaxShortVarintBytes, &tag)) return false;
  if (tag > UINT32_MAX || tag >> 3 == 0) return Fail();
  field->number = static_cast<uint32_t>(tag >> 3);
  field->bytes = {};
  field->value = 0;
  switch (tag & 7) {
    case 0:
      field->kind = Kind::kVarint;
      return ReadVarint(kMaxVarintBytes, &field->value);
    case 1:
      field->kind = Kind::kFixed64;
      return ReadFixed(8, &field->value);
    case 5:
      field->kind = Kind::kFixed32;
      return ReadFixed(4, &field->value);
    case 2: {
      field->kind = Kind::kBytes;
      uint64_t size = 0;
      if (!ReadVarint(kMaxShortVarintBytes, &size)) return false;
      if (size > rest_.size()) return Fail();
      field->bytes = rest_.substr(0, size);
      rest_.remove_prefix(size);
      return true;
    }
    default:
      return Fail();
  }
}

void AppendVarint(uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

Dialect DialectOf(std::string_view frame) {
  if (frame.empty()) return Dialect::kUnknown;
  // A batch that carries only what relays tell each other opens with one of three tags of two bytes.
  if (frame.size() >= 2 && frame[1] == 0x3f) {
    const auto first = static_cast<unsigned char>(frame[0]);
    if (first == 0xba || first == 0xc1 || first == 0xc9) return Dialect::kBatch;
  }
  return frame[0] == kBatchEntryTag ? Dialect::kBatch : Dialect::kBare;
}

absl::StatusOr<SplitFrame> Split(std::string_view frame, const WireLimits& limits) {
  if (frame.empty()) return absl::NotFoundError("an empty sync message");
  if (frame.size() > limits.max_frame_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a message of ", frame.size(), " bytes; at most ", limits.max_frame_bytes, " are allowed"));
  }
  SplitFrame split;
  split.dialect = DialectOf(frame);
  if (split.dialect == Dialect::kBare) {
    split.messages.push_back(frame);
    return split;
  }
  if (const absl::Status status = SplitBatch(frame, limits, &split); !status.ok()) return status;
  return split;
}

absl::StatusOr<SyncMessage> ParseMessage(std::string_view bytes, const WireLimits& limits) {
  if (bytes.size() > limits.max_message_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("a sync message of ", bytes.size(),
                                                     " bytes, more than the relay's --max-view-bytes, ",
                                                     limits.max_message_bytes));
  }
  // It has to stay a bare message on the streams that speak so.
  if (DialectOf(bytes) == Dialect::kBatch) return absl::InvalidArgumentError("a sync message that opens like a batch");
  SyncMessage message;
  message.bytes = bytes;
  std::string_view node_id;
  uint64_t type = 0;
  uint64_t version = 0;
  WireReader reader(bytes);
  WireReader::Field field;
  while (reader.Next(&field)) {
    // As protobuf does it: the last of several counts, and a field of an unexpected kind is an unknown one.
    if (field.number == kVersionField && field.kind == Kind::kVarint) version = field.value;
    if (field.number == kTypeField && field.kind == Kind::kVarint) type = field.value;
    if (field.number == kPayloadField && field.kind == Kind::kBytes) message.payload = field.bytes;
    if (field.number == kNodeIdField && field.kind == Kind::kBytes) node_id = field.bytes;
  }
  if (!reader.ok()) return absl::InvalidArgumentError("a sync message that is not well-formed");
  message.version = static_cast<int64_t>(version);
  if (message.version < 0) return absl::InvalidArgumentError("a sync message with a negative version");
  if (type >= kMessageTypes) return absl::InvalidArgumentError(absl::StrCat("a sync message of unknown type ", type));
  message.type = static_cast<MessageType>(type);
  const std::optional<NodeId> id = NodeId::FromBinary(node_id);
  if (!id) {
    return absl::InvalidArgumentError(
        absl::StrCat("a sync message with a node id of ", node_id.size(), " bytes instead of ", kNodeIdBytes));
  }
  message.node_id = *id;
  return message;
}

std::string EncodeMessage(int64_t version, MessageType type, const NodeId& node_id, std::string_view payload) {
  std::string out;
  out.reserve(payload.size() + kNodeIdBytes + 24);
  AppendTag(kVersionField, Kind::kVarint, &out);
  AppendVarint(static_cast<uint64_t>(version), &out);
  if (type != MessageType::kResourceView) {
    AppendTag(kTypeField, Kind::kVarint, &out);
    AppendVarint(static_cast<uint64_t>(type), &out);
  }
  AppendBytes(kPayloadField, payload, &out);
  AppendBytes(kNodeIdField, node_id.view(), &out);
  return out;
}

// The last of several values counts, so a change is an addition at the end.
std::string WithVersion(std::string_view message, int64_t version) {
  std::string out(message);
  AppendTag(kVersionField, Kind::kVarint, &out);
  AppendVarint(static_cast<uint64_t>(version), &out);
  return out;
}

std::string WithPayload(std::string_view message, std::string_view payload) {
  std::string out(message);
  AppendBytes(kPayloadField, payload, &out);
  return out;
}

void AppendBatchEntry(std::string_view message, std::string* out) { AppendBytes(kMessagesField, message, out); }

void AppendRelayDigest(std::string_view digest, std::string* out) { AppendBytes(kRelayDigestField, digest, out); }

void AppendRepairRequest(uint64_t buckets, std::string* out) { AppendFixed64(kRepairRequestField, buckets, out); }

void AppendCompleteBuckets(uint64_t buckets, std::string* out) { AppendFixed64(kCompleteBucketsField, buckets, out); }

}  // namespace mantaray::syncer
