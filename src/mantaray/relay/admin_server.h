// A small HTTP server for operators: one thread, one request a connection, GET only, bounded in time and size.

#ifndef MANTARAY_RELAY_ADMIN_SERVER_H_
#define MANTARAY_RELAY_ADMIN_SERVER_H_

#include <atomic>
#include <functional>
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
  // Answers a path; called on the server's thread.
  using Handler = std::function<Response(const std::string& path)>;

  AdminServer() = default;
  // Stops it.
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  // Listens on HOST:PORT (an IP address) and serves. Returns an error, or an empty string.
  std::string Start(const std::string& address, Handler handler);
  // Where it listens; of interest when it was told port 0.
  int port() const { return port_; }

 private:
  void Run();
  void Serve(int connection);

  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_ADMIN_SERVER_H_
