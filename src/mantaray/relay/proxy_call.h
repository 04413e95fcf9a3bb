// A call that the proxy carries. Of the proxy's own; see proxy.h for what is promised.

#ifndef MANTARAY_RELAY_PROXY_CALL_H_
#define MANTARAY_RELAY_PROXY_CALL_H_

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "mantaray/relay/health.h"
#include "mantaray/relay/held_bytes.h"
#include "mantaray/relay/metadata.h"
#include "mantaray/relay/package_key.h"
#include "mantaray/relay/proxy.h"

namespace mantaray::relay {

// One call and its image upstream. Deletes itself when nothing of either is under way any more; the event that gRPC
// delivers at the end of an accepted call is always the last or before the last, so a call lives at least as long as
// its client's.
class ProxyCall final : public PackageCall<FetchedPackage> {
 public:
  explicit ProxyCall(Proxy* proxy)
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

  void Accept() {
    auto* queue = proxy_->queue_;
    server_context_.AsyncNotifyWhenDone(&done_);
    proxy_->service_.RequestCall(&server_context_, &server_stream_, queue, queue, &accepted_);
  }

  // Ends the call from our side, unless it is ending already.
  void Abort(const grpc::Status& status) {
    if (status_.has_value()) {
      return;
    }
    proxy_->packages_.Leave(this);
    status_ = status;
    down_.Clear();
    if (watches_health_) {
      HeldMessage last = Hold(HealthResponse(false));
      down_.Push(&last);
    }
    CancelUpstream();
    MaybeFinish();
  }

  // PackageCall
  void Fetch() override {
    waits_for_package_ = false;
    fetches_package_ = true;
    DeferFlush();
  }
  void Take(const FetchedPackage& package) override {
    waits_for_package_ = false;
    proxy_->metrics_->PackageShared();
    AddMetadata(package.initial, package.trailing, &server_context_);
    HeldMessage message = package.message;
    down_.Push(&message);
    status_ = grpc::Status::OK;
    DeferFlush();
  }

