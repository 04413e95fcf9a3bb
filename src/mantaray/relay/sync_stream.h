// The sync stream of a node, or of a relay below this one.

#ifndef MANTARAY_RELAY_SYNC_STREAM_H_
#define MANTARAY_RELAY_SYNC_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/metadata.h"
#include "mantaray/relay/operations.h"
#include "mantaray/relay/sync_service.h"
#include "mantaray/syncer/relay_core.h"

namespace mantaray::relay {

// One downstream stream. gRPC delivers an event when an accepted stream is over, so the object lives until then.
class SyncStream final : public syncer::Peer, private Operations {
 public:
  explicit SyncStream(SyncService* service);

  // Waits for a client. The object deletes itself when nothing of its stream is in flight any more.
  void Accept();

  const std::string& credentials_key() const { return credentials_key_; }
  syncer::StreamId id() const { return id_; }
  std::string peer() const { return context_.peer(); }
  // The admin address that a relay announced; empty if the client announced none.
  std::string admin() const;

  // Ends the stream from this side. The core does not know of it yet.
  void Expel(const grpc::Status& status);

  // syncer::Peer
  void WriteReady() override { DeferPump(); }
  void Close(const absl::Status& status) override;

 private:
  // Runs on the thread of the loop that polls.
  void OnAccepted(bool ok);
  // Runs on this service's loop, as everything else does.
  void Welcome();
  void OnVerified(const grpc::Status& status, const OwnedMetadata& answer);
  void Refuse(const absl::Status& why);
  void Begin(syncer::StreamId id);
  void Read();
  void OnRead(bool ok);
  void Pump();
  void OnWrite(bool ok);
  void OnFinish(bool /*ok*/) { EndOne(); }
  // gRPC reports that the stream is over for the client, for whatever reason.
  void OnDone(bool /*ok*/);
  void LeaveCore();
  void FinishWith(const grpc::Status& status);
  void DeferPump();
  // Cancels the stream if a client that does not read still holds up its last write after kCloseMs.
  void CancelLater();
  void LastEnded() override;  // Operations

  SyncService* service_;
  grpc::ServerContext context_;
  SyncMethod::Stream stream_;
  grpc::ByteBuffer message_;
  std::string node_;
  std::string credentials_key_;
  syncer::StreamId id_ = syncer::kNoStream;
  std::optional<grpc::Status> end_;
  std::optional<syncer::Frame> ahead_;  // the next frame to write
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

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_SYNC_STREAM_H_
