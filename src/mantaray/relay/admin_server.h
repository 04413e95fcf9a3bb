// A small HTTP server for operators and probes: GET only, one request per connection.
//
// One thread serves all connections without ever blocking on one of them, so a client that sends or reads slowly
// delays nobody. A connection has a total deadline, however steadily it trickles, and their number is bounded: a new
// connection replaces the oldest, because a health probe must always get in.

#ifndef MANTARAY_RELAY_ADMIN_SERVER_H_
#define MANTARAY_RELAY_ADMIN_SERVER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>

namespace mantaray::relay {

class AdminServer {
 public:
  struct Response {
    int status = 200;
    std::string content_type = "text/plain; charset=utf-8";
    std::string body;
  };
  // Sends the answer. May be called on any thread, also after the server is gone; only the first call counts.
  using Respond = std::function<void(Response response)>;
  // Answers a path, now or later. Runs on the server's thread and must not block it.
  using Handler = std::function<void(const std::string& path, Respond respond)>;

  struct Limits {
    int64_t request_ms = 2'000;    // from accept until the request has arrived
    int64_t answer_ms = 3'000;     // from then on until the handler has answered; 503 after that
    int64_t total_ms = 10'000;     // from accept until the connection is closed
    size_t connections = 128;      // at once
    size_t request_bytes = 8'192;  // of one request
  };

  AdminServer();
  explicit AdminServer(const Limits& limits);
  // Stops it.
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  // Listens on HOST:PORT and serves. HOST is an IP address; a wildcard, 0.0.0.0 or [::], takes IPv4 and IPv6, as gRPC's
  // listeners do. Returns an error, or an empty string.
  std::string Start(const std::string& address, Handler handler);
  // The port on which it listens, which the kernel chose if Start was given port 0.
  int port() const { return port_; }

 private:
  class Connection;
  class Mailbox;

  void Run();
  void AcceptAll(int64_t now_ms);
  void Deliver();
  int TimeoutMs(int64_t now_ms) const;

  const Limits limits_;
  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  // Descriptors ran out: no connection is accepted before this time.
  int64_t accept_from_ms_ = 0;
  uint64_t last_id_ = 0;
  std::list<std::unique_ptr<Connection>> connections_;  // the oldest first
  std::shared_ptr<Mailbox> mailbox_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_ADMIN_SERVER_H_
