// The calls that processes of Ray make to the GCS besides the sync streams: a long poll each, which waits, and look-ups
// at a steady rate. Speaks HTTP/2 by hand over plain sockets, so that thousands of processes cost little beside what is
// measured.
//
//   worker_calls --targets=ADDRESS:PORT[,ADDRESS:PORT...] --pubsub=SERVICE --processes=N --calls-per-s=N
//       [--mix=running|start] [--nodes=N --raylet-port=PORT --channel=NUMBER]
//
// Every process has a connection of its own to one of the targets. The calls are those of a running cluster, or with
// --mix=start those of workers that start. With --nodes, the first processes register the nodes
// whose views sync_storm publishes (its seed must be 1), at addresses of this machine, so that the GCS asks each of
// them for its load; and every process subscribes to a channel of the GCS before it waits. Prints "ready" when all that
// is done and all long polls were sent. Then it makes calls until standard input ends. A byte that comes there earlier
// lets it forget what it has counted. Prints JSON: how many calls were answered, how many failed, how long they took
// from when each was due, and how many long polls still wait.

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
#include <utility>
#include <vector>

#include "benchmarks/sync_storm/calls_wire.h"
#include "benchmarks/sync_storm/histogram.h"
#include "benchmarks/sync_storm/sync_messages.h"

namespace {

using mantaray::storm::Field;
using mantaray::storm::FrameOf;
using mantaray::storm::kAck;
using mantaray::storm::kData;
using mantaray::storm::kEndStream;
using mantaray::storm::kFrameHeaderBytes;
using mantaray::storm::kHeaders;
using mantaray::storm::kMessageHeaderBytes;
using mantaray::storm::kPing;
using mantaray::storm::kReset;
using mantaray::storm::kSettings;
using mantaray::storm::kWindowUpdate;
using mantaray::storm::Opening;
using mantaray::storm::Request;
using Clock = std::chrono::steady_clock;

struct LookUp {
  const char* method;
  std::string message;
};

std::string KeyOfFunction(int number) { return "fun:" + std::to_string(number); }

// What workers, agents and the dashboard ask for most while nothing starts.
std::vector<LookUp> LookUpsOfARunningCluster() {
  return {{"NodeInfoGcsService/CheckAlive", ""},
          {"NodeInfoGcsService/GetAllNodeInfo", ""},
          {"JobInfoGcsService/GetAllJobInfo", ""}};
}

// What a worker of Ray 2.60 reads when it starts, as its GCS counted it (16 workers that start read 123 keys), and what
// its node asks meanwhile.
std::vector<LookUp> LookUpsOfAStart() {
  std::vector<LookUp> reads = {{"NodeInfoGcsService/GetClusterId", ""}, {"NodeInfoGcsService/GetAllNodeInfo", ""}};
  for (int number = 0; number < 6; ++number) {
    reads.push_back({"InternalKVGcsService/InternalKVGet", Field(1, KeyOfFunction(number))});
  }
  reads.push_back({"NodeInfoGcsService/CheckAlive", ""});
  return reads;
}

// The request of a long poll: a subscriber with an id of 28 bytes.
std::string Subscriber(uint32_t process) { return Field(1, "worker" + mantaray::storm::BigEndian(process, 22)); }

// A request that subscribes to all of a channel. Ray's processes send their id as the sender's, too.
std::string Subscription(uint32_t process, uint32_t channel) {
  const std::string subscriber = Subscriber(process);
  const std::string command = Field(1, channel) + Field(4, "");
  return subscriber + Field(2, command) + Field(3, subscriber.substr(2));
}

// A request that registers a simulated node. Each has an address of its own, which this machine answers.
std::string Registration(uint32_t node, uint32_t raylet_port) {
  constexpr uint64_t kSeed = 1;
  const std::string address = "127.1." + std::to_string(node / 250) + "." + std::to_string(node % 250 + 1);
  const std::string info =
      Field(1, mantaray::storm::NodeId(node, kSeed)) + Field(2, address) + Field(3, "/tmp/ray/session/sockets/raylet") +
      Field(4, "/tmp/ray/session/sockets/plasma_store") + Field(5, raylet_port) + Field(6, raylet_port) +
      Field(8, "node-" + std::to_string(node)) + Field(12, "node-" + std::to_string(node));
  return Field(1, info);
}

class Processes {
 public:
  Processes(const std::vector<sockaddr_in>& addresses, uint32_t count, std::vector<LookUp> look_ups)
      : look_ups_(std::move(look_ups)), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    for (uint32_t process = 0; process < count; ++process) Open(process, addresses[process % addresses.size()]);
  }
  ~Processes() {
    for (const Connection& connection : connections_) close(connection.socket);
    close(epoll_);
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // Makes a call of a process; it counts from when it was due.
  void Ask(size_t process, Clock::time_point due, const std::string& method, const std::string& message) {
    Connection& connection = connections_[process];
    const uint32_t stream = connection.next_stream;
    connection.next_stream += 2;
    connection.calls[stream] = {due, false};
    connection.unwritten += Request(stream, "/ray.rpc." + method, message);
    Flush(&connection);
  }

  // Makes the next look-up, of the next process.
  void AskNext(Clock::time_point due) {
    const LookUp& look_up = look_ups_[next_ % look_ups_.size()];
    Ask(next_ / look_ups_.size() % connections_.size(), due, look_up.method, look_up.message);
    ++next_;
  }

  // Lets a process wait for news. Releases of Ray call the service differently.
  void Wait(uint32_t process, const std::string& pubsub) {
    Connection& connection = connections_[process];
    connection.poll = connection.next_stream;
    connection.next_stream += 2;
    connection.poll_waits = true;
    connection.unwritten += Request(connection.poll, "/ray.rpc." + pubsub + "/GcsSubscriberPoll", Subscriber(process));
    Flush(&connection);
  }

  // Waits until every call was answered. Returns whether all were, and forgets how long they took.
  bool Settle() {
    const auto until = Clock::now() + std::chrono::seconds(120);
    const auto settled = [this] {
      return std::all_of(connections_.begin(), connections_.end(), [](const auto& one) { return one.calls.empty(); });
    };
    while (!settled() && Clock::now() < until) Poll(20);
    const bool all = settled() && failed_ == 0;
    Forget();
    return all;
  }

  // Counts from now.
  void Forget() {
    took_ = {};
    failed_ = 0;
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
    uint32_t next_stream = 1;
    uint32_t poll = 0;  // the stream of the long poll
    bool poll_waits = false;
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
    connection.unwritten = Opening();
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
    if (stream == connection->poll) connection->poll_waits = false;
    if (call == connection->calls.end()) return;
    if (call->second.has_answer) {
      took_.Add(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - call->second.due).count());
    } else {
      ++failed_;
    }
    connection->calls.erase(call);
  }

