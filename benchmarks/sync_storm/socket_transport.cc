// Sync streams over plain sockets and epoll; see transport.h and grpc_stream.h.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "benchmarks/sync_storm/grpc_stream.h"
#include "benchmarks/sync_storm/transport.h"

namespace mantaray::storm {
namespace {

constexpr size_t kReadBytes = 256 << 10;
// Few, so that what is due to be published is not late for long.
constexpr int kEvents = 16;

std::string ErrnoText(absl::string_view what) { return absl::StrCat(what, ": ", std::strerror(errno)); }

std::optional<sockaddr_in> Parse(absl::string_view target) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(target, absl::MaxSplits(':', 1));
  sockaddr_in address{};
  uint32_t port = 0;
  address.sin_family = AF_INET;
  if (inet_pton(AF_INET, parts.first.c_str(), &address.sin_addr) != 1) return std::nullopt;
  if (!absl::SimpleAtoi(parts.second, &port) || port > 65'535) return std::nullopt;
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

class SocketTransport : public Transport {
 public:
  explicit SocketTransport(TransportOptions options) : options_(std::move(options)), buffer_(kReadBytes) {}
  SocketTransport(const SocketTransport&) = delete;
  SocketTransport& operator=(const SocketTransport&) = delete;
  ~SocketTransport() override {
    for (const Connection& connection : connections_) close(connection.fd);
    if (epoll_ >= 0) close(epoll_);
  }

  std::string Start() override;
  bool CanSend(uint32_t node, size_t bytes) const override {
    const Connection& connection = connections_[node];
    return !connection.waits_for_room && connection.stream->CanSend(bytes);
  }
  void Send(uint32_t node, const std::string& message) override {
    connections_[node].stream->Send(message);
    // An error shows again when the connection is polled.
    Flush(node);
  }
  std::string Poll(int wait_ms, Listener* listener) override;
  uint64_t received_bytes() const override { return received_bytes_; }

 private:
  struct Connection {
    int fd = -1;
    bool waits_for_room = true;  // epoll is asked for writability; first, until it is connected
    std::unique_ptr<GrpcStream> stream;
  };

  std::string Open(uint32_t node, const sockaddr_in& address);
  std::string Flush(uint32_t node);
  std::string Read(uint32_t node, Listener* listener);
  std::string Handle(uint32_t node, uint32_t events, Listener* listener);

  const TransportOptions options_;
  std::vector<char> buffer_;
  int epoll_ = -1;
  uint64_t received_bytes_ = 0;
  std::vector<Connection> connections_;
};

std::string SocketTransport::Start() {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return ErrnoText("epoll_create1");
  std::vector<sockaddr_in> addresses;
  for (const std::string& target : options_.targets) {
    const std::optional<sockaddr_in> address = Parse(target);
    if (!address) return absl::StrCat("'", target, "' is not ADDRESS:PORT with a numeric IPv4 address");
    addresses.push_back(*address);
  }
  for (uint32_t node = 0; node < options_.node_ids.size(); ++node) {
    if (std::string error = Open(node, addresses[node % addresses.size()]); !error.empty()) return error;
  }
  return "";
}

std::string SocketTransport::Open(uint32_t node, const sockaddr_in& address) {
  GrpcStreamOptions stream;
  stream.authority = options_.targets[node % options_.targets.size()];
  stream.path = kSyncMethod;
  stream.metadata.emplace_back("node_id", options_.node_ids[node]);
  if (!options_.token.empty()) stream.metadata.emplace_back("authorization", "Bearer " + options_.token);
  stream.window_bytes = options_.window_bytes;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoText("socket");
  Connection& connection = connections_.emplace_back();
  connection.fd = fd;
  connection.stream = std::make_unique<GrpcStream>(stream);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 && errno != EINPROGRESS) {
    return ErrnoText("connect");
  }
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT;
  event.data.u32 = node;
  return epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0 ? "" : ErrnoText("epoll_ctl");
}

std::string SocketTransport::Poll(int wait_ms, Listener* listener) {
  epoll_event events[kEvents];
  const int ready = epoll_wait(epoll_, events, kEvents, wait_ms);
  if (ready < 0 && errno != EINTR) return ErrnoText("epoll_wait");
  for (int at = 0; at < ready; ++at) {
    const uint32_t node = events[at].data.u32;
    if (std::string error = Handle(node, events[at].events, listener); !error.empty()) {
      return absl::StrCat("node ", node, ": ", error);
    }
  }
  return "";
}

std::string SocketTransport::Handle(uint32_t node, uint32_t events, Listener* listener) {
  if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) {
    if (std::string error = Read(node, listener); !error.empty()) return error;
  }
  // There may be windows to give back, and what was read may have made room.
  if (std::string error = Flush(node); !error.empty()) return error;
  listener->OnRoom(node);
  return "";
}

std::string SocketTransport::Flush(uint32_t node) {
  Connection& connection = connections_[node];
  while (!connection.stream->unwritten().empty()) {
    const absl::string_view data = connection.stream->unwritten();
    const ssize_t written = send(connection.fd, data.data(), data.size(), MSG_NOSIGNAL);
    if (written < 0) {
      if (errno != EAGAIN && errno != ENOTCONN) return ErrnoText("send");
      break;
    }
    connection.stream->Written(static_cast<size_t>(written));
  }
  const bool waits = !connection.stream->unwritten().empty();
  if (waits == connection.waits_for_room) return "";
  connection.waits_for_room = waits;
  epoll_event event{};
  event.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.u32 = node;
  return epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd, &event) == 0 ? "" : ErrnoText("epoll_ctl");
}

std::string SocketTransport::Read(uint32_t node, Listener* listener) {
  Connection& connection = connections_[node];
  const ssize_t got = recv(connection.fd, buffer_.data(), buffer_.size(), 0);
  if (got == 0) return "the server closed the connection";
  if (got < 0) return errno == EAGAIN ? "" : ErrnoText("recv");
  received_bytes_ += static_cast<uint64_t>(got);
  const absl::Status status =
      connection.stream->Receive(absl::string_view(buffer_.data(), static_cast<size_t>(got)),
                                 [&](absl::string_view message) { listener->OnMessage(node, message); });
  return status.ok() ? "" : std::string(status.message());
}

}  // namespace

std::unique_ptr<Transport> MakeSocketTransport(TransportOptions options) {
  return std::make_unique<SocketTransport>(std::move(options));
}

}  // namespace mantaray::storm
