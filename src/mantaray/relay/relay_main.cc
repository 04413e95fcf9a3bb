// The program `mantaray-relay`: reads its options, puts the parts together, waits for a signal, takes them apart.

#include <grpcpp/create_channel.h>
#include <grpcpp/version_info.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/common/mutex.h"
#include "mantaray/common/steady_clock.h"
#include "mantaray/relay/admin_server.h"
#include "mantaray/relay/credentials.h"
#include "mantaray/relay/grpc_log.h"
#include "mantaray/relay/log.h"
#include "mantaray/relay/metrics.h"
#include "mantaray/relay/options.h"
#include "mantaray/relay/serving.h"
#include "mantaray/relay/upstream_watch.h"
#include "mantaray/relay/version.h"

namespace mantaray::relay {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
// How often the upstream and the parent are looked at.
constexpr int64_t kLookMs = 250;

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

// All parts together. Everything but what the admin server calls happens on the main thread.
class Relay {
 public:
  Relay(const Options& options, const Credentials& credentials)
      : options_(options), credentials_(credentials), watch_(options.upstream_timeout_ms, SteadyNowMs()) {
    for (int64_t i = 0; i < options_.upstream_connections; ++i) {
      channels_.calls.push_back(NewChannel());
    }
    channels_.sync = NewChannel();
  }

  // Returns an error, or an empty string.
  std::string Start() {
    listen_ = options_.listen;
    std::string error = Listen();
    if (error.empty() && !options_.admin_listen.empty()) {
      error = admin_.Start(options_.admin_listen, [this](const std::string& path, AdminServer::Respond respond) {
        Answer(path, std::move(respond));
      });
      if (!error.empty()) {
        Close(options_.drain_ms);
      }
    }
    if (error.empty()) {
      LogListening("relaying");
    }
    return error;
  }

  // Serves until one of the signals arrives or the parent is gone. Returns an error, or an empty string.
  std::string RunUntil(const sigset_t& signals) {
    while (!IsToEnd(signals)) {
      switch (watch_.Observe(Look(), SteadyNowMs())) {
        case UpstreamWatch::Order::kGoOn:
          break;
        case UpstreamWatch::Order::kClose:
          metrics_.UpstreamGivenUp();
          LogError("upstream is gone: closing the listener and every connection",
                   {{"upstream", options_.upstream}, {"gone_ms", std::to_string(watch_.lost_ms(SteadyNowMs()))}});
          Close(/*drain_ms=*/0);
          break;
        case UpstreamWatch::Order::kListen:
          if (std::string error = Listen(); !error.empty()) {
            return error;
          }
          LogListening("upstream is back: listening again");
          break;
      }
    }
    return "";
  }

  // Gives what is under way its time, then ends everything.
  void Stop() {
    draining_ = true;
    Close(options_.drain_ms);
  }

 private:
  std::shared_ptr<grpc::Channel> NewChannel() const {
    return grpc::CreateCustomChannel(options_.upstream, credentials_.channel, ChannelArguments(options_));
  }

  std::string Listen() {
    auto serving = std::make_unique<Serving>(options_, credentials_, channels_, &metrics_);
    std::string error = serving->Start(listen_);
    if (!error.empty()) {
      return error;
    }
    // The same port whenever it listens again.
    listen_ = options_.listen.substr(0, options_.listen.rfind(':') + 1) + std::to_string(serving->port());
    metrics_.SetListening(true);
    MutexLock lock(&mutex_);
    serving_ = std::move(serving);
    return "";
  }

  void Close(int64_t drain_ms) {
    metrics_.SetListening(false);
    Serving* serving = nullptr;
    {
      MutexLock lock(&mutex_);
      serving = serving_.get();
    }
    if (serving == nullptr) {
      return;
    }
    if (!serving->Stop(drain_ms)) {
      LogWarning("ended with calls that do not end");
      _exit(draining_ ? 0 : kExitFailure);
    }
    std::unique_ptr<Serving> ended;
    {
      MutexLock lock(&mutex_);
      ended = std::move(serving_);
    }
  }

  void LogListening(const char* event) {
    MutexLock lock(&mutex_);
    LogInfo(event, {{"listen", options_.listen},
                    {"port", std::to_string(serving_->port())},
                    {"upstream", options_.upstream},
                    {"id", serving_->relay_id()},
                    {"tls", options_.tls.used ? "yes" : "no"},
                    {"admin_port", std::to_string(admin_.port())}});
  }