  static void GiveBackWindow(Connection* connection, size_t bytes) {
    connection->unwritten += FrameOf(kWindowUpdate, 0, 0, mantaray::storm::BigEndian(bytes, 4));
  }

  const std::vector<LookUp> look_ups_;
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

enum class Input { kNothing, kForget, kEnd };

Input LookAtInput() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  char byte = 0;
  if (::poll(&input, 1, 0) <= 0) return Input::kNothing;
  return read(STDIN_FILENO, &byte, 1) == 0 ? Input::kEnd : Input::kForget;
}

class Arguments {
 public:
  Arguments(int argc, char** argv) {
    for (int at = 1; at < argc; ++at) {
      const std::string argument = argv[at];
      const size_t equals = argument.find('=');
      if (!argument.starts_with("--") || equals == std::string::npos) Refuse(argument);
      values_[argument.substr(2, equals - 2)] = argument.substr(equals + 1);
    }
  }
  std::string Text(const std::string& name) {
    if (values_[name].empty()) Refuse("--" + name);
    return values_[name];
  }
  uint32_t Number(const std::string& name, uint32_t otherwise) {
    return values_[name].empty() ? otherwise : static_cast<uint32_t>(std::atoi(values_[name].c_str()));
  }
  bool Starts() { return values_["mix"] == "start"; }

 private:
  [[noreturn]] static void Refuse(const std::string& what) {
    std::fprintf(stderr, "worker_calls: %s is missing or wrong; the beginning of worker_calls.cc has the usage\n",
                 what.c_str());
    std::exit(2);
  }
  std::map<std::string, std::string> values_;
};

bool Prepare(Processes* processes, Arguments* arguments, uint32_t count) {
  const std::string pubsub = arguments->Text("pubsub");
  const uint32_t nodes = arguments->Number("nodes", 0);
  if (nodes > count) return false;
  for (uint32_t node = 0; node < nodes; ++node) {
    const std::string message = Registration(node, arguments->Number("raylet-port", 0));
    processes->Ask(node, Clock::now(), "NodeInfoGcsService/RegisterNode", message);
  }
  for (int number = 0; nodes > 0 && number < 6; ++number) {
    const std::string message = Field(1, KeyOfFunction(number)) + Field(2, std::string(2'000, 'x'));
    processes->Ask(0, Clock::now(), "InternalKVGcsService/InternalKVPut", message);
  }
  if (!processes->Settle()) return false;
  for (uint32_t process = 0; nodes > 0 && process < count; ++process) {
    const std::string message = Subscription(process, arguments->Number("channel", 0));
    processes->Ask(process, Clock::now(), pubsub + "/GcsSubscriberCommandBatch", message);
  }
  if (!processes->Settle()) return false;
  for (uint32_t process = 0; process < count; ++process) processes->Wait(process, pubsub);
  return true;
}

int Main(Arguments arguments) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const uint32_t count = arguments.Number("processes", 1);
  Processes processes(Addresses(arguments.Text("targets")), count,
                      arguments.Starts() ? LookUpsOfAStart() : LookUpsOfARunningCluster());
  if (!Prepare(&processes, &arguments, count)) {
    std::fprintf(stderr, "worker_calls: the GCS did not register the nodes, or refused the subscriptions\n");
    return 1;
  }
  std::puts("ready");
  std::fflush(stdout);
  const double calls_per_s = std::atof(arguments.Text("calls-per-s").c_str());
  const auto began = Clock::now();
  auto counted_from = began;
  uint64_t sent = 0;
  for (Input input = Input::kNothing; input != Input::kEnd; input = LookAtInput()) {
    if (input == Input::kForget) {
      processes.Forget();
      counted_from = Clock::now();
    }
    const auto due =
        began + std::chrono::nanoseconds(static_cast<int64_t>(1e9 * static_cast<double>(sent) / calls_per_s));
    const auto left_ms = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now()).count();
    if (left_ms <= 0) {
      processes.AskNext(due);
      ++sent;
      processes.Poll(0);
    } else {
      processes.Poll(static_cast<int>(std::min<int64_t>(left_ms, 50)));
    }
  }
  processes.Print(std::chrono::duration<double>(Clock::now() - counted_from).count());
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return Main(Arguments(argc, argv)); }
