// Reads sync messages for the models of the simulation, with a parser of its own. If the models read with the relay's
// parser, a fault of that parser would hide itself.
//
// Reads what honest senders write, as fast as a world of ten thousand nodes needs it. Pure.

#ifndef MANTARAY_SIM_SYNC_DECODER_H_
#define MANTARAY_SIM_SYNC_DECODER_H_

#include <cstdint>
#include <string_view>
#include <vector>

namespace mantaray::sim {

struct DecodedMessage {
  std::string_view bytes;
  uint64_t version = 0;
  uint64_t type = 0;
  std::string_view payload;
  std::string_view node_id;
};

struct DecodedFrame {
  bool well_formed = true;
  bool is_batch = false;
  std::vector<DecodedMessage> messages;
};

// Calls `visit(field number, number, bytes)` for each field; a field has either a number or bytes. Returns whether the
// message is well-formed.
template <typename Visit>
bool ForEachField(std::string_view left, Visit visit) {
  const auto varint = [&left](uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !left.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(left.front());
      left.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  };
  while (!left.empty()) {
    uint64_t tag = 0;
    uint64_t number = 0;
    std::string_view bytes;
    if (!varint(&tag)) return false;
    switch (tag & 7) {
      case 0:
        if (!varint(&number)) return false;
        break;
      case 1:
      case 5: {
        const size_t size = (tag & 7) == 1 ? 8 : 4;
        if (left.size() < size) return false;
        bytes = left.substr(0, size);
        left.remove_prefix(size);
        break;
      }
      case 2:
        if (!varint(&number) || left.size() < number) return false;
        bytes = left.substr(0, number);
        left.remove_prefix(number);
        break;
      default:
        return false;
    }
    visit(tag >> 3, number, bytes);
  }
  return true;
}

inline bool DecodeSyncMessage(std::string_view bytes, DecodedMessage* message) {
  message->bytes = bytes;
  return ForEachField(bytes, [message](uint64_t field, uint64_t number, std::string_view content) {
    if (field == 1) message->version = number;
    if (field == 2) message->type = number;
    if (field == 3) message->payload = content;
    if (field == 4) message->node_id = content;
  });
}

// A batch begins with a field of messages; a bare message never does.
inline DecodedFrame DecodeSyncFrame(std::string_view bytes) {
  DecodedFrame frame;
  frame.is_batch = !bytes.empty() && bytes.front() == '\x0a';
  const auto add = [&frame](std::string_view one) {
    frame.well_formed = DecodeSyncMessage(one, &frame.messages.emplace_back()) && frame.well_formed;
  };
  if (!frame.is_batch) {
    add(bytes);
    return frame;
  }
  const bool whole = ForEachField(bytes, [&add](uint64_t field, uint64_t, std::string_view content) {
    if (field == 1) add(content);
  });
  frame.well_formed = frame.well_formed && whole;
  return frame;
}

// The first two fields of a command's payload, as bits.
inline uint8_t DecodeCommandFlags(std::string_view payload) {
  uint8_t flags = 0;
  ForEachField(payload, [&flags](uint64_t field, uint64_t number, std::string_view) {
    if (field == 1 || field == 2) flags |= static_cast<uint8_t>(number != 0) << (field - 1);
  });
  return flags;
}

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_SYNC_DECODER_H_
