// See grpc_stream.h.

#include "benchmarks/sync_storm/grpc_stream.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace mantaray::storm {
namespace {

constexpr absl::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr uint32_t kStream = 1;
constexpr size_t kMaxMessageBytes = 512 << 20;
constexpr size_t kMaxControlBytes = 1 << 16;

enum FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kResetStream = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
};
constexpr uint8_t kEndStream = 0x1;
constexpr uint8_t kAck = 0x1;
constexpr uint8_t kEndHeaders = 0x4;
constexpr uint8_t kPadded = 0x8;

enum Setting : uint16_t { kHeaderTableSize = 1, kEnablePush = 2, kInitialWindowSize = 4, kMaxFrameSize = 5 };

void AppendBigEndian(uint64_t value, int bytes, std::string* out) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out->push_back(static_cast<char>(value >> shift));
}

uint32_t BigEndian(absl::string_view bytes) {
  uint32_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

void AppendSetting(Setting name, uint32_t value, std::string* out) {
  AppendBigEndian(name, 2, out);
  AppendBigEndian(value, 4, out);
}

// A length of HPACK with a 7-bit prefix and no Huffman coding.
void AppendHpackString(absl::string_view text, std::string* out) {
  if (text.size() < 127) {
    out->push_back(static_cast<char>(text.size()));
  } else {
    out->push_back(127);
    size_t rest = text.size() - 127;
    for (; rest >= 128; rest >>= 7) out->push_back(static_cast<char>(rest | 128));
    out->push_back(static_cast<char>(rest));
  }
  out->append(text.data(), text.size());
}

// Every header as a literal that enters no table.
std::string RequestHeaders(const GrpcStreamOptions& options) {
  std::string block = "\x83\x86";  // static table: POST, http
  block.push_back(0x04);           // :path
  AppendHpackString(options.path, &block);
  block.push_back(0x01);  // :authority
  AppendHpackString(options.authority, &block);
  std::vector<std::pair<std::string, std::string>> headers = {
      {"te", "trailers"}, {"content-type", "application/grpc"}, {"user-agent", "mantaray-sync-storm"}};
  headers.insert(headers.end(), options.metadata.begin(), options.metadata.end());
  for (const auto& [name, value] : headers) {
    block.push_back(0x00);
    AppendHpackString(name, &block);
    AppendHpackString(value, &block);
  }
  return block;
}

// What can be read of a block of headers or of debug data.
std::string Readable(absl::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text.push_back(absl::ascii_isprint(static_cast<unsigned char>(byte)) ? byte : ' ');
  return text;
}

}  // namespace

GrpcStream::GrpcStream(const GrpcStreamOptions& options) : window_bytes_(options.window_bytes), out_(kPreface) {
  std::string settings;
  AppendSetting(kHeaderTableSize, 0, &settings);
  AppendSetting(kEnablePush, 0, &settings);
  AppendSetting(kInitialWindowSize, window_bytes_, &settings);
  AppendFrame(kSettings, 0, 0, settings);
  if (window_bytes_ > 65'535) AppendWindowUpdate(0, window_bytes_ - 65'535);
  AppendFrame(kHeaders, kEndHeaders, kStream, RequestHeaders(options));
}

void GrpcStream::Written(size_t bytes) {
  out_at_ += bytes;
  if (out_at_ == out_.size()) {
    out_.clear();
    out_at_ = 0;
  }
}

bool GrpcStream::CanSend(size_t message_bytes) const {
  const auto needed = static_cast<int64_t>(message_bytes + kMessageHeaderBytes);
  return out_.empty() && std::min(send_window_, connection_send_window_) >= needed;
}

void GrpcStream::Send(absl::string_view message) {
  std::string data(1, '\0');  // not compressed
  AppendBigEndian(message.size(), 4, &data);
  data.append(message.data(), message.size());
  send_window_ -= static_cast<int64_t>(data.size());
  connection_send_window_ -= static_cast<int64_t>(data.size());
  for (absl::string_view rest = data; !rest.empty();
       rest.remove_prefix(std::min<size_t>(rest.size(), max_frame_bytes_))) {
    AppendFrame(kData, 0, kStream, rest.substr(0, max_frame_bytes_));
  }
}

absl::Status GrpcStream::Receive(absl::string_view data, absl::FunctionRef<void(absl::string_view)> on_message) {
  while (!data.empty()) {
    if (header_.size() < kFrameHeaderBytes) {
      const size_t taken = std::min(kFrameHeaderBytes - header_.size(), data.size());
      header_.append(data.data(), taken);
      data.remove_prefix(taken);
      if (header_.size() < kFrameHeaderBytes) break;
      if (absl::Status status = StartFrame(); !status.ok()) return status;
    }
    const absl::string_view part = data.substr(0, frame_left_);
    data.remove_prefix(part.size());
    frame_left_ -= part.size();
    if (frame_type_ == kData) {
      if (absl::Status status = TakeData(part, on_message); !status.ok()) return status;
    } else {
      control_.append(part.data(), part.size());
    }
    if (frame_left_ > 0) break;
    if (absl::Status status = FinishFrame(); !status.ok()) return status;
    header_.clear();
  }
  return absl::OkStatus();
}

