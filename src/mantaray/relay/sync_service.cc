// See sync_service.h.

#include "mantaray/relay/sync_service.h"

#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/server_context.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "mantaray/relay/log.h"
#include "mantaray/relay/probe.h"
#include "mantaray/relay/wire_bytes.h"

namespace mantaray::relay {
namespace {

// Streams waited for at once.
constexpr int kAccepting = 64;
// Withdrawals that may be under way at the same time.
constexpr int kWithdrawals = 4;
// How long a client that reads nothing may keep the end of its stream waiting.
constexpr int64_t kCloseMs = 1'000;

bool IsOwn(const grpc::string_ref& key) { return key == "node_id" || key.starts_with("mantaray-"); }

bool IsRefusal(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
         status.error_code() == grpc::StatusCode::PERMISSION_DENIED;
}

// What a client sent that is not about the stream itself: its credentials, and whatever else the upstream may look at.
OwnedMetadata CredentialsOf(const ReceivedMetadata& received) {
  OwnedMetadata credentials;
  for (const auto& [key, value] : received) {
    if (IsCarried(key) && !IsOwn(key)) {
      credentials.emplace_back(ToString(key), ToString(value));
    }
  }
  return credentials;
}

std::string KeyOf(const OwnedMetadata& credentials) {
  std::string key;
  for (const auto& [name, value] : credentials) {
    for (const std::string* part : {&name, &value}) {
      key += std::to_string(part->size());
      key += ':';
      key += *part;
    }
  }
  return key;
}

std::string ValueOf(const ReceivedMetadata& received, const char* key) {
  const auto found = received.find(key);
  return found == received.end() ? "" : ToString(found->second);
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

// One downstream stream. Deletes itself when nothing is under way any more; gRPC's event for the end of an accepted
// stream keeps it until then.
class SyncStream final : public syncer::Peer {
 public:
  explicit SyncStream(SyncService* service)
      : service_(service),
        stream_(&context_),
        accepted_(this, &SyncStream::OnAccepted),
        done_(this, &SyncStream::OnDone),
        read_(this, &SyncStream::OnRead),
        written_(this, &SyncStream::OnWrite),
        finished_(this, &SyncStream::OnFinish) {}

  void Accept() {
    context_.AsyncNotifyWhenDone(&done_);
    service_->method_.Request(&context_, &stream_, service_->loop_->queue(), service_->polled_, &accepted_);
  }

  const std::string& credentials_key() const { return credentials_key_; }
  syncer::StreamId id() const { return id_; }
  std::string peer() const { return context_.peer(); }
  std::string admin() const { return ValueOf(context_.client_metadata(), kAdminKey); }

  // Ends it from our side; the core has not heard of that yet.
  void Expel(const grpc::Status& status) {
    LeaveCore();
    FinishWith(status);
  }

  // syncer::Peer
  void WriteReady() override { DeferPump(); }
  void Close(const absl::Status& status) override {
    LogInfo("stream ended", {{"node", node_}, {"peer", peer()}, {"reason", std::string(status.message())}});
    id_ = syncer::kNoStream;
    end_ = ToGrpc(status);
    DeferPump();
  }

 private:
  // On the thread of another loop.
  void OnAccepted(bool ok) {
    if (!ok) {
      delete this;  // The server is shutting down; there will be no done event either.
      return;
    }
    service_->loop_->Post([this] { Welcome(); });
  }

  void Welcome() {
    service_->AcceptOne();
    if (gone_) {
      delete this;  // It was over before this loop had heard of it.
      return;
    }
    service_->streams_.insert(this);
    pending_ = 1;  // the done event
    node_ = ValueOf(context_.client_metadata(), "node_id");
    if (service_->draining_) {
      FinishWith(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay is shutting down"));
      return;
    }
    const auto path = PathWith(context_.client_metadata(), service_->relay_id());
    if (!path.has_value()) {
      Refuse(service_->core_.RefuseRing());
      return;
    }
    const OwnedMetadata credentials = CredentialsOf(context_.client_metadata());
    credentials_key_ = KeyOf(credentials);
    ++pending_;
    service_->Verify(credentials_key_, credentials, *path,
                     [this](const grpc::Status& status, const OwnedMetadata& answer) {
                       if (!Ended()) {
                         OnVerified(status, answer);
                       }
                     });
  }

  void OnVerified(const grpc::Status& status, const OwnedMetadata& answer) {
    if (gone_ || end_.has_value()) {
      return;
    }
    if (!status.ok()) {
      LogWarning("stream refused by upstream", {{"node", node_}, {"peer", peer()}, {"reason", status.error_message()}});
      FinishWith(status);
      return;
    }
    const auto id = service_->core_.AddDownstream(ToStreamMetadata(context_.client_metadata()), this);
    const bool withdrawal = absl::IsCancelled(id.status());
    if (!id.ok() && !withdrawal) {
      Refuse(id.status());
      return;
    }
    for (const auto& [key, value] : answer) {
      if (IsCarried(key) && !grpc::string_ref(key).starts_with("mantaray-")) {
        context_.AddInitialMetadata(key, value);
      }
    }
    for (const auto& [key, value] : service_->core_.DownstreamMetadata()) {
      context_.AddInitialMetadata(key, value);
    }
    if (withdrawal) {
      FinishWith(grpc::Status::OK);
    } else {
      Begin(*id);
    }
    service_->Arm();
  }

  void Refuse(const absl::Status& why) {
    LogWarning("stream refused", {{"node", node_}, {"peer", peer()}, {"reason", std::string(why.message())}});
    FinishWith(ToGrpc(why));
  }

  void Begin(syncer::StreamId id) {
    id_ = id;
    ++service_->credentials_[credentials_key_].streams;
    counted_ = true;
    LogInfo("stream taken", {{"node", node_}, {"peer", peer()}});
    service_->ConnectUpstream();
    writing_ = true;
    ++pending_;
    stream_.SendInitialMetadata(&written_);
    Read();
  }

  void Read() {
    ++pending_;
    stream_.Read(&message_, &read_);
  }

  void OnRead(bool ok) {
    if (Ended()) {
      return;
    }
    if (!ok) {
      // The client has said all it wants to say.
      if (!gone_ && !end_.has_value()) {
        Expel(grpc::Status::OK);
      }
      return;
    }
    if (id_ != syncer::kNoStream) {
      const FlatBytes bytes(message_);
      const uint64_t stale = service_->core_.metrics().stale;
      service_->core_.OnDownstreamBytes(id_, bytes.view());
      if (const uint64_t dropped = service_->core_.metrics().stale - stale; dropped > 0) {
        LogDebug("stale messages dropped", {{"node", node_}, {"peer", peer()}, {"count", std::to_string(dropped)}});
      }
    }
    message_.Clear();
    if (!end_.has_value()) {
      Read();
    }
    service_->Arm();
  }

  void Pump() {
    if (writing_ || finishing_ || gone_) {
      return;
    }
    if (end_.has_value()) {
      finishing_ = true;
      ++pending_;
      stream_.Finish(*end_, &finished_);
      return;
    }
    if (id_ == syncer::kNoStream) {
      return;
    }
    std::optional<syncer::Frame> frame = std::exchange(ahead_, std::nullopt);
    if (!frame.has_value()) {
      frame = service_->core_.Take(id_);
    }
    if (frame.has_value()) {
      // Frames that leave together leave in one write to the connection: bare messages are many.
      ahead_ = service_->core_.Take(id_);
      grpc::WriteOptions options;
      if (ahead_.has_value()) {
        options.set_buffer_hint();
      }
      writing_ = true;
      ++pending_;
      stream_.Write(ToByteBuffer(*frame), options, &written_);
    }
  }

  void OnWrite(bool ok) {
    writing_ = false;
    if (Ended()) {
      return;
    }
    if (ok || end_.has_value()) {
      Pump();
    }
    service_->Arm();
  }

  void OnFinish(bool /*ok*/) { Ended(); }

  // The stream is over for the client, in whichever way.
  void OnDone(bool /*ok*/) {
    gone_ = true;
    if (pending_ == 0) {
      return;  // Welcome is still to come.
    }
    if (id_ != syncer::kNoStream) {
      LogInfo("stream lost", {{"node", node_}, {"peer", peer()}});
    }
    LeaveCore();
    Ended();
  }

  void LeaveCore() {
    if (id_ != syncer::kNoStream) {
      service_->core_.RemoveDownstream(std::exchange(id_, syncer::kNoStream));
      service_->Arm();
    }
  }

  void FinishWith(const grpc::Status& status) {
    if (!end_.has_value()) {
      end_ = status;
      DeferPump();
    }
  }

  void DeferPump() {
    if (pump_deferred_) {
      return;
    }
    pump_deferred_ = true;
    ++pending_;
    service_->loop_->Defer([this] {
      pump_deferred_ = false;
      if (Ended()) {
        return;
      }
      Pump();
      if (end_.has_value() && writing_ && !finishing_) {
        CancelLater();
      }
    });
  }

  // A client that does not read holds up the write that is under way, and so the end. It has had its time.
  void CancelLater() {
    ++pending_;
    service_->loop_->Schedule(kCloseMs, [this] {
      if (!Ended() && writing_) {
        context_.TryCancel();
      }
    });
  }

  // Every event calls it once, first thing: true when nothing more is under way, and `this` is gone.
  bool Ended() {
    if (--pending_ > 0) {
      return false;
    }
    if (counted_) {
      service_->Leave(credentials_key_);
    }
    service_->streams_.erase(this);
    delete this;
    return true;
  }

  SyncService* service_;
  grpc::ServerContext context_;
  SyncMethod::Stream stream_;
  grpc::ByteBuffer message_;
  std::string node_;
  std::string credentials_key_;
  syncer::StreamId id_ = syncer::kNoStream;
  std::optional<grpc::Status> end_;
  std::optional<syncer::Frame> ahead_;  // the next to be written
  int pending_ = 0;
  bool counted_ = false;
  bool writing_ = false;
  bool finishing_ = false;
  bool gone_ = false;
  bool pump_deferred_ = false;
  MethodEvent<SyncStream> accepted_;
  MethodEvent<SyncStream> done_;
  MethodEvent<SyncStream> read_;
  MethodEvent<SyncStream> written_;
  MethodEvent<SyncStream> finished_;
};

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
