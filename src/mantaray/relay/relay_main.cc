// The program `mantaray-relay`: reads its options, puts the parts together, waits for a signal, takes them apart.

#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "mantaray/relay/admin_server.h"
#include "mantaray/relay/credentials.h"
#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/grpc_log.h"
#include "mantaray/relay/log.h"
#include "mantaray/relay/metrics.h"
#include "mantaray/relay/options.h"
#include "mantaray/relay/proxy.h"
#include "mantaray/relay/sync_service.h"
#include "mantaray/relay/version.h"

namespace mantaray::relay {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

syncer::NodeId RandomNodeId() {
  syncer::NodeId id;
  if (getrandom(id.bytes.data(), id.bytes.size(), 0) != static_cast<ssize_t>(id.bytes.size())) {
    std::abort();
  }
  return id;
}

syncer::RelayOptions CoreOptions(const Options& options) {
  syncer::RelayOptions core;
  core.node_id = RandomNodeId();
  core.downward = {.window_ms = options.window_ms, .max_batch_messages = static_cast<size_t>(options.max_batch_size)};
  core.upward.window_ms = options.upward_window_ms;
  if (options.upstream_speech != Speech::kHeard) {
    core.upstream_dialect = options.upstream_speech == Speech::kBare ? syncer::Dialect::kBare : syncer::Dialect::kBatch;
  }
  core.grace_ms = options.grace_ms;
  core.noise.enabled = options.suppress_noise;
  return core;
}

SyncService::Options SyncOptions(const Options& options) {
  const std::string& told = options.admin_advertise.empty() ? options.admin_listen : options.admin_advertise;
  return {CoreOptions(options), options.upstream, told};
}

// Runs a function on a loop and waits for what it returns, or gives up: a loop that does not answer is stuck.
std::optional<std::string> AskLoop(EventLoop* loop, const std::function<std::string()>& function) {
  auto promise = std::make_shared<std::promise<std::string>>();
  std::future<std::string> answer = promise->get_future();
  loop->Post([promise, function] { promise->set_value(function()); });
  if (answer.wait_for(std::chrono::seconds(2)) != std::future_status::ready) {
    return std::nullopt;
  }
  return answer.get();
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
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 3'000);
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

// All parts together.
class Relay {
 public:
  Relay(const Options& options, const Credentials& credentials) : options_(options), credentials_(credentials) {}

  // Returns an error, or an empty string.
  std::string Start() {
    grpc::ServerBuilder builder;
    ConfigureServer(options_, &builder);
    int port = 0;
    builder.AddListeningPort(options_.listen, credentials_.server, &port);
    std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
    grpc::ServerCompletionQueue* const polled = queue.get();
    proxy_loop_ = std::make_unique<EventLoop>(std::move(queue), "proxy");
    sync_loop_ = std::make_unique<EventLoop>(EventLoop::QueueThatDoesNotPoll(), "sync");
    sync_ = std::make_unique<SyncService>(sync_loop_.get(), polled, NewChannel(), SyncOptions(options_));
    std::vector<std::shared_ptr<grpc::Channel>> channels;
    for (int64_t i = 0; i < options_.upstream_connections; ++i) {
      channels.push_back(NewChannel());
    }
    probed_channel_ = channels.front();
    proxy_ = std::make_unique<Proxy>(proxy_loop_.get(), polled, std::move(channels), sync_->relay_id(), &metrics_);
    builder.RegisterService(sync_->method());
    builder.RegisterAsyncGenericService(proxy_->service());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      StopLoops();
      return "cannot listen on " + options_.listen;
    }
    proxy_->Start();
    sync_->Start();
    proxy_loop_->Start();
    sync_loop_->Start();
    std::string error;
    if (!options_.admin_listen.empty()) {
      error = admin_.Start(options_.admin_listen, [this](const std::string& path) { return Answer(path); });
    }
    if (!error.empty()) {
      Stop();
      return error;
    }
    LogInfo("relaying", {{"listen", options_.listen},
                         {"port", std::to_string(port)},
                         {"upstream", options_.upstream},
                         {"id", sync_->relay_id()},
                         {"tls", options_.tls.used ? "yes" : "no"},
                         {"admin_port", std::to_string(admin_.port())}});
    return "";
  }

  // Gives what is under way its time, then ends everything.
  void Stop() {
    draining_ = true;
    sync_->Drain();
    proxy_->Drain(options_.drain_ms);
    const auto margin = std::chrono::milliseconds(500);
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(options_.drain_ms) + margin);
    WaitUntilIdle();
    StopLoops();
  }