absl::Status GrpcStream::StartFrame() {
  const absl::string_view header = header_;
  frame_left_ = BigEndian(header.substr(0, 3));
  frame_type_ = static_cast<uint8_t>(header[3]);
  frame_flags_ = static_cast<uint8_t>(header[4]);
  frame_stream_ = BigEndian(header.substr(5, 4)) & 0x7fffffff;
  control_.clear();
  if (frame_type_ != kData && frame_left_ > kMaxControlBytes) return absl::InternalError("a control frame too long");
  if (frame_type_ == kData && (frame_flags_ & kPadded) != 0) return absl::InternalError("padded data");
  return absl::OkStatus();
}

absl::Status GrpcStream::TakeData(absl::string_view data, absl::FunctionRef<void(absl::string_view)> on_message) {
  Consumed(data.size());
  while (!data.empty()) {
    if (message_header_.size() < kMessageHeaderBytes) {
      const size_t taken = std::min(kMessageHeaderBytes - message_header_.size(), data.size());
      message_header_.append(data.data(), taken);
      data.remove_prefix(taken);
      if (message_header_.size() < kMessageHeaderBytes) break;
      if (message_header_[0] != 0) return absl::InternalError("a compressed message");
      message_bytes_ = BigEndian(absl::string_view(message_header_).substr(1));
      if (message_bytes_ > kMaxMessageBytes) return absl::ResourceExhaustedError("a message too long");
      message_.clear();
    }
    // Most messages lie whole in what was read: those are not copied.
    absl::string_view whole = data.substr(0, message_bytes_ - message_.size());
    data.remove_prefix(whole.size());
    if (!message_.empty() || whole.size() < message_bytes_) {
      message_.append(whole.data(), whole.size());
      if (message_.size() < message_bytes_) break;
      whole = message_;
    }
    on_message(whole);
    message_header_.clear();
    message_.clear();
  }
  return absl::OkStatus();
}

absl::Status GrpcStream::FinishFrame() {
  switch (frame_type_) {
    case kHeaders:
      if ((frame_flags_ & kEndStream) != 0) {
        return absl::UnavailableError(absl::StrCat("the server ended the stream:", Readable(control_)));
      }
      break;
    case kData:
      if ((frame_flags_ & kEndStream) != 0) return absl::UnavailableError("the server ended the stream");
      break;
    case kResetStream:
      return absl::UnavailableError(absl::StrCat("the server reset the stream, error ", BigEndian(control_)));
    case kGoAway:
      return absl::UnavailableError(absl::StrCat("the server goes away:", Readable(control_)));
    case kSettings:
      return TakeSettings();
    case kPing:
      if ((frame_flags_ & kAck) == 0) AppendFrame(kPing, kAck, 0, control_);
      break;
    case kWindowUpdate:
      if (control_.size() != 4) return absl::InternalError("a window update of a wrong length");
      (frame_stream_ == 0 ? connection_send_window_ : send_window_) += BigEndian(control_) & 0x7fffffff;
      break;
    default:
      break;
  }
  return absl::OkStatus();
}

absl::Status GrpcStream::TakeSettings() {
  if ((frame_flags_ & kAck) != 0) return absl::OkStatus();
  if (control_.size() % 6 != 0) return absl::InternalError("settings of a wrong length");
  for (absl::string_view rest = control_; !rest.empty(); rest.remove_prefix(6)) {
    const uint32_t value = BigEndian(rest.substr(2, 4));
    switch (BigEndian(rest.substr(0, 2))) {
      case kInitialWindowSize:
        send_window_ += static_cast<int64_t>(value) - initial_send_window_;
        initial_send_window_ = value;
        break;
      case kMaxFrameSize:
        max_frame_bytes_ = std::max<uint32_t>(value, 16'384);
        break;
      default:
        break;
    }
  }
  AppendFrame(kSettings, kAck, 0, "");
  return absl::OkStatus();
}

void GrpcStream::Consumed(size_t bytes) {
  unacknowledged_ += bytes;
  if (unacknowledged_ < window_bytes_ / 2) return;
  AppendWindowUpdate(0, unacknowledged_);
  AppendWindowUpdate(kStream, unacknowledged_);
  unacknowledged_ = 0;
}

void GrpcStream::AppendFrame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  AppendBigEndian(payload.size(), 3, &out_);
  out_.push_back(static_cast<char>(type));
  out_.push_back(static_cast<char>(flags));
  AppendBigEndian(stream, 4, &out_);
  out_.append(payload.data(), payload.size());
}

void GrpcStream::AppendWindowUpdate(uint32_t stream, uint32_t bytes) {
  std::string payload;
  AppendBigEndian(bytes, 4, &payload);
  AppendFrame(kWindowUpdate, 0, stream, payload);
}

}  // namespace mantaray::storm
