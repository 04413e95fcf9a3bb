// The sync stream, the one method that the relay answers itself: nodes and further relays on one side, one stream to
// the upstream on the other, the relay core between them. All of it happens on one event loop.
//
// Nobody gets in whom the upstream would not have let in: a stream is taken only after the upstream has taken a stream
// with the same metadata (credentials among them) under another node id, which is asked anew for credentials that were
// not asked about for kTrustMs. While the upstream cannot be asked, new streams are refused with its status; those that
// were taken stay. The relay has no credentials of its own: its stream to the upstream carries those of one of its
// nodes, those that the upstream took last. If they are refused one day, the nodes that carry the same ones are sent
// away.

#ifndef MANTARAY_RELAY_SYNC_SERVICE_H_
#define MANTARAY_RELAY_SYNC_SERVICE_H_

#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/async_stream.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "mantaray/common/clock.h"
#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/metadata.h"
#include "mantaray/relay/sync_credentials.h"
#include "mantaray/relay/upstream_stream.h"
#include "mantaray/syncer/backoff.h"
#include "mantaray/syncer/relay_core.h"

namespace mantaray::relay {

class SyncStream;

// The clock of an event loop, as the core wants it.
class LoopClock final : public Clock {
 public:
  int64_t NowMs() const override { return EventLoop::NowMs(); }
};

// Registers the method with a gRPC server.
class SyncMethod final : public grpc::Service {
 public:
  using Stream = grpc::ServerAsyncReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;

  SyncMethod();
  // Args: `queue` gets what happens on the stream, `accepting` that there is one.
  void Request(grpc::ServerContext* context, Stream* stream, grpc::CompletionQueue* queue,
               grpc::ServerCompletionQueue* accepting, void* tag);
};

class SyncService final : public syncer::RelayObserver {
 public:
  struct Options {
    syncer::RelayOptions core;
    std::string upstream;         // as people call it
    std::string admin_advertise;  // told to a relay upstream; empty: nothing
  };

  // Args: `loop` runs everything; `polled` is the queue of a loop that polls, registered with the server; `channel`
  // leads to the upstream and is used by nobody else.
  SyncService(EventLoop* loop, grpc::ServerCompletionQueue* polled, std::shared_ptr<grpc::Channel> channel,
              Options options);
  ~SyncService() override;

  // To be registered with the server before that is started.
  grpc::Service* method() { return &method_; }
  const std::string& relay_id() const { return core_.relay_id(); }

  // Begins to take streams. The server must be running, the loop not yet.
  void Start();
  // Ends all streams, and the one to the upstream, so that the loop can stop. Any thread.
  void Drain();
  // Whether nothing is under way any more. The loop's thread only.
  bool idle() const { return streams_.empty() && upstream_ == nullptr && probes_ == 0; }

  // What it has seen and how it stands, as Prometheus text and as JSON. On the loop's thread.
  std::string RenderMetrics() const;
  std::string RenderStatus() const;
  bool upstream_connected() const { return core_.upstream_connected(); }

  // syncer::RelayObserver
  void NodeLeft(const syncer::NodeId& node_id) override;

 private:
  friend class SyncStream;

  static constexpr int64_t kTrustMs = 30'000;

  // Who is at the other end of a stream.
  struct Remote {
    std::string address;
    std::string admin;  // of a relay that told it
  };
  std::map<syncer::StreamId, Remote> Remotes() const;

  void AcceptOne();
  // Asks whether the upstream takes a stream with this metadata. `path`: through which relays the question came.
  void Verify(const CredentialsKey& key, const OwnedMetadata& metadata, const std::string& path, Verified verified);
  void OnProbed(const CredentialsKey& key, const grpc::Status& status, const OwnedMetadata& answer);
  void Leave(const CredentialsKey& key);

  void ConnectUpstream();
  void OnUpstreamEnded(const CredentialsKey& key, const grpc::Status& status);
  void ExpelAll(const CredentialsKey& key, const grpc::Status& status);
  void Withdraw();
  void OpenProbe(const OwnedMetadata& credentials, const std::string& path, const syncer::NodeId& node, Verified done);
  // Sets the timer for what the core has to do next; after each call into it.
  void Arm();

  EventLoop* loop_;
  grpc::ServerCompletionQueue* polled_;
  Options options_;
  grpc::GenericStub stub_;
  LoopClock clock_;
  syncer::RelayCore core_;
  SyncMethod method_;
  std::unordered_set<SyncStream*> streams_;
  SyncCredentialsMap credentials_;
  uint64_t last_verified_ = 0;
  UpstreamStream* upstream_ = nullptr;
  int probes_ = 0;  // under way
  std::string upstream_problem_;
  EventLoop::TimerId reconnect_timer_ = 0;
  syncer::Backoff backoff_{{.first_ms = 100, .max_ms = 5'000}};
  std::vector<syncer::NodeId> to_withdraw_;
  EventLoop::TimerId tick_timer_ = 0;
  int64_t tick_due_ms_ = syncer::kNeverMs;
  std::mt19937_64 random_;
  bool draining_ = false;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_SYNC_SERVICE_H_
