// See sync_messages.h.

#include "benchmarks/sync_storm/sync_messages.h"

#include <cstring>
#include <initializer_list>

#include "absl/strings/str_cat.h"

namespace mantaray::storm {
namespace {

constexpr char kBatchTag = 0x0a;         // field 1, length-delimited
constexpr char kIdleDurationTag = 0x20;  // field 4 of ResourceViewSyncMessage, varint

void AppendVarint(uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

void AppendBytes(char tag, absl::string_view bytes, std::string* out) {
  out->push_back(tag);
  AppendVarint(bytes.size(), out);
  out->append(bytes.data(), bytes.size());
}

void AppendResource(char map_tag, absl::string_view name, double quantity, std::string* out) {
  std::string entry;
  AppendBytes(0x0a, name, &entry);
  entry.push_back(0x11);  // field 2, 64 bits
  char bits[sizeof(quantity)];
  std::memcpy(bits, &quantity, sizeof(quantity));
  entry.append(bits, sizeof(bits));
  AppendBytes(map_tag, entry, out);
}

// Reads a varint from the front of `data` and removes it; false when there is none.
inline bool TakeVarint(absl::string_view* data, uint64_t* value) {
  uint64_t result = 0;
  for (size_t at = 0; at < data->size() && at < 10; ++at) {
    const auto byte = static_cast<uint8_t>((*data)[at]);
    result |= static_cast<uint64_t>(byte & 0x7f) << (7 * at);
    if (byte < 0x80) {
      data->remove_prefix(at + 1);
      *value = result;
      return true;
    }
  }
  return false;
}

inline bool TakeBytes(absl::string_view* data, absl::string_view* bytes) {
  uint64_t size = 0;
  if (!TakeVarint(data, &size) || size > data->size()) return false;
  *bytes = data->substr(0, size);
  data->remove_prefix(size);
  return true;
}

bool Skip(uint64_t tag, absl::string_view* data) {
  uint64_t number = 0;
  absl::string_view bytes;
  switch (tag & 7) {
    case 0:
      return TakeVarint(data, &number);
    case 2:
      return TakeBytes(data, &bytes);
    case 1:
    case 5: {
      const size_t width = (tag & 7) == 1 ? 8 : 4;
      if (data->size() < width) return false;
      data->remove_prefix(width);
      return true;
    }
    default:
      return false;
  }
}

bool DecodeOne(absl::string_view data, SyncMessage* message) {
  while (!data.empty()) {
    uint64_t tag = 0;
    bool read = TakeVarint(&data, &tag);
    if (!read) return false;
    switch (tag) {
      case 0x08:
        read = TakeVarint(&data, &message->version);
        break;
      case 0x10:
        read = TakeVarint(&data, &message->type);
        break;
      case 0x1a:
        read = TakeBytes(&data, &message->payload);
        break;
      case 0x22:
        read = TakeBytes(&data, &message->node_id);
        break;
      default:
        read = Skip(tag, &data);
    }
    if (!read) return false;
  }
  return true;
}

}  // namespace

std::string NodeId(uint32_t index, uint64_t seed) {
  std::string id(kNodeIdBytes, '\0');
  std::memcpy(id.data(), &index, sizeof(index));
  uint64_t state = seed * 0x9e3779b97f4a7c15ULL + index + 1;
  for (size_t at = sizeof(index); at < kNodeIdBytes; ++at) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    id[at] = static_cast<char>(state >> 56);
  }
  return id;
}

uint32_t NodeIndex(absl::string_view node_id) {
  uint32_t index = UINT32_MAX;
  if (node_id.size() == kNodeIdBytes) std::memcpy(&index, node_id.data(), sizeof(index));
  return index;
}

bool IsMaterial(uint32_t index, uint64_t sequence, uint32_t material_every) {
  return (sequence + index) % material_every == 0;
}

std::string Payload(uint32_t index, uint64_t sequence, size_t padding_bytes, uint32_t material_every) {
  std::string payload(1, kIdleDurationTag);
  AppendVarint(sequence, &payload);
  const std::string address = absl::StrCat("node:10.", index >> 16, ".", (index >> 8) & 255, ".", index & 255);
  const auto free_cpus = static_cast<double>((sequence + index) / material_every % 64);
  for (const char map_tag : {0x0a, 0x12}) {
    const bool total = map_tag == 0x12;
    AppendResource(map_tag, "CPU", total ? 64.0 : free_cpus, &payload);
    AppendResource(map_tag, "memory", 256e9, &payload);
    AppendResource(map_tag, "object_store_memory", total ? 64e9 : 64e9 - static_cast<double>(sequence), &payload);
    AppendResource(map_tag, address, 1.0, &payload);
  }
  if (padding_bytes > 0) AppendBytes(0x3a, std::string(padding_bytes, 'a'), &payload);  // field 7, node_activity
  return payload;
}

uint64_t PayloadSequence(absl::string_view payload) {
  uint64_t sequence = 0;
  if (payload.empty() || payload.front() != kIdleDurationTag) return 0;
  payload.remove_prefix(1);
  return TakeVarint(&payload, &sequence) ? sequence : 0;
}

std::string Encode(Dialect dialect, uint64_t version, absl::string_view payload, absl::string_view node_id) {
  std::string message(1, 0x08);
  AppendVarint(version, &message);
  AppendBytes(0x1a, payload, &message);
  AppendBytes(0x22, node_id, &message);
  if (dialect == Dialect::kBare) return message;
  std::string batch;
  AppendBytes(kBatchTag, message, &batch);
  return batch;
}

bool Decode(absl::string_view data, absl::FunctionRef<void(const SyncMessage&)> on_message) {
  if (data.empty()) return false;
  const bool batch = data.front() == kBatchTag;
  do {
    absl::string_view one = data;
    if (batch) {
      data.remove_prefix(1);
      if (!TakeBytes(&data, &one)) return false;
    }
    SyncMessage message;
    if (!DecodeOne(one, &message)) return false;
    on_message(message);
  } while (batch && !data.empty() && data.front() == kBatchTag);
  return !batch || data.empty();
}

}  // namespace mantaray::storm
