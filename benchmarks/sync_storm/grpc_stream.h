// One gRPC stream over an HTTP/2 connection of its own, as a client: what a raylet's sync stream is on the wire.
//
// No gRPC library, because the generator must cost little beside what it measures: this is the part of HTTP/2 (RFC
// 9113) that one client stream needs, with flow control in both directions. Response headers are not decoded (no
// dynamic table is offered, so nothing depends on them); of trailers the text is kept as the reason of the end.
//
// Pure: the caller moves bytes between this object and a socket. Not thread-safe.

#ifndef MANTARAY_BENCHMARKS_SYNC_STORM_GRPC_STREAM_H_
#define MANTARAY_BENCHMARKS_SYNC_STORM_GRPC_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mantaray::storm {

struct GrpcStreamOptions {
  std::string authority;
  std::string path;
  std::vector<std::pair<std::string, std::string>> metadata;
  // How many bytes the server may send before it has to wait for us.
  uint32_t window_bytes = 1 << 20;
};

class GrpcStream {
 public:
  explicit GrpcStream(const GrpcStreamOptions& options);

  // What is to be written to the connection; Written() takes it off.
  absl::string_view unwritten() const { return absl::string_view(out_).substr(out_at_); }
  void Written(size_t bytes);

  // Whether a message of this size may be sent now: the server's windows have room, and the last one was written out.
  bool CanSend(size_t message_bytes) const;
  // Adds a message to what is to be written. Call it only when CanSend().
  void Send(absl::string_view message);

  // Takes what was read from the connection, calls back for every whole message. An error ends the stream: Unavailable
  // when the server ended it, Internal when it broke the protocol, ResourceExhausted for a message beyond the limit.
  absl::Status Receive(absl::string_view data, absl::FunctionRef<void(absl::string_view)> on_message);

 private:
  static constexpr size_t kFrameHeaderBytes = 9;
  static constexpr size_t kMessageHeaderBytes = 5;

  void AppendFrame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload);
  void AppendWindowUpdate(uint32_t stream, uint32_t bytes);
  absl::Status StartFrame();
  absl::Status TakeData(absl::string_view data, absl::FunctionRef<void(absl::string_view)> on_message);
  absl::Status FinishFrame();
  absl::Status TakeSettings();
  void Consumed(size_t bytes);

  const uint32_t window_bytes_;
  std::string out_;
  size_t out_at_ = 0;
  int64_t send_window_ = 65'535;
  int64_t connection_send_window_ = 65'535;
  int64_t initial_send_window_ = 65'535;
  uint32_t max_frame_bytes_ = 16'384;
  uint32_t unacknowledged_ = 0;  // received, and not yet given back to the server as window

  // The frame that is being received.
  std::string header_;
  size_t frame_left_ = 0;
  uint8_t frame_type_ = 0;
  uint8_t frame_flags_ = 0;
  uint32_t frame_stream_ = 0;
  std::string control_;  // its payload, unless it is data

  // The message that is being received: what is there of its header and body.
  std::string message_header_;
  std::string message_;
  size_t message_bytes_ = 0;
};

}  // namespace mantaray::storm

#endif  // MANTARAY_BENCHMARKS_SYNC_STORM_GRPC_STREAM_H_