 private:
  void OnAccepted(bool ok) {
    if (!ok) {
      delete this;  // The server is shutting down; there will be no done event either.
      return;
    }
    proxy_->AcceptOne();
    proxy_->calls_.insert(this);
    proxy_->metrics_->ProxyCallStarted();
    pending_ = 1;  // the done event
    started_ = std::chrono::steady_clock::now();
    if (!proxy_->serving_) {
      Abort(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay is shutting down"));
      return;
    }
    if (proxy_->calls_.size() > proxy_->limits_.calls) {
      proxy_->metrics_->CallRefused();
      Abort(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay carries as many calls as its --max-calls allows"));
      return;
    }
    // Whom a health check asks for is in its message.
    if (IsHealthMethod(server_context_.method()) || PrepareUpstream()) {
      ReadFromClient();
    }
  }

  // Returns false when the call was refused instead.
  bool PrepareUpstream() {
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

  // Opens the call upstream. Together with the first message, if there is one already: that saves a packet.
  void StartUpstream() {
    started_upstream_ = true;
    const bool with_message = !up_.empty();
    client_context_.set_initial_metadata_corked(with_message);
    if (!with_message) {
      writing_up_ = true;
      ++pending_;
    }
    client_stream_->StartCall(with_message ? nullptr : &client_write_);
  }

  void CancelUpstream() {
    if (client_stream_ != nullptr && !upstream_over_) {
      client_context_.TryCancel();
    }
  }

  // --- Up: what the client sends

  void ReadFromClient() {
    ++pending_;
    reading_client_ = true;
    server_stream_.Read(&server_message_, &server_read_);
  }

  void OnServerRead(bool ok) {
    reading_client_ = false;
    if (Ended()) {
      return;
    }
    if (client_stream_ == nullptr) {
      if (status_.has_value() || watches_health_ || (ok && AnswersHealth()) || !PrepareUpstream()) {
        return;
      }
    }
    half_closed_ = !ok;
    waits_for_request_ = false;
    if (ok) {
      HeldMessage message = Hold(server_message_);
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

  // A call for a package waits for its turn, or for what another call brings.
  void JoinPackage() {
    if (started_upstream_ || waits_for_package_ || !up_.single()) {
      return;
    }
    const auto key = PackageKey(server_context_.method(), up_.front().bytes, server_context_.client_metadata());
    if (key.has_value()) {
      waits_for_package_ = true;
      proxy_->packages_.Join(*key, this);
      proxy_->WatchRoom();
    }
  }

  void WriteUpstream() {
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
      ++pending_;
      client_stream_->ReadInitialMetadata(&client_metadata_);
    }
  }

  void WriteNextUpstream() {
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
      ++pending_;
      client_stream_->Write(written_up_.bytes, options, &client_write_);
      if (!reading_client_ && !half_closed_) {
        ReadFromClient();
      }
    } else if (half_closed_) {
      writing_up_ = writes_done_ = true;
      ++pending_;
      client_stream_->WritesDone(&client_write_);
    }
  }

  void OnClientWrite(bool ok) {
    writing_up_ = false;
    written_up_.Clear();
    upstream_over_ = upstream_over_ || !ok;  // Its status comes by itself.
    if (!Ended()) {
      WriteUpstream();
    }
  }

  // --- Down: what the upstream answers

  void OnClientMetadata(bool ok) {
    if (Ended()) {
      return;
    }
    if (ok && !status_.has_value()) {
      AddMetadata(CarriedOf(client_context_.GetServerInitialMetadata()), {}, &server_context_);
      owes_metadata_ = true;
      DeferFlush();
    }
    ReadFromUpstream();
  }

  void ReadFromUpstream() {
    ++pending_;
    reading_upstream_ = true;
    client_stream_->Read(&client_message_, &client_read_);
  }

  void OnClientRead(bool ok) {
    reading_upstream_ = false;
    if (Ended()) {
      return;
    }
    if (!ok) {
      finishing_upstream_ = true;
      ++pending_;
      client_stream_->Finish(&upstream_status_, &client_finish_);
      return;
    }
    if (status_.has_value()) {
      client_message_.Clear();
      ReadFromUpstream();
      return;
    }
    HeldMessage message = Hold(client_message_);
    client_message_.Clear();
    if (fetches_package_ && message.bytes.Length() >= kMinPackageBytes) {
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

  void WriteDown() {
    if (writing_down_ || finishing_) {
      return;
    }
    if (!down_.empty()) {
      down_.PopInto(&written_down_);
      owes_metadata_ = false;
      writing_down_ = true;
      ++pending_;
      server_stream_.Write(written_down_.bytes, &server_write_);
      if (client_stream_ != nullptr && !reading_upstream_ && !finishing_upstream_) {
        ReadFromUpstream();
      }
    } else if (owes_metadata_) {
      owes_metadata_ = false;
      writing_down_ = true;
      ++pending_;
      server_stream_.SendInitialMetadata(&server_write_);
    }
  }

  void OnServerWrite(bool ok) {
    writing_down_ = false;
    written_down_.Clear();
    if (Ended()) {
      return;
    }
    if (!ok) {
      CancelUpstream();  // The client is gone.
    }
    Flush();
  }

  void OnClientFinish(bool /*ok*/) {
    upstream_over_ = true;
    if (Ended()) {
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

  // Tells those who wait for the same package what came of it.
  void LandPackage() {
    const bool fetched = upstream_status_.ok() && package_.held != nullptr;
    const FetchedPackage package{std::exchange(package_, {}), CarriedOf(client_context_.GetServerInitialMetadata()),
                                 CarriedOf(client_context_.GetServerTrailingMetadata())};
    proxy_->packages_.Landed(this, fetched ? &package : nullptr);
    proxy_->WatchRoom();
  }

  // Sends the status, together with the last message if there is one, once nothing else has to go before.
  void MaybeFinish() {
    if (!status_.has_value() || finishing_ || writing_down_ || down_.full()) {
      return;
    }
    finishing_ = true;
    ++pending_;
    if (down_.single()) {
      down_.PopInto(&written_down_);
      server_stream_.WriteAndFinish(written_down_.bytes, grpc::WriteOptions(), *status_, &server_finish_);
    } else {
      server_stream_.Finish(*status_, &server_finish_);
    }
  }

  void OnServerFinish(bool /*ok*/) { Ended(); }

  // The call is over for the client, in whichever way.
  void OnDone(bool /*ok*/) {
    proxy_->packages_.Leave(this);
    CancelUpstream();
    if (!status_.has_value()) {
      status_ = grpc::Status::CANCELLED;
      finishing_ = true;  // There is nobody left to tell.
    }
    Ended();
  }

  // --- Both ways

  void Flush() {
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

  void DeferFlush() {
    if (flush_deferred_) {
      return;
    }
    flush_deferred_ = true;
    ++pending_;
    proxy_->loop_->Defer([this] {
      flush_deferred_ = false;
      if (!Ended()) {
        Flush();
      }
    });
  }

  // Answers a health check that asks for the relay itself.
  bool AnswersHealth() {
    if (!AsksForRelay(server_message_)) {
      return false;
    }
    const bool watches = server_context_.method() == kHealthWatch;
    if (watches && proxy_->watches_ >= proxy_->limits_.watches) {
      proxy_->metrics_->WatchRefused();
      Abort(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watch the health of this relay"));
      return true;
    }
    HeldMessage response = Hold(HealthResponse(proxy_->serving_));
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

  // Every event calls it once, first thing: true when nothing more is under way, and `this` is gone.
  bool Ended() {
    if (--pending_ > 0) {
      return false;
    }
    proxy_->watches_ -= watches_health_ ? 1 : 0;
    proxy_->calls_.erase(this);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started_;
    proxy_->metrics_->ProxyCallEnded(status_.has_value() ? status_->error_code() : grpc::StatusCode::CANCELLED,
                                     took.count());
    delete this;
    return true;
  }

  HeldMessage Hold(const grpc::ByteBuffer& message) {
    return {message, std::make_shared<HeldBytes>(message.Length(), proxy_->metrics_, &proxy_->released_)};
  }

  Proxy* proxy_;
  grpc::GenericServerContext server_context_;
  grpc::GenericServerAsyncReaderWriter server_stream_;
  grpc::ClientContext client_context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> client_stream_;

  MethodEvent<ProxyCall> accepted_;
  MethodEvent<ProxyCall> done_;
  MethodEvent<ProxyCall> server_read_;
  MethodEvent<ProxyCall> server_write_;
  MethodEvent<ProxyCall> server_finish_;
  MethodEvent<ProxyCall> client_metadata_;
  MethodEvent<ProxyCall> client_read_;
  MethodEvent<ProxyCall> client_write_;
  MethodEvent<ProxyCall> client_finish_;

  int pending_ = 0;  // operations under way, and deferred work
  std::chrono::steady_clock::time_point started_;

  grpc::ByteBuffer server_message_;  // being read
  MessageQueue up_;
  HeldMessage written_up_;
  bool reading_client_ = false;
  bool half_closed_ = false;  // by the client
  bool started_upstream_ = false;
  bool writing_up_ = false;
  bool writes_done_ = false;
  bool upstream_over_ = false;

  grpc::ByteBuffer client_message_;  // being read
  MessageQueue down_;
  HeldMessage written_down_;
  HeldMessage package_;
  bool waits_for_request_ = false;
  bool waits_for_package_ = false;
  bool fetches_package_ = false;
  bool reading_upstream_ = false;
  bool finishing_upstream_ = false;
  bool owes_metadata_ = false;
  bool writing_down_ = false;
  bool watches_health_ = false;
  grpc::Status upstream_status_;
  std::optional<grpc::Status> status_;  // how the call ends
  bool finishing_ = false;
  bool flush_deferred_ = false;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_PROXY_CALL_H_
