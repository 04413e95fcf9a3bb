// See admin_server.h.

#include "mantaray/relay/admin_server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace mantaray::relay {
namespace {

constexpr int kPollMs = 200;
constexpr size_t kMaxRequestBytes = 8192;

std::string Errno(const std::string& doing) { return doing + ": " + std::strerror(errno); }

void SetTimeouts(int connection) {
  const timeval second{1, 0};
  setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
  setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second));
}

std::string ReadRequest(int connection) {
  std::string request;
  char buffer[2048];
  while (request.find("\r\n\r\n") == std::string::npos && request.size() < kMaxRequestBytes) {
    const ssize_t count = recv(connection, buffer, sizeof(buffer), 0);
    if (count <= 0) {
      break;
    }
    request.append(buffer, static_cast<size_t>(count));
  }
  return request;
}

void WriteAll(int connection, const std::string& text) {
  size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t count = send(connection, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) {
      return;
    }
    sent += static_cast<size_t>(count);
  }
}

const char* Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

}  // namespace

AdminServer::~AdminServer() {
  stopping_ = true;
  if (thread_.joinable()) {
    thread_.join();
  }
  if (listener_ >= 0) {
    close(listener_);
  }
}

std::string AdminServer::Start(const std::string& address, Handler handler) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found) != 0) {
    return "cannot resolve " + address;
  }
  std::string error;
  listener_ = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (listener_ < 0 || bind(listener_, found->ai_addr, found->ai_addrlen) != 0 || listen(listener_, 16) != 0) {
    error = Errno("cannot listen on " + address);
  }
  freeaddrinfo(found);
  if (!error.empty()) {
    return error;
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

void AdminServer::Run() {
  while (!stopping_) {
    pollfd wait{listener_, POLLIN, 0};
    if (poll(&wait, 1, kPollMs) <= 0) {
      continue;
    }
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection >= 0) {
      SetTimeouts(connection);
      Serve(connection);
      close(connection);
    }
  }
}

void AdminServer::Serve(int connection) {
  const std::string request = ReadRequest(connection);
  const size_t path_end = request.find_first_of(" ?\r", 4);
  Response response;
  if (!request.starts_with("GET ") || path_end == std::string::npos) {
    response = {405, "text/plain", "GET only\n"};
  } else {
    response = handler_(request.substr(4, path_end - 4));
  }
  WriteAll(connection, "HTTP/1.1 " + std::to_string(response.status) + " " + Reason(response.status) +
                           "\r\nContent-Type: " + response.content_type + "\r\nContent-Length: " +
                           std::to_string(response.body.size()) + "\r\nConnection: close\r\n\r\n" + response.body);
}

}  // namespace mantaray::relay
