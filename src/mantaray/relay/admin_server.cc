// See admin_server.h.

#include "mantaray/relay/admin_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "mantaray/common/mutex.h"
#include "mantaray/common/steady_clock.h"

namespace mantaray::relay {
namespace {

constexpr int kPollMs = 200;
constexpr int kBacklog = 128;
// How long to leave the listener alone when no descriptor was left for a connection.
constexpr int64_t kNoDescriptorMs = 50;

const char* Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 431:
      return "Request Header Fields Too Large";
    default:
      return "Service Unavailable";
  }
}

std::string Rendered(const AdminServer::Response& response) {
  return "HTTP/1.1 " + std::to_string(response.status) + " " + Reason(response.status) +
         "\r\nContent-Type: " + response.content_type + "\r\nContent-Length: " + std::to_string(response.body.size()) +
         "\r\nConnection: close\r\n\r\n" + response.body;
}

// Returns a listening socket, or -1 with errno set.
int Listen(const addrinfo& address) {
  const int listener = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0) {
    return -1;
  }
  const int yes = 1;
  const int no = 0;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (address.ai_family == AF_INET6) {
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
  }
  if (bind(listener, address.ai_addr, address.ai_addrlen) == 0 && listen(listener, kBacklog) == 0) {
    return listener;
  }
  const int error = errno;
  close(listener);
  errno = error;
  return -1;
}

struct FreeAddresses {
  void operator()(addrinfo* addresses) const { freeaddrinfo(addresses); }
};

// Returns a listening socket, or -1 with errno set; errno is 0 when the address cannot be resolved.
int ListenOn(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) {
    errno = 0;
    return -1;
  }
  const std::unique_ptr<addrinfo, FreeAddresses> addresses(found);
  return Listen(*addresses);
}

}  // namespace

// One client: its request is read, then its answer is awaited, then that is sent.
class AdminServer::Connection {
 public:
  enum class State { kReading, kWaiting, kSending, kOver };

  Connection(uint64_t id, int socket, int64_t now_ms) : id_(id), socket_(socket), accepted_ms_(now_ms) {}
  ~Connection() { close(socket_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  uint64_t id() const { return id_; }
  int socket() const { return socket_; }
  State state() const { return state_; }
  short events() const {
    return static_cast<short>(state_ == State::kReading ? POLLIN : state_ == State::kSending ? POLLOUT : 0);
  }

  int64_t DeadlineMs(const Limits& limits) const {
    const int64_t end_ms = accepted_ms_ + limits.total_ms;
    switch (state_) {
      case State::kReading:
        return std::min(end_ms, accepted_ms_ + limits.request_ms);
      case State::kWaiting:
        return std::min(end_ms, asked_ms_ + limits.answer_ms);
      default:
        return end_ms;
    }
  }

  // Reads what has arrived. Returns whether the request is complete; the state is then kWaiting.
  bool Read(const Limits& limits, int64_t now_ms) {
    char buffer[2048];
    while (request_.size() <= limits.request_bytes) {
      const ssize_t count = recv(socket_, buffer, sizeof(buffer), 0);
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count <= 0) {
        if (count == 0 || errno != EAGAIN) {
          state_ = State::kOver;
        }
        return false;
      }
      request_.append(buffer, static_cast<size_t>(count));
      if (request_.find("\r\n\r\n") != std::string::npos) {
        state_ = State::kWaiting;
        asked_ms_ = now_ms;
        return true;
      }
    }
    Answer({431, "text/plain", "the request is too long\n"});
    return false;
  }

  // The path that is asked for; empty when it is not a GET.
  std::string Path() const {
    const size_t end = request_.find_first_of(" ?\r", 4);
    return request_.starts_with("GET ") && end != std::string::npos ? request_.substr(4, end - 4) : std::string();
  }

  void Answer(const Response& response) {
    answer_ = Rendered(response);
    state_ = State::kSending;
    Send();
  }

  void Send() {
    while (sent_ < answer_.size()) {
      const ssize_t count = send(socket_, answer_.data() + sent_, answer_.size() - sent_, MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count < 0 && errno == EAGAIN) {
        return;
      }
      if (count <= 0) {
        break;
      }
      sent_ += static_cast<size_t>(count);
    }
    state_ = State::kOver;
  }

  void OnDeadline() {
    if (state_ == State::kWaiting) {
      Answer({503, "text/plain", "a thread of the relay does not answer\n"});
    } else {
      state_ = State::kOver;
    }
  }

  void OnHangUp() { state_ = State::kOver; }

 private:
  const uint64_t id_;
  const int socket_;
  const int64_t accepted_ms_;
  int64_t asked_ms_ = 0;
  State state_ = State::kReading;
  std::string request_;
  std::string answer_;
  size_t sent_ = 0;
};

// Answers on their way from the threads that gave them to the server's. It outlives the server while a handler holds
// it.
class AdminServer::Mailbox {
 public:
  Mailbox() : wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~Mailbox() { close(wake_); }
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  int wake() const { return wake_; }

