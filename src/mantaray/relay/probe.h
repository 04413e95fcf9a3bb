// A sync stream to the upstream that is opened, answered or refused, and closed: what the upstream thinks of somebody's
// credentials, or the notice that a node has left.

#ifndef MANTARAY_RELAY_PROBE_H_
#define MANTARAY_RELAY_PROBE_H_

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/metadata.h"
#include "mantaray/relay/operations.h"

namespace mantaray::relay {

class Probe final : private Operations {
 public:
  // What came of it: the upstream's metadata, if it took the stream, else its status. Runs on the loop.
  using Done = std::function<void(const grpc::Status& status, const OwnedMetadata& answer)>;

  // Opens the stream with this metadata and deletes itself when it is over. `polled`: the queue of a loop that polls.
  static void Open(grpc::GenericStub* stub, EventLoop* loop, grpc::CompletionQueue* polled,
                   const OwnedMetadata& metadata, Done done);

 private:
  Probe(EventLoop* loop, Done done);

  void OnStart(bool ok);
  void OnMetadata(bool ok);
  void OnFinish(bool ok);

  EventLoop* loop_;
  Done done_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  grpc::Status status_;
  OwnedMetadata answer_;
  bool accepted_ = false;
  PostedEvent<Probe> started_;
  PostedEvent<Probe> metadata_;
  PostedEvent<Probe> finished_;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_PROBE_H_
