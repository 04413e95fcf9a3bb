// Parsing of payloads.

#include "mantaray/syncer/payload.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

namespace mantaray::syncer {
namespace {

using Kind = WireReader::Kind;

constexpr uint32_t kAvailableField = 1;
constexpr uint32_t kTotalField = 2;
constexpr uint32_t kIdleField = 4;
constexpr uint32_t kLabelsField = 8;
constexpr uint32_t kKeyField = 1;
constexpr uint32_t kValueField = 2;
constexpr std::string_view kObjectStoreMemory = "object_store_memory";

struct Resource {
  std::string_view name;
  double amount = 0;
  friend bool operator==(const Resource&, const Resource&) = default;
};

struct ResourceView {
  std::vector<Resource> available;  // without the object store
  double object_store_bytes = 0;
  int64_t idle_ms = 0;
  // Everything else, as it is on the wire, sorted: maps are written in no particular order.
  std::vector<std::pair<uint32_t, std::string_view>> others;
  std::vector<std::pair<uint32_t, uint64_t>> scalars;
};

std::optional<Resource> ParseResource(std::string_view entry) {
  Resource resource;
  WireReader reader(entry);
  WireReader::Field field;
  while (reader.Next(&field)) {
    if (field.number == kKeyField && field.kind == Kind::kBytes) {
      resource.name = field.bytes;
    } else if (field.number == kValueField && field.kind == Kind::kFixed64) {
      resource.amount = std::bit_cast<double>(field.value);
    } else {
      return std::nullopt;
    }
  }
  if (!reader.ok()) return std::nullopt;
  return resource;
}

bool ParseResourceView(std::string_view payload, ResourceView* view) {
  WireReader reader(payload);
  WireReader::Field field;
  while (reader.Next(&field)) {
    if (field.number == kAvailableField && field.kind == Kind::kBytes) {
      const std::optional<Resource> resource = ParseResource(field.bytes);
      if (!resource) return false;
      if (resource->name == kObjectStoreMemory) {
        view->object_store_bytes = resource->amount;
      } else {
        view->available.push_back(*resource);
      }
    } else if (field.number == kIdleField && field.kind == Kind::kVarint) {
      view->idle_ms = static_cast<int64_t>(field.value);
    } else if (field.kind == Kind::kBytes) {
      view->others.emplace_back(field.number, field.bytes);
    } else {
      view->scalars.emplace_back(field.number, field.value);
    }
  }
  if (!reader.ok()) return false;
  std::sort(view->available.begin(), view->available.end(),
            [](const Resource& a, const Resource& b) { return a.name < b.name; });
  std::sort(view->others.begin(), view->others.end());
  std::sort(view->scalars.begin(), view->scalars.end());
  return true;
}

// Whether a quantity moved by less than the threshold and neither left zero nor reached it.
bool MovedLittle(double from, double to, double threshold) {
  if ((from <= 0) != (to <= 0)) return false;
  return std::abs(to - from) < threshold;
}

bool HasKey(uint32_t field) { return field <= kTotalField || field == kLabelsField; }

bool IsWellFormed(std::string_view message) {
  WireReader reader(message);
  WireReader::Field field;
  while (reader.Next(&field)) {
  }
  return reader.ok();
}

}  // namespace

absl::Status CheckPayload(MessageType type, std::string_view payload) {
  bool sound = true;
  WireReader reader(payload);
  WireReader::Field field;
  while (sound && reader.Next(&field)) {
    const bool entry = type == MessageType::kResourceView && field.kind == Kind::kBytes && HasKey(field.number);
    sound = !entry || IsWellFormed(field.bytes);
  }
  if (!sound || !reader.ok()) return absl::InvalidArgumentError("a sync payload that is not well-formed");
  return absl::OkStatus();
}

bool IsNoise(std::string_view published, std::string_view now, const NoiseOptions& options) {
  ResourceView before;
  ResourceView after;
  if (!ParseResourceView(published, &before) || !ParseResourceView(now, &after)) return false;
  return before.available == after.available && before.others == after.others && before.scalars == after.scalars &&
         MovedLittle(before.object_store_bytes, after.object_store_bytes, options.object_store_bytes) &&
         MovedLittle(static_cast<double>(before.idle_ms), static_cast<double>(after.idle_ms),
                     static_cast<double>(options.idle_ms));
}

uint8_t ReadCommandFlags(std::string_view payload) {
  uint8_t flags = 0;
  WireReader reader(payload);
  WireReader::Field field;
  while (reader.Next(&field)) {
    if (field.kind != Kind::kVarint || field.number == 0 || field.number > std::size(kCommandFlags)) continue;
    const uint8_t flag = kCommandFlags[field.number - 1];
    flags = static_cast<uint8_t>(field.value != 0 ? flags | flag : flags & ~flag);
  }
  return reader.ok() ? flags : 0;
}

std::string WithCommandFlags(std::string_view payload, uint8_t flags) {
  std::string out(payload);
  for (size_t bit = 0; bit < std::size(kCommandFlags); ++bit) {
    if ((flags & kCommandFlags[bit]) == 0) continue;
    AppendVarint((bit + 1) << 3, &out);
    AppendVarint(1, &out);
  }
  return out;
}

}  // namespace mantaray::syncer
