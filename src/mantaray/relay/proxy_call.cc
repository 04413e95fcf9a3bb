// See proxy_call.h.

#include "mantaray/relay/proxy_call.h"

#include <grpc/grpc.h>

#include <utility>

#include "mantaray/relay/health.h"
#include "mantaray/relay/metadata.h"
#include "mantaray/relay/shared_methods.h"

namespace mantaray::relay {

ProxyCall::ProxyCall(Proxy* proxy)
    : proxy_(proxy),
      server_stream_(&server_context_),
      accepted_(this, &ProxyCall::OnAccepted),
      done_(this, &ProxyCall::OnDone),
      server_read_(this, &ProxyCall::OnServerRead),
      server_write_(this, &ProxyCall::OnServerWrite),
      server_finish_(this, &ProxyCall::OnServerFinish),
      client_metadata_(this, &ProxyCall::OnClientMetadata),
      client_read_(this, &ProxyCall::OnClientRead),
      client_write_(this, &ProxyCall::OnClientWrite),
      client_finish_(this, &ProxyCall::OnClientFinish) {}

void ProxyCall::Accept() {
  auto* queue = proxy_->queue_;
  server_context_.AsyncNotifyWhenDone(&done_);
  proxy_->service_.RequestCall(&server_context_, &server_stream_, queue, queue, &accepted_);
}

void ProxyCall::Abort(const grpc::Status& status) {
  if (status_.has_value()) {
    return;
  }
  LeaveOthers();
  status_ = status;
  down_.Clear();
  if (watches_health_) {
    HeldMessage last = proxy_->Hold(HealthResponse(false));
    down_.Push(&last);
  }
  CancelUpstream();
  MaybeFinish();
}

std::optional<BulkCall<ProxyCall*>> ProxyCall::Bulk(int64_t now_ms) {
  if (written_down_.bytes.Length() >= kBulkBytes) {
    return BulkCall<ProxyCall*>{this, write_ms_, /*waits_for_reader=*/true};
  }
  if (written_up_.bytes.Length() >= kBulkBytes) {
    return BulkCall<ProxyCall*>{this, write_ms_, /*waits_for_reader=*/false};
  }
  // Only gRPC knows how large an arriving message is, but a small message does not take so long.
  if (arrives_ms_ != 0 && now_ms - arrives_ms_ >= kSmallArrivesWithinMs && !status_.has_value()) {
    return BulkCall<ProxyCall*>{this, arrives_ms_, /*waits_for_reader=*/false};
  }
  return std::nullopt;
}

void ProxyCall::EndForMemory() {
  constexpr char kWhy[] = "this relay has taken as much memory as its --max-memory-bytes allows";
  proxy_->metrics_->CallEndedForMemory();
  if (writing_down_ || finishing_) {
    // A client that does not read would not get the status either. RST_STREAM reaches it, and gRPC's clients report
    // its code as UNAVAILABLE.
    CancelUpstream();
    grpc_call_cancel_with_status(server_context_.c_call(), GRPC_STATUS_UNAVAILABLE, kWhy, nullptr);
  } else {
    Abort(grpc::Status(grpc::StatusCode::UNAVAILABLE, kWhy));
  }
}

void ProxyCall::OnAccepted(bool ok) {
  if (!ok) {
    delete this;  // The server is shutting down; there will be no done event either.
    return;
  }
  proxy_->AcceptOne();
  proxy_->calls_.insert(this);
  proxy_->metrics_->ProxyCallStarted();
  BeginOne();  // the done event
  started_ = std::chrono::steady_clock::now();
  CountAmongReads();
  if (!proxy_->serving_) {
    Abort(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay is shutting down"));
    return;
  }
  if (proxy_->calls_.size() > proxy_->limits_.calls) {
    proxy_->metrics_->CallRefused();
    Abort(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay carries as many calls as its --max-calls allows"));
    return;
  }
  if (proxy_->refuses_) {
    proxy_->metrics_->CallEndedForMemory();
    Abort(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay has no memory left for calls"));
    return;
  }
  arrives_ms_ = EventLoop::NowMs();
  // Whom a health check asks for is in its message, and so is what a read asks for.
  if (IsHealthMethod(server_context_.method()) || shared_method_.has_value() || PrepareUpstream()) {
    ReadFromClient();
  }
}

bool ProxyCall::PrepareUpstream() {
  const auto path = PathWith(server_context_.client_metadata(), proxy_->relay_id_);
  if (!path.has_value()) {
    proxy_->metrics_->RingRefused();
    Abort(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                       "this call has come through this relay before: the relays form a ring"));
    return false;
  }
  CopyClientMetadata(server_context_.client_metadata(), &client_context_);
  client_context_.AddMetadata(kPathKey, *path);
  client_context_.set_deadline(server_context_.raw_deadline());
  client_stream_ = proxy_->StubFor(server_context_.peer())
                       ->PrepareCall(&client_context_, server_context_.method(), proxy_->loop_->queue());
  // Whether the call is for a package is in its message, which may come later than its beginning.
  waits_for_request_ = server_context_.method() == kFetchMethod;
  DeferFlush();
  return true;
}

void ProxyCall::StartUpstream() {
  started_upstream_ = true;
  const bool with_message = !up_.empty();
  client_context_.set_initial_metadata_corked(with_message);
  if (!with_message) {
    writing_up_ = true;
    BeginOne();
  }
  client_stream_->StartCall(with_message ? nullptr : &client_write_);
}

void ProxyCall::CancelUpstream() {
  if (client_stream_ != nullptr && !upstream_over_) {
    client_context_.TryCancel();
  }
}

// --- Up: what the client sends

void ProxyCall::ReadFromClient() {
  BeginOne();
  reading_client_ = true;
  server_stream_.Read(&server_message_, &server_read_);
}

void ProxyCall::OnServerRead(bool ok) {
  reading_client_ = false;
  arrives_ms_ = 0;
  if (EndOne()) {
    return;
  }
  if (client_stream_ == nullptr) {
    if (status_.has_value() || watches_health_ || waits_for_read_ || (ok && StaysHere()) || !PrepareUpstream()) {
      return;
    }
  }
  half_closed_ = !ok;
  waits_for_request_ = false;
  if (ok) {
    HeldMessage message = proxy_->Hold(server_message_);
    server_message_.Clear();
    up_.Push(&message);
    JoinPackage();
  }
  // A unary call leaves as one write. So a first message waits for what may be there already, the end of the call.
  if (half_closed_ || up_.full()) {
    WriteUpstream();
  } else {
    DeferFlush();
  }
  if (!reading_client_ && !half_closed_ && !up_.full()) {
    ReadFromClient();
  }
}

void ProxyCall::WriteUpstream() {
  if (waits_for_request_ || waits_for_package_ || writing_up_ || writes_done_ || upstream_over_ ||
      status_.has_value()) {
    return;
  }
  const bool opens = !started_upstream_;
  if (opens) {
    StartUpstream();
  }
  WriteNextUpstream();
  if (opens) {
    BeginOne();
    client_stream_->ReadInitialMetadata(&client_metadata_);
  }
}

void ProxyCall::WriteNextUpstream() {
  if (writing_up_) {
    return;
  }
  if (!up_.empty()) {
    up_.PopInto(&written_up_);
    grpc::WriteOptions options;
    if (half_closed_ && up_.empty()) {
      options.set_last_message();
      writes_done_ = true;
    }
    writing_up_ = true;
    write_ms_ = EventLoop::NowMs();
    BeginOne();
    client_stream_->Write(written_up_.bytes, options, &client_write_);
    if (!reading_client_ && !half_closed_) {
      ReadFromClient();
    }
  } else if (half_closed_) {
    writing_up_ = writes_done_ = true;
    BeginOne();
    client_stream_->WritesDone(&client_write_);
  }
}

void ProxyCall::OnClientWrite(bool ok) {
  writing_up_ = false;
  written_up_.Clear();
  upstream_over_ = upstream_over_ || !ok;  // Its status comes by itself.
  if (!EndOne()) {
    WriteUpstream();
  }
}

// --- Down: what the upstream answers

void ProxyCall::OnClientMetadata(bool ok) {
  if (EndOne()) {
    return;
  }
  if (ok && !status_.has_value()) {
    AddMetadata(CarriedOf(client_context_.GetServerInitialMetadata()), {}, &server_context_);
    owes_metadata_ = true;
    arrives_ms_ = EventLoop::NowMs();
    DeferFlush();
  }
  ReadFromUpstream();
}

void ProxyCall::ReadFromUpstream() {
  BeginOne();
  reading_upstream_ = true;
  client_stream_->Read(&client_message_, &client_read_);
}

void ProxyCall::OnClientRead(bool ok) {
  reading_upstream_ = false;
  arrives_ms_ = 0;
  if (EndOne()) {
    return;
  }
  if (!ok) {
    finishing_upstream_ = true;
    BeginOne();
    client_stream_->Finish(&upstream_status_, &client_finish_);
    return;
  }
  if (status_.has_value()) {
    client_message_.Clear();
    ReadFromUpstream();
    return;
  }
  const bool is_package = fetches_package_ && client_message_.Length() >= kMinPackageBytes;
  HeldMessage message = proxy_->Hold(is_package ? InLargePieces(std::exchange(client_message_, {})) : client_message_);
  client_message_.Clear();
  if (is_package) {
    package_ = message;
  }
  down_.Push(&message);
  if (down_.full()) {
    WriteDown();
  } else {
    DeferFlush();
  }
  if (!reading_upstream_ && !down_.full()) {
    ReadFromUpstream();
  }
}

void ProxyCall::WriteDown() {
  if (writing_down_ || finishing_) {
    return;
  }
  if (!down_.empty()) {
    down_.PopInto(&written_down_);
    owes_metadata_ = false;
    writing_down_ = true;
    write_ms_ = EventLoop::NowMs();
    BeginOne();
    server_stream_.Write(written_down_.bytes, &server_write_);
    if (client_stream_ != nullptr && !reading_upstream_ && !finishing_upstream_) {
      ReadFromUpstream();
    }
  } else if (owes_metadata_) {
    owes_metadata_ = false;
    writing_down_ = true;
    BeginOne();
    server_stream_.SendInitialMetadata(&server_write_);
  }
}

void ProxyCall::OnServerWrite(bool ok) {
  writing_down_ = false;
  written_down_.Clear();
  if (EndOne()) {
    return;
  }
  if (!ok) {
    CancelUpstream();  // The client is gone.
  }
  Flush();
}

void ProxyCall::OnClientFinish(bool /*ok*/) {
  upstream_over_ = true;
  if (EndOne()) {
    return;
  }
  if (fetches_package_) {
    LandPackage();
  }
  if (!status_.has_value()) {
    status_ = upstream_status_;
    AddMetadata({}, CarriedOf(client_context_.GetServerTrailingMetadata()), &server_context_);
  }
  Flush();
}

void ProxyCall::MaybeFinish() {
  if (!status_.has_value() || finishing_ || writing_down_ || down_.full()) {
    return;
  }
  finishing_ = true;
  BeginOne();
  if (down_.single()) {
    down_.PopInto(&written_down_);
    write_ms_ = EventLoop::NowMs();
    server_stream_.WriteAndFinish(written_down_.bytes, grpc::WriteOptions(), *status_, &server_finish_);
  } else {
    server_stream_.Finish(*status_, &server_finish_);
  }
}

void ProxyCall::OnServerFinish(bool /*ok*/) {
  written_down_.Clear();
  EndOne();
}

void ProxyCall::OnDone(bool /*ok*/) {
  LeaveOthers();
  CancelUpstream();
  if (!status_.has_value()) {
    status_ = grpc::Status::CANCELLED;
    finishing_ = true;  // There is nobody left to tell.
  }
  EndOne();
}

// --- Both ways

void ProxyCall::Flush() {
  if (status_.has_value()) {
    if (down_.full()) {
      WriteDown();
    }
    MaybeFinish();
    return;
  }
  if (client_stream_ != nullptr) {
    WriteUpstream();
  }
  WriteDown();
}

void ProxyCall::DeferFlush() {
  if (flush_deferred_) {
    return;
  }
  flush_deferred_ = true;
  BeginOne();
  proxy_->loop_->Defer([this] {
    flush_deferred_ = false;
    if (!EndOne()) {
      Flush();
    }
  });
}

bool ProxyCall::AnswersHealth() {
  if (!AsksForRelay(server_message_)) {
    return false;
  }
  const bool watches = server_context_.method() == kHealthWatch;
  if (watches && proxy_->watches_ >= proxy_->limits_.watches) {
    proxy_->metrics_->WatchRefused();
    Abort(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watch the health of this relay"));
    return true;
  }
  HeldMessage response = proxy_->Hold(HealthResponse(proxy_->serving_));
  down_.Push(&response);
  if (watches) {
    watches_health_ = true;  // until the relay shuts down
    ++proxy_->watches_;
    DeferFlush();
  } else {
    status_ = grpc::Status::OK;
    MaybeFinish();
  }
  return true;
}

void ProxyCall::LastEnded() {
  proxy_->watches_ -= watches_health_ ? 1 : 0;
  if (!writes_for_.empty()) {
    proxy_->reads_.WriteEnded(writes_for_);
  }
  proxy_->calls_.erase(this);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started_;
  proxy_->metrics_->ProxyCallEnded(status_.has_value() ? status_->error_code() : grpc::StatusCode::CANCELLED,
                                   took.count());
}

}  // namespace mantaray::relay
