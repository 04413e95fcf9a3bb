// See sync_stream.h.

#include "mantaray/relay/sync_stream.h"

#include <utility>

#include "mantaray/relay/log.h"
#include "mantaray/relay/wire_bytes.h"

namespace mantaray::relay {
namespace {

// How long a client that reads nothing may keep the end of its stream waiting.
constexpr int64_t kCloseMs = 1'000;

bool IsOwn(const grpc::string_ref& key) { return key == "node_id" || key.starts_with("mantaray-"); }

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

SyncStream::SyncStream(SyncService* service)
    : service_(service),
      stream_(&context_),
      accepted_(this, &SyncStream::OnAccepted),
      done_(this, &SyncStream::OnDone),
      read_(this, &SyncStream::OnRead),
      written_(this, &SyncStream::OnWrite),
      finished_(this, &SyncStream::OnFinish) {}

void SyncStream::Accept() {
  context_.AsyncNotifyWhenDone(&done_);
  service_->method_.Request(&context_, &stream_, service_->loop_->queue(), service_->polled_, &accepted_);
}

void SyncStream::Expel(const grpc::Status& status) {
  LeaveCore();
  FinishWith(status);
}

void SyncStream::Close(const absl::Status& status) {
  LogInfo("stream ended", {{"node", node_}, {"peer", peer()}, {"reason", std::string(status.message())}});
  id_ = syncer::kNoStream;
  end_ = ToGrpc(status);
  DeferPump();
}

void SyncStream::OnAccepted(bool ok) {
  if (!ok) {
    delete this;  // The server is shutting down; there will be no done event either.
    return;
  }
  service_->loop_->Post([this] { Welcome(); });
}

void SyncStream::Welcome() {
  service_->AcceptOne();
  if (gone_) {
    delete this;  // It was over before this loop had heard of it.
    return;
  }
  service_->streams_.insert(this);
  BeginOne();  // the done event
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
  BeginOne();
  service_->Verify(credentials_key_, credentials, *path,
                   [this](const grpc::Status& status, const OwnedMetadata& answer) {
                     if (!EndOne()) {
                       OnVerified(status, answer);
                     }
                   });
}

void SyncStream::OnVerified(const grpc::Status& status, const OwnedMetadata& answer) {
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

void SyncStream::Refuse(const absl::Status& why) {
  LogWarning("stream refused", {{"node", node_}, {"peer", peer()}, {"reason", std::string(why.message())}});
  FinishWith(ToGrpc(why));
}

void SyncStream::Begin(syncer::StreamId id) {
  id_ = id;
  ++service_->credentials_[credentials_key_].streams;
  counted_ = true;
  LogInfo("stream taken", {{"node", node_}, {"peer", peer()}});
  service_->ConnectUpstream();
  writing_ = true;
  BeginOne();
  stream_.SendInitialMetadata(&written_);
  Read();
}

void SyncStream::Read() {
  BeginOne();
  stream_.Read(&message_, &read_);
}

void SyncStream::OnRead(bool ok) {
  if (EndOne()) {
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

void SyncStream::Pump() {
  if (writing_ || finishing_ || gone_) {
    return;
  }
  if (end_.has_value()) {
    finishing_ = true;
    BeginOne();
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
    BeginOne();
    stream_.Write(ToByteBuffer(*frame), options, &written_);
  }
}

void SyncStream::OnWrite(bool ok) {
  writing_ = false;
  if (EndOne()) {
    return;
  }
  if (ok || end_.has_value()) {
    Pump();
  }
  service_->Arm();
}

void SyncStream::OnDone(bool /*ok*/) {
  gone_ = true;
  if (idle()) {
    return;  // Welcome is still to come.
  }
  if (id_ != syncer::kNoStream) {
    LogInfo("stream lost", {{"node", node_}, {"peer", peer()}});
  }
  LeaveCore();
  EndOne();
}

void SyncStream::LeaveCore() {
  if (id_ != syncer::kNoStream) {
    service_->core_.RemoveDownstream(std::exchange(id_, syncer::kNoStream));
    service_->Arm();
  }
}

void SyncStream::FinishWith(const grpc::Status& status) {
  if (!end_.has_value()) {
    end_ = status;
    DeferPump();
  }
}

void SyncStream::DeferPump() {
  if (pump_deferred_) {
    return;
  }
  pump_deferred_ = true;
  BeginOne();
  service_->loop_->Defer([this] {
    pump_deferred_ = false;
    if (EndOne()) {
      return;
    }
    Pump();
    if (end_.has_value() && writing_ && !finishing_) {
      CancelLater();
    }
  });
}

void SyncStream::CancelLater() {
  BeginOne();
  service_->loop_->Schedule(kCloseMs, [this] {
    if (!EndOne() && writing_) {
      context_.TryCancel();
    }
  });
}

void SyncStream::LastEnded() {
  if (counted_) {
    service_->Leave(credentials_key_);
  }
  service_->streams_.erase(this);
}

std::string SyncStream::admin() const { return ValueOf(context_.client_metadata(), kAdminKey); }

}  // namespace mantaray::relay