  // Waits a moment. Returns whether a signal says that this is the end, or the parent is gone.
  bool IsToEnd(const sigset_t& signals) {
    const timespec moment{0, kLookMs * 1'000'000};
    const int signal = sigtimedwait(&signals, nullptr, &moment);
    if (signal > 0) {
      LogInfo("ending", {{"signal", std::to_string(signal)}});
      return true;
    }
    if (options_.parent_pid > 0 && getppid() != options_.parent_pid) {
      LogInfo("ending", {{"reason", "the process that started this relay has ended"}});
      return true;
    }
    return false;
  }

  // How the connections to the upstream stand. One that is broken tells, whatever the others look like: where packets
  // vanish, a connection on which nobody sends stays as it was for minutes.
  Upstream Look() {
    if (!metrics_.listening()) {
      // Without a listener no thread polls the network, so the attempt to connect needs this one.
      const auto moment = std::chrono::system_clock::now() + std::chrono::milliseconds(kLookMs);
      return channels_.calls.front()->WaitForConnected(moment) ? Upstream::kReachable : Upstream::kOutOfReach;
    }
    Upstream seen = Upstream::kReachable;
    for (const auto& channel : channels_.calls) {
      const grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
      if (state == GRPC_CHANNEL_IDLE) {
        seen = Upstream::kUnknown;
      } else if (state != GRPC_CHANNEL_READY) {
        return Upstream::kOutOfReach;
      }
    }
    return seen;
  }

  void Answer(const std::string& path, AdminServer::Respond respond) {
    MutexLock lock(&mutex_);
    if (path == "/healthz") {
      const bool alive = serving_ == nullptr || serving_->Alive();
      respond({alive ? 200 : 503, "text/plain", alive ? "alive\n" : "a thread does not answer\n"});
    } else if (path == "/readyz") {
      respond(Readiness());
    } else if (path == "/metrics") {
      static constexpr char kType[] = "text/plain; version=0.0.4";
      if (serving_ == nullptr) {
        respond({200, kType, metrics_.Render()});
        return;
      }
      serving_->AskMetrics([respond = std::move(respond), own = metrics_.Render()](const std::string& sync) {
        respond({200, kType, own + sync});
      });
    } else if (path != "/status") {
      respond({404, "text/plain", "there are /metrics, /status, /healthz and /readyz\n"});
    } else if (serving_ == nullptr) {
      respond({503, "text/plain", Closed()});
    } else {
      serving_->AskStatus([respond = std::move(respond)](const std::string& status) {
        respond({200, "application/json", status + "\n"});
      });
    }
  }

  std::string Closed() const {
    return options_.upstream + " is out of reach; this relay listens again when that is back\n";
  }

  // Whether new nodes would get anywhere.
  AdminServer::Response Readiness() const {
    if (draining_) {
      return {503, "text/plain", "shutting down\n"};
    }
    if (!metrics_.listening()) {
      return {503, "text/plain", Closed()};
    }
    const bool ready = channels_.calls.front()->GetState(/*try_to_connect=*/true) == GRPC_CHANNEL_READY;
    return {ready ? 200 : 503, "text/plain", ready ? "ready\n" : "not connected to " + options_.upstream + "\n"};
  }

  const Options& options_;
  const Credentials& credentials_;
  Metrics metrics_;
  Serving::Channels channels_;
  UpstreamWatch watch_;
  std::string listen_;
  std::atomic<bool> draining_{false};
  Mutex mutex_;
  // Null while the relay does not listen. The main thread replaces it; it stops it before it does.
  std::unique_ptr<Serving> serving_ ABSL_GUARDED_BY(mutex_);
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
  const std::string failure = relay.RunUntil(signals);
  if (!failure.empty()) {
    LogError("cannot go on", {{"reason", failure}});
    return kExitFailure;
  }
  relay.Stop();
  LogInfo("ended");
  return 0;
}

int Main(int argc, char** argv) {
  // One thread polls for all (event_loop.h), which other ways of polling do not offer.
  setenv("GRPC_POLL_STRATEGY", "epoll1", /*overwrite=*/1);
  // A current gRPC would hand what that thread polls to threads of its own: four times as many sleeps for each call.
  if constexpr (GRPC_CPP_VERSION_MAJOR > 1 || GRPC_CPP_VERSION_MINOR >= 60) {
    setenv("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener", /*overwrite=*/1);
  }
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
