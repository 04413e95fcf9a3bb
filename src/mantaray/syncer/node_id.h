// The id of a node: 28 bytes, as Ray has it.

#ifndef MANTARAY_SYNCER_NODE_ID_H_
#define MANTARAY_SYNCER_NODE_ID_H_

#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace mantaray::syncer {

inline constexpr size_t kNodeIdBytes = 28;

struct NodeId {
  std::array<char, kNodeIdBytes> bytes{};

  friend bool operator==(const NodeId&, const NodeId&) = default;
  friend auto operator<=>(const NodeId&, const NodeId&) = default;

  std::string_view view() const { return {bytes.data(), bytes.size()}; }
  std::string Hex() const { return absl::BytesToHexString(absl::string_view(bytes.data(), bytes.size())); }

  // Nothing unless `binary` has 28 bytes.
  static std::optional<NodeId> FromBinary(std::string_view binary) {
    if (binary.size() != kNodeIdBytes) return std::nullopt;
    NodeId id;
    std::memcpy(id.bytes.data(), binary.data(), kNodeIdBytes);
    return id;
  }

  // Nothing unless `hex` is 56 hexadecimal digits.
  static std::optional<NodeId> FromHex(std::string_view hex) {
    if (hex.size() != 2 * kNodeIdBytes) return std::nullopt;
    for (const char digit : hex) {
      const bool is_hex =
          (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f') || (digit >= 'A' && digit <= 'F');
      if (!is_hex) return std::nullopt;
    }
    return FromBinary(absl::HexStringToBytes(absl::string_view(hex.data(), hex.size())));
  }
};

// Mixes all bytes: ids come from the network and need not be random.
inline uint64_t MixNodeId(const NodeId& id, uint64_t seed) {
  uint64_t mixed = seed ^ 0x9e3779b97f4a7c15ULL;
  for (size_t at = 0; at < kNodeIdBytes; at += 7) {
    uint64_t word = 0;
    std::memcpy(&word, id.bytes.data() + at, 7);
    mixed = (mixed ^ word) * 0xff51afd7ed558ccdULL;
    mixed ^= mixed >> 32;
  }
  return mixed;
}

struct NodeIdHash {
  size_t operator()(const NodeId& id) const { return MixNodeId(id, 0); }
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_NODE_ID_H_
