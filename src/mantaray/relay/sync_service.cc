// See sync_service.h.

#include "mantaray/relay/sync_service.h"

#include <grpcpp/impl/rpc_service_method.h>

#include <algorithm>
#include <utility>

#include "mantaray/relay/log.h"
#include "mantaray/relay/probe.h"
#include "mantaray/relay/sync_stream.h"

namespace mantaray::relay {
namespace {

// Streams waited for at once.
constexpr int kAccepting = 64;
// Withdrawals that may be under way at the same time.
constexpr int kWithdrawals = 4;

bool IsRefusal(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
         status.error_code() == grpc::StatusCode::PERMISSION_DENIED;
}

}  // namespace

SyncMethod::SyncMethod() {
  AddMethod(new grpc::internal::RpcServiceMethod("/ray.rpc.syncer.RaySyncer/StartSync",
                                                 grpc::internal::RpcMethod::BIDI_STREAMING, nullptr));
  MarkMethodAsync(0);
  MarkMethodRaw(0);
}

void SyncMethod::Request(grpc::ServerContext* context, Stream* stream, grpc::CompletionQueue* queue,
                         grpc::ServerCompletionQueue* accepting, void* tag) {
  RequestAsyncBidiStreaming(0, context, stream, queue, accepting, tag);
}

SyncService::SyncService(EventLoop* loop, grpc::ServerCompletionQueue* polled, std::shared_ptr<grpc::Channel> channel,
                         Options options)
    : loop_(loop),
      polled_(polled),
      options_(std::move(options)),
      stub_(std::move(channel)),
      core_(options_.core, &clock_, this),
      random_(std::random_device{}()) {}

SyncService::~SyncService() = default;

void SyncService::Start() {
  for (int i = 0; i < kAccepting; ++i) {
    AcceptOne();
  }
  Arm();
}

void SyncService::Drain() {
  loop_->Post([this] {
    draining_ = true;
    const std::vector<SyncStream*> streams(streams_.begin(), streams_.end());
    for (SyncStream* stream : streams) {
      stream->Expel(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay is shutting down"));
    }
    if (upstream_ != nullptr) {
      upstream_->Cancel();
    }
    loop_->Cancel(reconnect_timer_);
  });
}

std::map<syncer::StreamId, SyncService::Remote> SyncService::Remotes() const {
  std::map<syncer::StreamId, Remote> remotes;
  for (const SyncStream* stream : streams_) {
    remotes[stream->id()] = {stream->peer(), stream->admin()};
  }
  return remotes;
}

void SyncService::AcceptOne() { (new SyncStream(this))->Accept(); }

// --- Who may come

void SyncService::Verify(const CredentialsKey& key, const OwnedMetadata& metadata, const std::string& path,
                         Verified verified) {
  SyncCredentials& credentials = credentials_[key];
  if (EventLoop::NowMs() < credentials.trusted_until_ms) {
    verified(grpc::Status::OK, credentials.answer);
    return;
  }
  credentials.metadata = metadata;
  credentials.waiting.push_back(std::move(verified));
  if (credentials.asking) {
    return;
  }
  credentials.asking = true;
  syncer::NodeId nobody;
  std::generate(nobody.bytes.begin(), nobody.bytes.end(), [this] { return static_cast<char>(random_()); });
  OpenProbe(metadata, path, nobody,
            [this, key](const grpc::Status& status, const OwnedMetadata& answer) { OnProbed(key, status, answer); });
}

void SyncService::OpenProbe(const OwnedMetadata& credentials, const std::string& path, const syncer::NodeId& node,
                            Verified done) {
  OwnedMetadata metadata = credentials;
  metadata.emplace_back(kPathKey, path);
  const syncer::StreamMetadata own = core_.WithdrawMetadata(node);
  metadata.insert(metadata.end(), own.begin(), own.end());
  ++probes_;
  Probe::Open(&stub_, loop_, polled_, metadata,
              [this, done = std::move(done)](const grpc::Status& status, const OwnedMetadata& answer) {
                --probes_;
                done(status, answer);
              });
}

void SyncService::OnProbed(const CredentialsKey& key, const grpc::Status& status, const OwnedMetadata& answer) {
  SyncCredentials& credentials = credentials_[key];
  credentials.asking = false;
  if (status.ok()) {
    credentials.trusted_until_ms = EventLoop::NowMs() + kTrustMs;
    credentials.answer = answer;
    credentials.verified = ++last_verified_;
  }
  const std::vector<Verified> waiting = std::exchange(credentials.waiting, {});
  for (const Verified& verified : waiting) {
    verified(status, answer);
  }
  const auto found = credentials_.find(key);
  if (found != credentials_.end() && found->second.streams == 0 && !found->second.asking) {
    credentials_.erase(found);
  }
  // It may have waited for this question.
  Withdraw();
}

void SyncService::Leave(const CredentialsKey& key) {
  const auto left = credentials_.find(key);
  if (left == credentials_.end() || --left->second.streams > 0) {
    return;
  }
  // When no stream is left, the last ones stay. The nodes that they belong to are still to be withdrawn.
  const bool last = CredentialsToShow(credentials_) == nullptr;
  std::erase_if(credentials_, [&key, last](const auto& entry) {
    const bool stays = last && entry.first == key;
    return entry.second.streams == 0 && !entry.second.asking && !stays;
  });
}

void SyncService::ExpelAll(const CredentialsKey& key, const grpc::Status& status) {
  const auto found = credentials_.find(key);
  if (found != credentials_.end()) {
    found->second.trusted_until_ms = 0;
  }
  const std::vector<SyncStream*> streams(streams_.begin(), streams_.end());
  for (SyncStream* stream : streams) {
    if (stream->credentials_key() == key) {
      stream->Expel(status);
    }
  }
}

// --- Upstream

void SyncService::ConnectUpstream() {
  if (upstream_ != nullptr || draining_ || reconnect_timer_ != 0) {
    return;
  }
  const auto* credentials = CredentialsToShow(credentials_);
  if (credentials == nullptr) {
    return;  // Nobody is here whom it could be for.
  }
  OwnedMetadata metadata = credentials->second.metadata;
  const syncer::StreamMetadata own = core_.UpstreamMetadata();
  metadata.insert(metadata.end(), own.begin(), own.end());
  if (!options_.admin_advertise.empty()) {
    metadata.emplace_back(kAdminKey, options_.admin_advertise);
  }
  const CredentialsKey key = credentials->first;
  UpstreamStream::Callbacks callbacks;
  callbacks.connected = [this](const OwnedMetadata&) {
    LogInfo("upstream connected", {{"upstream", options_.upstream}});
    upstream_problem_.clear();
    backoff_.Reset();
  };
  callbacks.ended = [this, key](const grpc::Status& status) { OnUpstreamEnded(key, status); };
  callbacks.acted = [this] { Arm(); };
  upstream_ = UpstreamStream::Open(&stub_, loop_, polled_, &core_, metadata, std::move(callbacks));
}

void SyncService::OnUpstreamEnded(const CredentialsKey& key, const grpc::Status& status) {
  upstream_ = nullptr;
  if (draining_) {
    return;
  }
  upstream_problem_ = status.error_message().empty() ? "the upstream ended the stream" : status.error_message();
  if (IsRefusal(status)) {
    ExpelAll(key, status);
  }
  const auto delay_ms = backoff_.NextMs(std::uniform_real_distribution<double>(0, 1)(random_));
  LogWarning("upstream lost",
             {{"upstream", options_.upstream}, {"reason", upstream_problem_}, {"retry_ms", std::to_string(delay_ms)}});
  reconnect_timer_ = loop_->Schedule(delay_ms, [this] {
    reconnect_timer_ = 0;
    ConnectUpstream();
  });
}

void SyncService::NodeLeft(const syncer::NodeId& node_id) {
  LogInfo("node left", {{"node", node_id.Hex()}});
  to_withdraw_.push_back(node_id);
  if (to_withdraw_.size() == 1) {
    loop_->Defer([this] { Withdraw(); });
  }
}

void SyncService::Withdraw() {
  const auto* credentials = CredentialsToShow(credentials_);
  for (const auto& entry : credentials_) {
    const bool newer = credentials == nullptr ||
                       (credentials->second.streams == 0 && entry.second.verified > credentials->second.verified);
    if (entry.second.verified > 0 && newer) {
      credentials = &entry;
    }
  }
  if (draining_ || credentials == nullptr) {
    to_withdraw_.clear();
    return;
  }
  // A GCS answers each withdrawal with all that it knows. A thousand at once would be all that it does.
  while (!to_withdraw_.empty() && probes_ < kWithdrawals) {
    const syncer::NodeId node = to_withdraw_.back();
    to_withdraw_.pop_back();
    // The node may have come back while others went before it.
    if (const syncer::NodeState* known = core_.view().Find(node); known != nullptr) {
      continue;
    }
    OpenProbe(credentials->second.metadata, relay_id(), node,
              [this](const grpc::Status&, const OwnedMetadata&) { Withdraw(); });
  }
}

void SyncService::Arm() {
  const int64_t due_ms = core_.NextDeadlineMs();
  if (due_ms >= tick_due_ms_) {
    return;
  }
  loop_->Cancel(tick_timer_);
  tick_due_ms_ = due_ms;
  tick_timer_ = loop_->Schedule(std::max<int64_t>(0, due_ms - EventLoop::NowMs()), [this] {
    tick_due_ms_ = syncer::kNeverMs;
    tick_timer_ = 0;
    core_.Tick();
    Arm();
  });
}

}  // namespace mantaray::relay
