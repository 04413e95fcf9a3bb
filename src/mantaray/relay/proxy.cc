// See proxy.h.

#include "mantaray/relay/proxy.h"

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>

#include <array>
#include <chrono>
#include <functional>
#include <optional>
#include <utility>

#include "mantaray/relay/health.h"
#include "mantaray/relay/metadata.h"

namespace mantaray::relay {
namespace {

// Calls waited for at once; a burst of more queues up inside gRPC.
constexpr int kAccepting = 256;

// Up to two messages on their way.
class MessageQueue {
 public:
  bool empty() const { return count_ == 0; }
  bool full() const { return count_ == messages_.size(); }
  void Push(grpc::ByteBuffer* message) { messages_[count_++].Swap(message); }
  void PopInto(grpc::ByteBuffer* message) {
    message->Swap(&messages_[0]);
    messages_[0].Clear();
    messages_[0].Swap(&messages_[1]);
    --count_;
  }
  void Clear() {
    messages_[0].Clear();
    messages_[1].Clear();
    count_ = 0;
  }
  bool single() const { return count_ == 1; }

 private:
  std::array<grpc::ByteBuffer, 2> messages_;
  size_t count_ = 0;
};

}  // namespace

// One call and its image upstream. Deletes itself when nothing of either is under way any more; the event that gRPC
// delivers at the end of an accepted call is always the last or before the last, so a call lives at least as long as
// its client's.
class ProxyCall {
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
    status_ = status;
    down_.Clear();
    if (watches_health_) {
      grpc::ByteBuffer last = HealthResponse(false);
      down_.Push(&last);
    }
    CancelUpstream();
    MaybeFinish();
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
    if (ok) {
      up_.Push(&server_message_);
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

  void WriteUpstream() {
    if (writing_up_ || writes_done_ || upstream_over_ || status_.has_value()) {
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
      grpc::ByteBuffer message;
      up_.PopInto(&message);
      grpc::WriteOptions options;
      if (half_closed_ && up_.empty()) {
        options.set_last_message();
        writes_done_ = true;
      }
      writing_up_ = true;
      ++pending_;
      client_stream_->Write(message, options, &client_write_);
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
      for (const auto& [key, value] : client_context_.GetServerInitialMetadata()) {
        if (IsCarried(key)) {
          server_context_.AddInitialMetadata(ToString(key), ToString(value));
        }
      }
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
    down_.Push(&client_message_);
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
      grpc::ByteBuffer message;
      down_.PopInto(&message);
      owes_metadata_ = false;
      writing_down_ = true;
      ++pending_;
      server_stream_.Write(message, &server_write_);
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
    if (!status_.has_value()) {
      status_ = upstream_status_;
      for (const auto& [key, value] : client_context_.GetServerTrailingMetadata()) {
        if (IsCarried(key)) {
          server_context_.AddTrailingMetadata(ToString(key), ToString(value));
        }
      }
    }
    Flush();
  }

  // Sends the status, together with the last message if there is one, once nothing else has to go before.
  void MaybeFinish() {
    if (!status_.has_value() || finishing_ || writing_down_ || down_.full()) {
      return;
    }
    finishing_ = true;
    ++pending_;
    if (down_.single()) {
      grpc::ByteBuffer message;
      down_.PopInto(&message);
      server_stream_.WriteAndFinish(message, grpc::WriteOptions(), *status_, &server_finish_);
    } else {
      server_stream_.Finish(*status_, &server_finish_);
    }
  }

  void OnServerFinish(bool /*ok*/) { Ended(); }

  // The call is over for the client, in whichever way.
  void OnDone(bool /*ok*/) {
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
    grpc::ByteBuffer response = HealthResponse(proxy_->serving_);
    down_.Push(&response);
    if (server_context_.method() == kHealthWatch) {
      watches_health_ = true;  // until the relay shuts down
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
    proxy_->calls_.erase(this);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started_;
    proxy_->metrics_->ProxyCallEnded(status_.has_value() ? status_->error_code() : grpc::StatusCode::CANCELLED,
                                     took.count());
    delete this;
    return true;
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
  bool reading_client_ = false;
  bool half_closed_ = false;  // by the client
  bool started_upstream_ = false;
  bool writing_up_ = false;
  bool writes_done_ = false;
  bool upstream_over_ = false;

  grpc::ByteBuffer client_message_;  // being read
  MessageQueue down_;
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

Proxy::Proxy(EventLoop* loop, grpc::ServerCompletionQueue* queue, std::vector<std::shared_ptr<grpc::Channel>> channels,
             std::string relay_id, Metrics* metrics)
    : loop_(loop), queue_(queue), relay_id_(std::move(relay_id)), metrics_(metrics) {
  for (auto& channel : channels) {
    stubs_.push_back(std::make_unique<grpc::GenericStub>(std::move(channel)));
  }
}

Proxy::~Proxy() = default;

void Proxy::Start() {
  for (int i = 0; i < kAccepting; ++i) {
    AcceptOne();
  }
}

void Proxy::Drain(int64_t delay_ms) {
  loop_->Post([this, delay_ms] {
    serving_ = false;
    loop_->Schedule(delay_ms, [this] {
      // Aborting one may remove it.
      const std::vector<ProxyCall*> calls(calls_.begin(), calls_.end());
      for (ProxyCall* call : calls) {
        call->Abort(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this relay is shutting down"));
      }
    });
  });
}

void Proxy::AcceptOne() { (new ProxyCall(this))->Accept(); }

grpc::GenericStub* Proxy::StubFor(const std::string& peer) {
  return stubs_[std::hash<std::string>()(peer) % stubs_.size()].get();
}

}  // namespace mantaray::relay
