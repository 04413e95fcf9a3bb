// See serving.h.

#include "mantaray/relay/serving.h"

#include <grpcpp/server_builder.h>
#include <sys/random.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "mantaray/relay/memory_guard.h"

namespace mantaray::relay {
namespace {

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
  if (options.dialect != DialectChoice::kAuto) {
    const bool is_bare = options.dialect == DialectChoice::kBare;
    core.upstream_dialect = is_bare ? syncer::Dialect::kBare : syncer::Dialect::kBatch;
  }
  core.grace_ms = options.grace_ms;
  core.wire.max_message_bytes = static_cast<size_t>(options.max_view_bytes);
  core.noise.enabled = options.suppress_noise;
  return core;
}

SyncService::Options SyncOptions(const Options& options) {
  const std::string& told = options.admin_advertise.empty() ? options.admin_listen : options.admin_advertise;
  return {CoreOptions(options), options.upstream, told};
}

Proxy::Limits ProxyLimits(const Options& options) {
  Proxy::Limits limits;
  limits.calls = static_cast<size_t>(options.max_calls);
  limits.package_bytes = options.package_bytes;
  limits.reads.methods = options.shared_reads;
  limits.reads.window_ms = options.read_window_ms;
  limits.memory_bytes = options.max_memory_bytes > 0 ? options.max_memory_bytes : DefaultMemoryLimitBytes();
  return limits;
}

// Runs a function on a loop and waits for what it returns, or gives up: a loop that does not answer is stuck.
std::optional<bool> AskLoop(EventLoop* loop, const std::function<bool()>& function) {
  auto promise = std::make_shared<std::promise<bool>>();
  std::future<bool> answer = promise->get_future();
  loop->Post([promise, function] { promise->set_value(function()); });
  if (answer.wait_for(std::chrono::seconds(2)) != std::future_status::ready) {
    return std::nullopt;
  }
  return answer.get();
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
  // A current gRPC refuses calls at random while more than 1,000 wait to be taken, as when thousands of nodes come back
  // at once. The proxy has its own limit, and its refusal names the option. The gRPC of some distributions has neither
  // the behaviour nor constants for these names.
  const auto pending = static_cast<int>(options.max_calls);
  builder->AddChannelArgument("grpc.server.max_pending_requests", pending);
  builder->AddChannelArgument("grpc.server.max_pending_requests_hard_limit", 2 * pending);
}

}  // namespace

Serving::Serving(const Options& options, const Credentials& credentials, const Channels& channels, Metrics* metrics)
    : options_(options), credentials_(credentials), channels_(channels), metrics_(metrics) {}

Serving::~Serving() = default;

std::string Serving::Start(const std::string& listen) {
  grpc::ServerBuilder builder;
  ConfigureServer(options_, &builder);
  builder.AddListeningPort(listen, credentials_.server, &port_);
  std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  grpc::ServerCompletionQueue* const polled = queue.get();
  proxy_loop_ = std::make_unique<EventLoop>(std::move(queue), "proxy");
  sync_loop_ = std::make_unique<EventLoop>(EventLoop::QueueThatDoesNotPoll(), "sync");
  proxy_pulse_ = std::make_unique<Pulse<EventLoop>>(proxy_loop_.get());
  sync_pulse_ = std::make_unique<Pulse<EventLoop>>(sync_loop_.get());
  sync_ = std::make_unique<SyncService>(sync_loop_.get(), polled, channels_.sync, SyncOptions(options_));
  proxy_ = std::make_unique<Proxy>(proxy_loop_.get(), polled, channels_.calls, sync_->relay_id(), ProxyLimits(options_),
                                   metrics_);
  builder.RegisterService(sync_->method());
  builder.RegisterAsyncGenericService(proxy_->service());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ == 0) {
    StopLoops();
    return "cannot listen on " + listen;
  }
  proxy_->Start();
  sync_->Start();
  proxy_loop_->Start();
  sync_loop_->Start();
  return "";
}

bool Serving::Stop(int64_t drain_ms) {
  sync_->Drain();
  proxy_->Drain(drain_ms);
  const auto margin = std::chrono::milliseconds(500);
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(drain_ms) + margin);
  if (!WaitUntilIdle()) {
    return false;
  }
  StopLoops();
  return true;
}

bool Serving::Alive() {
  // Both are asked each time.
  const int64_t now_ms = EventLoop::NowMs();
  const bool proxy = proxy_pulse_->Alive(now_ms);
  const bool sync = sync_pulse_->Alive(now_ms);
  return proxy && sync;
}

void Serving::AskMetrics(std::function<void(std::string)> tell) {
  sync_loop_->Post([this, tell = std::move(tell)] { tell(sync_->RenderMetrics()); });
}

void Serving::AskStatus(std::function<void(std::string)> tell) {
  sync_loop_->Post([this, tell = std::move(tell)] { tell(sync_->RenderStatus()); });
}

// A queue may be shut down only when no event of it begins another operation.
bool Serving::WaitUntilIdle() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  while (std::chrono::steady_clock::now() < deadline) {
    const auto proxy = AskLoop(proxy_loop_.get(), [this] { return proxy_->idle(); });
    const auto sync = AskLoop(sync_loop_.get(), [this] { return sync_->idle(); });
    if (proxy == true && sync == true) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

void Serving::StopLoops() {
  proxy_loop_->Stop();
  sync_loop_->Stop();
}

}  // namespace mantaray::relay
