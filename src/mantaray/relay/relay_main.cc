// The program `mantaray-relay`: reads its options, puts the parts together, waits for a signal, takes them apart.

#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "mantaray/relay/credentials.h"
#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/log.h"
#include "mantaray/relay/metrics.h"
#include "mantaray/relay/options.h"
#include "mantaray/relay/proxy.h"

#ifndef MANTARAY_VERSION
#define MANTARAY_VERSION "development"
#endif

namespace mantaray::relay {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

std::string RandomId() {
  unsigned char bytes[8] = {};
  if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes)) {
    std::abort();
  }
  std::string text;
  for (const unsigned char byte : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    text += digits;
  }
  return text;
}

// Every node is a connection, some are several.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

grpc::ChannelArguments ChannelArguments(const Options& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  // Each of them a connection of its own.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A peer behind a cut network is noticed by unanswered data or pings; never by pings that the GCS would think too
  // many.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 300'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  // A restarted upstream is found soon, and not all relays knock at the same moment (gRPC adds jitter).
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A call's status is the upstream's word; it is not for the relay to try again.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return arguments;
}

void ConfigureServer(const Options& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder->SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  // A second relay on the same port must fail, not take half of the connections.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping as often as Ray has them ping.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
}

// Waits for SIGTERM or SIGINT, or for the end of the parent.
void WaitForTheEnd(const sigset_t& signals, int64_t parent_pid) {
  while (true) {
    const timespec second{1, 0};
    const int signal = sigtimedwait(&signals, nullptr, &second);
    if (signal > 0) {
      LogInfo("ending", {{"signal", std::to_string(signal)}});
      return;
    }
    if (parent_pid > 0 && getppid() != parent_pid) {
      LogInfo("ending", {{"reason", "the process that started this relay has ended"}});
      return;
    }
  }
}

int Run(const Options& options) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  RaiseFileLimit();

  const Credentials credentials = MakeCredentials(options.tls);
  if (!credentials.error.empty()) {
    LogError("cannot start", {{"reason", credentials.error}});
    return kExitFailure;
  }
  const std::string relay_id = RandomId();
  Metrics metrics;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int64_t i = 0; i < options.upstream_connections; ++i) {
    channels.push_back(grpc::CreateCustomChannel(options.upstream, credentials.channel, ChannelArguments(options)));
  }

  grpc::ServerBuilder builder;
  ConfigureServer(options, &builder);
  int port = 0;
  builder.AddListeningPort(options.listen, credentials.server, &port);
  EventLoop loop(builder.AddCompletionQueue(), "proxy");
  Proxy proxy(&loop, channels, relay_id, &metrics);
  builder.RegisterAsyncGenericService(proxy.service());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    LogError("cannot listen", {{"address", options.listen}});
    loop.Stop();
    return kExitFailure;
  }
  proxy.Start();
  loop.Start();
  LogInfo("relaying", {{"listen", options.listen},
                       {"port", std::to_string(port)},
                       {"upstream", options.upstream},
                       {"id", relay_id},
                       {"tls", options.tls.used ? "yes" : "no"}});

  WaitForTheEnd(signals, options.parent_pid);

  proxy.Drain(options.drain_ms);
  const auto margin = std::chrono::milliseconds(500);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(options.drain_ms) + margin);
  loop.Stop();
  LogInfo("ended");
  return 0;
}

int Main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const Parsed parsed = ParseOptions(arguments, [](const char* name) { return std::getenv(name); });
  switch (parsed.ask) {
    case Ask::kHelp:
      std::fputs(HelpText().c_str(), stdout);
      return 0;
    case Ask::kVersion:
      std::puts("mantaray-relay " MANTARAY_VERSION);
      return 0;
    case Ask::kError:
      std::fprintf(stderr, "error: %s\nhint: mantaray relay --help lists the options\n", parsed.error.c_str());
      return kExitUsage;
    case Ask::kRun:
      break;
  }
  SetUpLog(parsed.options.log_level, parsed.options.log_json);
  return Run(parsed.options);
}

}  // namespace
}  // namespace mantaray::relay

int main(int argc, char** argv) { return mantaray::relay::Main(argc, argv); }
