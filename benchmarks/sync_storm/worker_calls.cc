// The calls that processes of Ray make to the GCS besides the sync streams: a long poll each, which waits, and look-ups
// at a steady rate. Speaks HTTP/2 by hand over plain sockets, so that thousands of processes cost little beside what is
// measured.
//
//   worker_calls ADDRESS:PORT[,ADDRESS:PORT...] PUBSUB_SERVICE PROCESSES CALLS_PER_S
//
// Every process has a connection of its own to one of the addresses. Prints "ready" when all long polls were sent. Then
// it makes calls until standard input ends. Prints JSON: how many calls were answered, how many failed, how long they
// took from when each was due, and how many long polls still wait.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/sync_storm/histogram.h"

namespace {

using Clock = std::chrono::steady_clock;

// What workers, agents and the dashboard ask for most.
constexpr std::array<const char*, 3> kLookUps = {"/ray.rpc.NodeInfoGcsService/CheckAlive",
                                                 "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
                                                 "/ray.rpc.JobInfoGcsService/GetAllJobInfo"};
constexpr uint8_t kData = 0;
constexpr uint8_t kHeaders = 1;
constexpr uint8_t kReset = 3;
constexpr uint8_t kSettings = 4;
constexpr uint8_t kPing = 6;
constexpr uint8_t kWindowUpdate = 8;
constexpr uint8_t kAck = 1;
constexpr uint8_t kEndStream = 1;
constexpr uint8_t kEndHeaders = 4;
constexpr size_t kFrameHeaderBytes = 9;
constexpr size_t kMessageHeaderBytes = 5;

std::string BigEndian(uint64_t value, int bytes) {
  std::string text;
  for (int at = bytes - 1; at >= 0; --at) text.push_back(static_cast<char>(value >> (8 * at)));
  return text;
}

std::string FrameOf(uint8_t kind, uint8_t flags, uint32_t stream, const std::string& payload) {
  return BigEndian(payload.size(), 3) + BigEndian(kind, 1) + BigEndian(flags, 1) + BigEndian(stream, 4) + payload;
}

// A header as HPACK has it without an index and without compression. Both texts are shorter than 127 bytes.
std::string Header(const std::string& name, const std::string& value) {
  return std::string(1, '\0') + static_cast<char>(name.size()) + name + static_cast<char>(value.size()) + value;
}

std::string Opening() {
  const std::string window = BigEndian(4, 2) + BigEndian(INT32_MAX, 4);
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + FrameOf(kSettings, 0, 0, window) +
         FrameOf(kWindowUpdate, 0, 0, BigEndian(INT32_MAX - 65'535, 4));
}

std::string Request(uint32_t stream, const std::string& method, const std::string& message) {
  const std::string headers = Header(":method", "POST") + Header(":scheme", "http") + Header(":path", method) +
                              Header(":authority", "gcs") + Header("te", "trailers") +
                              Header("content-type", "application/grpc");
  const std::string data = BigEndian(0, 1) + BigEndian(message.size(), 4) + message;
  return FrameOf(kHeaders, kEndHeaders, stream, headers) + FrameOf(kData, kEndStream, stream, data);
}

// The request of a long poll: a subscriber with an id of 28 bytes.
std::string Subscriber(uint32_t process) {
  std::string id = "worker" + BigEndian(process, 22);
  return std::string("\x0a") + static_cast<char>(id.size()) + id;
}

class Processes {
 public:
  // Args: `pubsub`: the service at which they wait; releases of Ray call it differently.
  Processes(const std::vector<sockaddr_in>& addresses, const std::string& pubsub, uint32_t count)
      : poll_method_("/ray.rpc." + pubsub + "/GcsSubscriberPoll"), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    for (uint32_t process = 0; process < count; ++process) Open(process, addresses[process % addresses.size()]);
  }
  ~Processes() {
    for (const Connection& connection : connections_) close(connection.socket);
    close(epoll_);
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // Makes the next look-up; it counts from when it was due.
  void Call(Clock::time_point due) {
    Connection& connection = connections_[next_ % connections_.size()];
    const uint32_t stream = connection.next_stream;
    connection.next_stream += 2;
    connection.calls[stream] = {due, false};
    connection.unwritten += Request(stream, kLookUps[next_ % kLookUps.size()], "");
    Flush(&connection);
    ++next_;
  }

  // Reads for at most so many milliseconds.
  void Poll(int wait_ms) {
    std::array<epoll_event, 64> events;
    const int ready = epoll_wait(epoll_, events.data(), events.size(), wait_ms);
    for (int at = 0; at < ready; ++at) {
      Connection& connection = connections_[events[at].data.u32];
      Read(&connection);
      Flush(&connection);
    }
  }

  void Print(double seconds) const {
    size_t waiting = 0;
    size_t unanswered = 0;
    for (const Connection& connection : connections_) {
      waiting += connection.poll_waits ? 1 : 0;
      unanswered += connection.calls.size();
    }
    std::printf(
        "{\"calls\": %llu, \"calls_failed\": %llu, \"calls_unanswered\": %zu, \"calls_per_s\": %.1f, "
        "\"call_p50_ms\": %.3f, \"call_p99_ms\": %.3f, \"polls_waiting\": %zu}\n",
        static_cast<unsigned long long>(took_.total()), static_cast<unsigned long long>(failed_), unanswered,
        static_cast<double>(took_.total()) / seconds, static_cast<double>(took_.Quantile(0.5)) / 1e3,
        static_cast<double>(took_.Quantile(0.99)) / 1e3, waiting);
  }

 private:
  struct Waiting {
    Clock::time_point due;
    bool has_answer = false;
  };
  struct Connection {
    int socket = -1;
    uint32_t next_stream = 3;
    bool poll_waits = true;  // on stream 1
    std::map<uint32_t, Waiting> calls;
    std::string unwritten;
    std::string unread;
  };

  void Open(uint32_t process, const sockaddr_in& address) {
    Connection& connection = connections_.emplace_back();
    connection.socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(connection.socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      std::fprintf(stderr, "worker_calls: cannot connect: %s\n", std::strerror(errno));
      std::exit(1);
    }
    const int on = 1;
    setsockopt(connection.socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = process;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, connection.socket, &event);
    connection.unwritten = Opening() + Request(1, poll_method_, Subscriber(process));
    Flush(&connection);
  }

  // What does not fit into the socket now is written with what follows.
  void Flush(Connection* connection) {
    if (connection->unwritten.empty()) return;
    const ssize_t count = send(connection->socket, connection->unwritten.data(), connection->unwritten.size(),
                               MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) connection->unwritten.erase(0, static_cast<size_t>(count));
  }

  void Read(Connection* connection) {
    std::array<char, 64 << 10> buffer;
    const ssize_t count = recv(connection->socket, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count <= 0) {
      if (count < 0 && errno == EAGAIN) return;
      epoll_ctl(epoll_, EPOLL_CTL_DEL, connection->socket, nullptr);
      failed_ += connection->calls.size();
      connection->calls.clear();
      connection->poll_waits = false;
      return;
    }
    connection->unread.append(buffer.data(), static_cast<size_t>(count));
    std::string_view left = connection->unread;
    while (left.size() >= kFrameHeaderBytes) {
      const auto byte = [left](size_t at) { return static_cast<uint8_t>(left[at]); };
      const size_t size = byte(0) << 16 | byte(1) << 8 | byte(2);
      if (left.size() < kFrameHeaderBytes + size) break;
      const uint32_t stream = (byte(5) & 0x7f) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8);
      OnFrame(connection, byte(3), byte(4), stream, left.substr(kFrameHeaderBytes, size));
      left.remove_prefix(kFrameHeaderBytes + size);
    }
    connection->unread.erase(0, connection->unread.size() - left.size());
  }

  void OnFrame(Connection* connection, uint8_t kind, uint8_t flags, uint32_t stream, std::string_view payload) {
    if (kind == kSettings && (flags & kAck) == 0) connection->unwritten += FrameOf(kSettings, kAck, 0, "");
    if (kind == kPing && (flags & kAck) == 0) connection->unwritten += FrameOf(kPing, kAck, 0, std::string(payload));
    if (kind == kData && !payload.empty()) GiveBackWindow(connection, payload.size());
    const auto call = connection->calls.find(stream);
    // An answer without a message is an error.
    if (call != connection->calls.end() && kind == kData && payload.size() >= kMessageHeaderBytes) {
      call->second.has_answer = true;
    }
    const bool ends = kind == kReset || ((kind == kData || kind == kHeaders) && (flags & kEndStream) != 0);
    if (!ends) return;
    if (stream == 1) connection->poll_waits = false;
    if (call == connection->calls.end()) return;
    if (call->second.has_answer) {
      took_.Add(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - call->second.due).count());
    } else {
      ++failed_;
    }
    connection->calls.erase(call);
  }

  static void GiveBackWindow(Connection* connection, size_t bytes) {
    connection->unwritten += FrameOf(kWindowUpdate, 0, 0, BigEndian(bytes, 4));
  }

  const std::string poll_method_;
  int epoll_;
  std::deque<Connection> connections_;
  size_t next_ = 0;
  uint64_t failed_ = 0;
  mantaray::storm::Histogram took_;
};

std::vector<sockaddr_in> Addresses(const std::string& text) {
  std::vector<sockaddr_in> addresses;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string one = text.substr(at, end - at);
    const size_t colon = one.rfind(':');
    sockaddr_in address{};
    address.sin_family = AF_INET;
    if (colon == std::string::npos || inet_pton(AF_INET, one.substr(0, colon).c_str(), &address.sin_addr) != 1) {
      std::fprintf(stderr, "worker_calls: '%s' is not ADDRESS:PORT with a numeric IPv4 address\n", one.c_str());
      std::exit(2);
    }
    address.sin_port = htons(static_cast<uint16_t>(std::atoi(one.c_str() + colon + 1)));
    addresses.push_back(address);
    at = end + 1;
  }
  return addresses;
}

bool InputHasEnded() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  char byte = 0;
  return ::poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) == 0;
}

int Main(char** argv) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  Processes processes(Addresses(argv[1]), argv[2], static_cast<uint32_t>(std::atoi(argv[3])));
  std::puts("ready");
  std::fflush(stdout);
  const double calls_per_s = std::atof(argv[4]);
  const auto began = Clock::now();
  uint64_t sent = 0;
  while (!InputHasEnded()) {
    const auto due =
        began + std::chrono::nanoseconds(static_cast<int64_t>(1e9 * static_cast<double>(sent) / calls_per_s));
    const auto left_ms = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now()).count();
    if (left_ms <= 0) {
      processes.Call(due);
      ++sent;
      processes.Poll(0);
    } else {
      processes.Poll(static_cast<int>(std::min<int64_t>(left_ms, 50)));
    }
  }
  processes.Print(std::chrono::duration<double>(Clock::now() - began).count());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5 || std::atoi(argv[3]) <= 0 || std::atof(argv[4]) <= 0) {
    std::fprintf(stderr, "usage: worker_calls ADDRESS:PORT[,ADDRESS:PORT...] PUBSUB_SERVICE PROCESSES CALLS_PER_S\n");
    return 2;
  }
  return Main(argv);
}
