// Tests of the admin server, named after what a client does to it. Real sockets on loopback.

#include "mantaray/relay/admin_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace mantaray::relay {
namespace {

// A client's socket.
class Client {
 public:
  Client(int family, int port) : socket_(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval patience{60, 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (family == AF_INET6) {
      sockaddr_in6 to{};
      to.sin6_family = AF_INET6;
      to.sin6_port = htons(static_cast<uint16_t>(port));
      to.sin6_addr = in6addr_loopback;
      connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
    } else {
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_port = htons(static_cast<uint16_t>(port));
      to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
    }
  }
  explicit Client(int port) : Client(AF_INET, port) {}
  ~Client() { close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  bool Send(const std::string& text) {
    return send(socket_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  // Everything until the server closes the connection.
  std::string ReadAll() {
    std::string all;
    char buffer[65536];
    for (ssize_t count; (count = recv(socket_, buffer, sizeof(buffer), 0)) > 0;) {
      all.append(buffer, static_cast<size_t>(count));
    }
    return all;
  }
  std::string Get(const std::string& path) { return Send("GET " + path + " HTTP/1.1\r\n\r\n") ? ReadAll() : ""; }

 private:
  const int socket_;
  bool connected_ = false;
};

// `/fast` is answered at once, `/big` with 64 MB, `/never` never, `/late` when the test says so.
class AdminServerTest : public testing::Test {
 protected:
  void Serve(AdminServer* server, const std::string& address = "127.0.0.1:0") {
    ASSERT_EQ(server->Start(address,
                            [this](const std::string& path, AdminServer::Respond respond) {
                              if (path == "/fast") {
                                respond({200, "text/plain", "fast\n"});
                              } else if (path == "/big") {
                                respond({200, "text/plain", std::string(64 << 20, 'x')});
                              } else {
                                const std::lock_guard<std::mutex> lock(mutex_);
                                kept_.push_back(std::move(respond));
                              }
                            }),
              "");
  }

  std::vector<AdminServer::Respond> Kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_;
  }

 private:
  std::mutex mutex_;
  std::vector<AdminServer::Respond> kept_;
};

// Deadlines of an hour: what passes in these tests passes without one of them.
constexpr AdminServer::Limits kPatient{.request_ms = 3'600'000, .answer_ms = 3'600'000, .total_ms = 3'600'000};

TEST_F(AdminServerTest, ClientsThatSendNothingOrTrickleDelayNoProbe) {
  AdminServer server(kPatient);
  Serve(&server);
  std::vector<std::unique_ptr<Client>> slow;
  for (int i = 0; i < 100; ++i) {
    slow.push_back(std::make_unique<Client>(server.port()));
    ASSERT_TRUE(slow.back()->Send("G"));
  }
  for (int i = 0; i < 20; ++i) {
    slow[i]->Send("E");
    EXPECT_TRUE(Client(server.port()).Get("/fast").ends_with("\r\n\r\nfast\n"));
  }
}

TEST_F(AdminServerTest, ClientThatReadsNothingDelaysNoProbe) {
  AdminServer server(kPatient);
  Serve(&server);
  Client slow(server.port());
  ASSERT_TRUE(slow.Send("GET /big HTTP/1.1\r\n\r\n"));
  EXPECT_TRUE(Client(server.port()).Get("/fast").ends_with("fast\n"));
  // It gets all of it nevertheless.
  EXPECT_GT(slow.ReadAll().size(), size_t{64} << 20);
}

TEST_F(AdminServerTest, ThreadOfTheRelayThatDoesNotAnswerDelaysNoProbe) {
  AdminServer server(kPatient);
  Serve(&server);
  Client waiting(server.port());
  ASSERT_TRUE(waiting.Send("GET /late HTTP/1.1\r\n\r\n"));
  EXPECT_TRUE(Client(server.port()).Get("/fast").ends_with("fast\n"));
  while (Kept().empty()) std::this_thread::yield();
  Kept()[0]({200, "text/plain", "late\n"});
  Kept()[0]({200, "text/plain", "twice\n"});
  EXPECT_TRUE(waiting.ReadAll().ends_with("\r\n\r\nlate\n"));
}

TEST_F(AdminServerTest, AnswerThatNeverComesIsToldInsteadOfWaitedFor) {
  AdminServer server({.answer_ms = 20});
  Serve(&server);
  EXPECT_TRUE(Client(server.port()).Get("/never").starts_with("HTTP/1.1 503 "));
  // The handler may answer when nobody waits any more.
  Kept()[0]({200, "text/plain", "at last\n"});
  EXPECT_TRUE(Client(server.port()).Get("/fast").ends_with("fast\n"));
}

TEST_F(AdminServerTest, TrickleIsEndedByTheTotalDeadlineHoweverSteadyItIs) {
  AdminServer server({.request_ms = 100});
  Serve(&server);
  Client slow(server.port());
  // Ends when the server has closed the connection: never, if each byte bought more time.
  while (slow.Send("x")) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST_F(AdminServerTest, ReaderThatNeverReadsIsEndedByTheTotalDeadline) {
  AdminServer server({.total_ms = 200});
  Serve(&server);
  Client slow(server.port());
  ASSERT_TRUE(slow.Send("GET /big HTTP/1.1\r\n\r\n"));
  std::this_thread::sleep_for(std::chrono::milliseconds(1'000));
  EXPECT_LT(slow.ReadAll().size(), size_t{64} << 20);
}

TEST_F(AdminServerTest, FloodOfConnectionsDoesNotShutAProbeOut) {
  AdminServer server({.request_ms = 3'600'000, .total_ms = 3'600'000, .connections = 8});
  Serve(&server);
  std::vector<std::unique_ptr<Client>> flood;
  for (int i = 0; i < 200; ++i) {
    flood.push_back(std::make_unique<Client>(server.port()));
    ASSERT_TRUE(flood.back()->connected());
  }
  EXPECT_TRUE(Client(server.port()).Get("/fast").ends_with("fast\n"));
  // The oldest had to go.
  EXPECT_EQ(flood.front()->ReadAll(), "");
}

TEST_F(AdminServerTest, RequestWithoutEndIsRefused) {
  AdminServer server(kPatient);
  Serve(&server);
  Client endless(server.port());
  ASSERT_TRUE(endless.Send("GET /" + std::string(8'300, 'x')));
  EXPECT_TRUE(endless.ReadAll().starts_with("HTTP/1.1 431 "));
}

TEST_F(AdminServerTest, OtherMethodsAreRefused) {
  AdminServer server(kPatient);
  Serve(&server);
  Client client(server.port());
  ASSERT_TRUE(client.Send("POST /fast HTTP/1.1\r\n\r\n"));
  EXPECT_TRUE(client.ReadAll().starts_with("HTTP/1.1 405 "));
}

TEST_F(AdminServerTest, WildcardIsProbedOverBothFamilies) {
  const bool has_ipv6 = access("/proc/net/if_inet6", R_OK) == 0;
  for (const char* wildcard : {"0.0.0.0:0", "[::]:0"}) {
    AdminServer server(kPatient);
    Serve(&server, wildcard);
    EXPECT_TRUE(Client(server.port()).Get("/fast").ends_with("fast\n")) << wildcard;
    if (has_ipv6) {
      EXPECT_TRUE(Client(AF_INET6, server.port()).Get("/fast").ends_with("fast\n")) << wildcard;
    }
  }
}

TEST_F(AdminServerTest, TakenAddressIsOneSentence) {
  AdminServer first(kPatient);
  Serve(&first);
  AdminServer second(kPatient);
  const std::string address = "127.0.0.1:" + std::to_string(first.port());
  EXPECT_EQ(second.Start(address, nullptr), "cannot listen on " + address + ": Address already in use");
}

TEST_F(AdminServerTest, ServerThatEndsLeavesNobodyWaiting) {
  auto server = std::make_unique<AdminServer>(kPatient);
  Serve(server.get());
  Client waiting(server->port());
  ASSERT_TRUE(waiting.Send("GET /never HTTP/1.1\r\n\r\n"));
  while (Kept().empty()) std::this_thread::yield();
  server.reset();
  EXPECT_EQ(waiting.ReadAll(), "");
  Kept()[0]({200, "text/plain", "too late\n"});
}

}  // namespace
}  // namespace mantaray::relay
