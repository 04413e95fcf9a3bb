// The relay's own sync stream to its upstream: one attempt, from opening it to its end.

#ifndef MANTARAY_RELAY_UPSTREAM_STREAM_H_
#define MANTARAY_RELAY_UPSTREAM_STREAM_H_

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>

#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/metadata.h"
#include "mantaray/relay/operations.h"
#include "mantaray/syncer/relay_core.h"

namespace mantaray::relay {

class UpstreamStream final : public syncer::Peer, private Operations {
 public:
  struct Callbacks {
    std::function<void(const OwnedMetadata& answer)> connected;
    // The last thing it does; it is gone afterwards.
    std::function<void(const grpc::Status& status)> ended;
    // After each call into the core.
    std::function<void()> acted;
  };

  // Opens the stream. It deletes itself, after Callbacks::ended. `polled`: the queue of a loop that polls.
  static UpstreamStream* Open(grpc::GenericStub* stub, EventLoop* loop, grpc::CompletionQueue* polled,
                              syncer::RelayCore* core, const OwnedMetadata& metadata, Callbacks callbacks);

  // Ends it from our side.
  void Cancel();

  // syncer::Peer
  void WriteReady() override;
  void Close(const absl::Status& status) override;

 private:
  UpstreamStream(EventLoop* loop, syncer::RelayCore* core, Callbacks callbacks);

  void OnStart(bool ok);
  void OnMetadata(bool ok);
  void OnRead(bool ok);
  void OnWrite(bool ok);
  void OnFinish(bool ok);
  void Read();
  void Pump();
  void DeferPump();
  void FinishOnce();
  void LastEnded() override;  // Operations

  EventLoop* loop_;
  syncer::RelayCore* core_;
  Callbacks callbacks_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  grpc::ByteBuffer message_;
  grpc::Status status_;
  grpc::Status refused_;  // why we ended it ourselves
  syncer::StreamId id_ = syncer::kNoStream;
  bool writing_ = false;
  bool pump_deferred_ = false;
  bool finishing_ = false;
  PostedEvent<UpstreamStream> started_;
  PostedEvent<UpstreamStream> metadata_;
  PostedEvent<UpstreamStream> read_;
  PostedEvent<UpstreamStream> written_;
  PostedEvent<UpstreamStream> finished_;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_UPSTREAM_STREAM_H_
