// Ids of objects, workers and nodes in Ray's form: 28 bytes, and all ones for nil.

#ifndef MANTARAY_COMMON_IDS_H_
#define MANTARAY_COMMON_IDS_H_

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mantaray {

// `Tag` only makes different kinds of ids different types.
template <typename Tag>
class Id {
 public:
  static constexpr size_t kBytes = 28;

  // A nil id.
  Id() { bytes_.fill(0xff); }

  // InvalidArgument unless there are exactly kBytes bytes.
  static absl::StatusOr<Id> FromBinary(absl::string_view binary) {
    if (binary.size() != kBytes) {
      return absl::InvalidArgumentError(absl::StrCat("an id has ", kBytes, " bytes, not ", binary.size()));
    }
    Id id;
    std::memcpy(id.bytes_.data(), binary.data(), kBytes);
    return id;
  }

  // The id number `number` of a test or a simulation; the number is its last eight bytes, most significant first.
  static Id FromNumber(uint64_t number) {
    Id id;
    id.bytes_.fill(0);
    for (size_t i = 0; i < 8; ++i) id.bytes_[kBytes - 1 - i] = static_cast<uint8_t>(number >> (8 * i));
    return id;
  }

  // The reverse of FromNumber.
  uint64_t Number() const {
    uint64_t number = 0;
    for (size_t i = kBytes - 8; i < kBytes; ++i) number = number << 8 | bytes_[i];
    return number;
  }

  bool IsNil() const { return *this == Id(); }
  absl::string_view Binary() const { return {reinterpret_cast<const char*>(bytes_.data()), kBytes}; }
  std::string Hex() const { return absl::BytesToHexString(Binary()); }

  auto operator<=>(const Id&) const = default;

  template <typename H>
  friend H AbslHashValue(H h, const Id& id) {
    // The bytes in which ids of one kind differ are random or count up, so folding four words is enough and fast.
    const auto word = [&id](size_t offset) {
      uint64_t value = 0;
      std::memcpy(&value, id.bytes_.data() + offset, sizeof(value));
      return value;
    };
    const auto fold = [](uint64_t a, uint64_t b) {
      __extension__ using Product = unsigned __int128;
      const Product product = Product{a} * b;
      return static_cast<uint64_t>(product >> 64) ^ static_cast<uint64_t>(product);
    };
    const uint64_t head = fold(word(0) ^ 0x9e3779b97f4a7c15, word(8) ^ 0xbf58476d1ce4e5b9);
    const uint64_t tail = fold(word(16) ^ 0x94d049bb133111eb, word(kBytes - 8) ^ 0xd6e8feb86659fd93);
    return H::combine(std::move(h), head ^ tail);
  }

 private:
  std::array<uint8_t, kBytes> bytes_;
};

using ObjectId = Id<struct ObjectIdTag>;
using WorkerId = Id<struct WorkerIdTag>;
using NodeId = Id<struct NodeIdTag>;

}  // namespace mantaray

#endif  // MANTARAY_COMMON_IDS_H_