 private:
  std::shared_ptr<grpc::Channel> NewChannel() const {
    return grpc::CreateCustomChannel(options_.upstream, credentials_.channel, ChannelArguments(options_));
  }

  // A queue may be shut down only when no event of it begins another operation.
  void WaitUntilIdle() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(3);
    while (std::chrono::steady_clock::now() < deadline) {
      const auto proxy = AskLoop(proxy_loop_.get(), [this] { return std::string(proxy_->idle() ? "idle" : ""); });
      const auto sync = AskLoop(sync_loop_.get(), [this] { return std::string(sync_->idle() ? "idle" : ""); });
      if (proxy == "idle" && sync == "idle") {
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    LogWarning("ended with calls that do not end");
    _exit(0);
  }

  void StopLoops() {
    proxy_loop_->Stop();
    sync_loop_->Stop();
  }

  AdminServer::Response Answer(const std::string& path) {
    if (path == "/healthz") {
      const bool alive = AskLoop(proxy_loop_.get(), [] { return std::string(); }).has_value() &&
                         AskLoop(sync_loop_.get(), [] { return std::string(); }).has_value();
      return {alive ? 200 : 503, "text/plain", alive ? "alive\n" : "a thread does not answer\n"};
    }
    if (path == "/readyz") {
      return Readiness();
    }
    if (path == "/metrics") {
      const auto sync = AskLoop(sync_loop_.get(), [this] { return sync_->RenderMetrics(); });
      return {sync.has_value() ? 200 : 503, "text/plain; version=0.0.4", metrics_.Render() + sync.value_or("")};
    }
    if (path == "/status") {
      const auto status = AskLoop(sync_loop_.get(), [this] { return sync_->RenderStatus(); });
      return {status.has_value() ? 200 : 503, "application/json", status.value_or("{}") + "\n"};
    }
    return {404, "text/plain", "there are /metrics, /status, /healthz and /readyz\n"};
  }

  // Whether new nodes would get anywhere.
  AdminServer::Response Readiness() {
    if (draining_) {
      return {503, "text/plain", "shutting down\n"};
    }
    const bool ready = probed_channel_->GetState(/*try_to_connect=*/true) == GRPC_CHANNEL_READY;
    return {ready ? 200 : 503, "text/plain", ready ? "ready\n" : "not connected to " + options_.upstream + "\n"};
  }

  const Options& options_;
  const Credentials& credentials_;
  Metrics metrics_;
  std::unique_ptr<EventLoop> proxy_loop_;
  std::unique_ptr<EventLoop> sync_loop_;
  std::unique_ptr<SyncService> sync_;
  std::unique_ptr<Proxy> proxy_;
  std::shared_ptr<grpc::Channel> probed_channel_;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<bool> draining_{false};
  // The last one: its thread uses the others.
  AdminServer admin_;
};

int Run(const Options& options) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  RaiseFileLimit();
  // Why it cannot start is for the relay itself to say, in one line.
  LogGrpcErrorsAt(LogLevel::kDebug);

  const Credentials credentials = MakeCredentials(options.tls);
  if (!credentials.error.empty()) {
    LogError("cannot start", {{"reason", credentials.error}});
    return kExitFailure;
  }
  Relay relay(options, credentials);
  const std::string error = relay.Start();
  if (!error.empty()) {
    LogError("cannot start", {{"reason", error}});
    return kExitFailure;
  }
  LogGrpcErrorsAt(LogLevel::kWarning);
  WaitForTheEnd(signals, options.parent_pid);
  relay.Stop();
  LogInfo("ended");
  return 0;
}

int Main(int argc, char** argv) {
  // One thread polls for all (event_loop.h), which other ways of polling do not offer.
  setenv("GRPC_POLL_STRATEGY", "epoll1", /*overwrite=*/1);
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const Parsed parsed = ParseOptions(arguments, [](const char* name) { return std::getenv(name); });
  switch (parsed.ask) {
    case Ask::kHelp:
      std::fputs(HelpText().c_str(), stdout);
      return 0;
    case Ask::kVersion:
      std::printf("mantaray-relay %s\n", kVersion);
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
