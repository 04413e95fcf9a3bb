// HTTP/2 and gRPC by hand for clients that make unary calls, as far as worker_calls.cc needs them.

#ifndef MANTARAY_BENCHMARKS_SYNC_STORM_CALLS_WIRE_H_
#define MANTARAY_BENCHMARKS_SYNC_STORM_CALLS_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mantaray::storm {

inline constexpr uint8_t kData = 0;
inline constexpr uint8_t kHeaders = 1;
inline constexpr uint8_t kReset = 3;
inline constexpr uint8_t kSettings = 4;
inline constexpr uint8_t kPing = 6;
inline constexpr uint8_t kWindowUpdate = 8;
inline constexpr uint8_t kAck = 1;
inline constexpr uint8_t kEndStream = 1;
inline constexpr uint8_t kEndHeaders = 4;
inline constexpr size_t kFrameHeaderBytes = 9;
inline constexpr size_t kMessageHeaderBytes = 5;

inline std::string BigEndian(uint64_t value, int bytes) {
  std::string text;
  for (int at = bytes - 1; at >= 0; --at) text.push_back(static_cast<char>(value >> (8 * at)));
  return text;
}

inline std::string FrameOf(uint8_t kind, uint8_t flags, uint32_t stream, const std::string& payload) {
  return BigEndian(payload.size(), 3) + BigEndian(kind, 1) + BigEndian(flags, 1) + BigEndian(stream, 4) + payload;
}

// A header as HPACK has it without an index and without compression. Both texts are shorter than 127 bytes.
inline std::string Header(const std::string& name, const std::string& value) {
  return std::string(1, '\0') + static_cast<char>(name.size()) + name + static_cast<char>(value.size()) + value;
}

// What a client sends first: it takes as much as there is.
inline std::string Opening() {
  const std::string window = BigEndian(4, 2) + BigEndian(INT32_MAX, 4);
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + FrameOf(kSettings, 0, 0, window) +
         FrameOf(kWindowUpdate, 0, 0, BigEndian(INT32_MAX - 65'535, 4));
}

inline std::string Request(uint32_t stream, const std::string& method, const std::string& message) {
  const std::string headers = Header(":method", "POST") + Header(":scheme", "http") + Header(":path", method) +
                              Header(":authority", "gcs") + Header("te", "trailers") +
                              Header("content-type", "application/grpc");
  const std::string data = BigEndian(0, 1) + BigEndian(message.size(), 4) + message;
  return FrameOf(kHeaders, kEndHeaders, stream, headers) + FrameOf(kData, kEndStream, stream, data);
}

// A field of protobuf with a length: bytes, a string or a message. Shorter than 16 kB.
inline std::string Field(int number, std::string_view content) {
  std::string text(1, static_cast<char>(number << 3 | 2));
  if (content.size() >= 128) text.push_back(static_cast<char>((content.size() & 127) | 128));
  text.push_back(static_cast<char>(content.size() >= 128 ? content.size() >> 7 : content.size()));
  return text.append(content);
}

// A field of protobuf with a number below 2^21. Its own number is below 16.
inline std::string Field(int number, uint32_t value) {
  std::string text(1, static_cast<char>(number << 3));
  while (value >= 128) {
    text.push_back(static_cast<char>((value & 127) | 128));
    value >>= 7;
  }
  text.push_back(static_cast<char>(value));
  return text;
}

}  // namespace mantaray::storm

#endif  // MANTARAY_BENCHMARKS_SYNC_STORM_CALLS_WIRE_H_