  void Put(uint64_t connection, Response response) {
    MutexLock lock(&mutex_);
    answers_.emplace_back(connection, std::move(response));
    eventfd_write(wake_, 1);
  }

  std::vector<std::pair<uint64_t, Response>> TakeAll() {
    MutexLock lock(&mutex_);
    eventfd_t count = 0;
    eventfd_read(wake_, &count);
    return std::exchange(answers_, {});
  }

 private:
  const int wake_;
  Mutex mutex_;
  std::vector<std::pair<uint64_t, Response>> answers_ ABSL_GUARDED_BY(mutex_);
};

AdminServer::AdminServer() : AdminServer(Limits()) {}

AdminServer::AdminServer(const Limits& limits) : limits_(limits), mailbox_(std::make_shared<Mailbox>()) {}

AdminServer::~AdminServer() {
  stopping_ = true;
  eventfd_write(mailbox_->wake(), 1);
  if (thread_.joinable()) {
    thread_.join();
  }
  if (listener_ >= 0) {
    close(listener_);
  }
}

std::string AdminServer::Start(const std::string& address, Handler handler) {
  const size_t colon = address.rfind(':');
  const std::string port = address.substr(colon + 1);
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') {
    host = host.substr(1, host.size() - 2);
  }
  const bool wildcard = host == "0.0.0.0" || host == "::";
  listener_ = ListenOn(wildcard ? "::" : host, port);
  // A kernel may have no IPv6.
  if (listener_ < 0 && wildcard && errno != EADDRINUSE) {
    listener_ = ListenOn("0.0.0.0", port);
  }
  if (listener_ < 0) {
    return errno == 0 ? "cannot resolve " + address : "cannot listen on " + address + ": " + std::strerror(errno);
  }
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  getsockname(listener_, reinterpret_cast<sockaddr*>(&bound), &size);
  // The port lies at the same place for both families.
  port_ = ntohs(reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  handler_ = std::move(handler);
  thread_ = std::thread([this] { Run(); });
  return "";
}

int AdminServer::TimeoutMs(int64_t now_ms) const {
  int64_t wait_ms = kPollMs;
  for (const auto& connection : connections_) {
    wait_ms = std::min(wait_ms, connection->DeadlineMs(limits_) - now_ms);
  }
  return static_cast<int>(std::max<int64_t>(0, wait_ms));
}

void AdminServer::Run() {
  std::vector<pollfd> waits;
  while (!stopping_) {
    const bool accepting = SteadyNowMs() >= accept_from_ms_;
    waits.assign({{listener_, static_cast<short>(accepting ? POLLIN : 0), 0}, {mailbox_->wake(), POLLIN, 0}});
    for (const auto& connection : connections_) {
      waits.push_back({connection->socket(), connection->events(), 0});
    }
    poll(waits.data(), waits.size(), accepting ? TimeoutMs(SteadyNowMs()) : static_cast<int>(kNoDescriptorMs));
    const int64_t now_ms = SteadyNowMs();
    auto wait = waits.begin() + 2;
    for (const auto& connection : connections_) {
      const short events = (wait++)->revents;
      if ((events & POLLIN) != 0 && connection->Read(limits_, now_ms)) {
        const std::string path = connection->Path();
        if (path.empty()) {
          connection->Answer({405, "text/plain", "GET only\n"});
        } else {
          handler_(path, [mailbox = mailbox_, id = connection->id()](Response response) {
            mailbox->Put(id, std::move(response));
          });
        }
      } else if ((events & POLLOUT) != 0) {
        connection->Send();
      } else if ((events & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
        connection->OnHangUp();
      }
    }
    Deliver();
    for (const auto& connection : connections_) {
      if (now_ms >= connection->DeadlineMs(limits_)) {
        connection->OnDeadline();
      }
    }
    connections_.remove_if([](const auto& connection) { return connection->state() == Connection::State::kOver; });
    if (accepting) {
      AcceptAll(now_ms);
    }
  }
}

void AdminServer::Deliver() {
  for (auto& [id, response] : mailbox_->TakeAll()) {
    const auto found = std::find_if(connections_.begin(), connections_.end(),
                                    [id = id](const auto& connection) { return connection->id() == id; });
    if (found != connections_.end() && (*found)->state() == Connection::State::kWaiting) {
      (*found)->Answer(response);
    }
  }
}

void AdminServer::AcceptAll(int64_t now_ms) {
  // Not without end: those that were accepted want to be served.
  for (size_t taken = 0; taken < limits_.connections; ++taken) {
    const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket < 0) {
      if (errno == EMFILE || errno == ENFILE) {
        accept_from_ms_ = now_ms + kNoDescriptorMs;
        connections_.clear();
      }
      return;
    }
    if (connections_.size() >= limits_.connections) {
      connections_.pop_front();
    }
    connections_.push_back(std::make_unique<Connection>(++last_id_, socket, now_ms));
  }
}

}  // namespace mantaray::relay
