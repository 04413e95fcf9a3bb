// One read of the upstream whose answer goes to several calls. read_gate.h says which.

#ifndef MANTARAY_RELAY_READ_FLIGHT_H_
#define MANTARAY_RELAY_READ_FLIGHT_H_

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/async_unary_call.h>
#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mantaray/relay/event_loop.h"
#include "mantaray/relay/held_bytes.h"
#include "mantaray/relay/metadata.h"
#include "mantaray/relay/operations.h"

namespace mantaray::relay {

// What a read brought back.
struct ReadAnswer {
  grpc::Status status;
  HeldMessage message;  // without `held` if there is none
  OwnedMetadata initial;
  OwnedMetadata trailing;
};

class ReadFlight;

// A call that waits for the answer of a flight.
class ReadPassenger {
 public:
  virtual ~ReadPassenger() = default;
  virtual void Land(const ReadAnswer& answer) = 0;
};

// Deletes itself when it has ended. Passengers that leave must say so.
class ReadFlight final : private Operations {
 public:
  struct Question {
    std::string method;
    grpc::ByteBuffer request;
    OwnedMetadata metadata;
    gpr_timespec deadline;
  };
  using Hold = std::function<HeldMessage(const grpc::ByteBuffer& message)>;

  // Asks the upstream. Args: `hold` takes the answer's message into account; `ended` is called last.
  static ReadFlight* Begin(grpc::GenericStub* stub, grpc::CompletionQueue* queue, const Question& question,
                           std::vector<ReadPassenger*> passengers, Hold hold, std::function<void()> ended);
  // The passenger gets no answer. The read is cancelled when nobody waits for it any more.
  void Leave(ReadPassenger* passenger);

 private:
  ReadFlight(std::vector<ReadPassenger*> passengers, Hold hold, std::function<void()> ended);

  void OnFinish(bool ok);
  void LastEnded() override;  // Operations

  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader_;
  grpc::ByteBuffer message_;
  grpc::Status status_;
  std::vector<ReadPassenger*> passengers_;
  Hold hold_;
  std::function<void()> ended_;
  MethodEvent<ReadFlight> finished_;
};

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_READ_FLIGHT_H_
