// Sync streams with the gRPC library, polled by one thread; see transport.h.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "benchmarks/sync_storm/transport.h"

namespace mantaray::storm {
namespace {

// Few, so that what is due to be published is not late for long.
constexpr int kEvents = 64;

class GrpcTransport : public Transport {
 public:
  explicit GrpcTransport(TransportOptions options) : options_(std::move(options)) {}
  GrpcTransport(const GrpcTransport&) = delete;
  GrpcTransport& operator=(const GrpcTransport&) = delete;
  ~GrpcTransport() override {
    for (Stream& stream : streams_) stream.context.TryCancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  std::string Start() override {
    streams_ = std::vector<Stream>(options_.node_ids.size());
    for (uint32_t node = 0; node < streams_.size(); ++node) Open(node);
    return "";
  }

  bool CanSend(uint32_t node, size_t /*bytes*/) const override { return streams_[node].may_write; }

  void Send(uint32_t node, const std::string& message) override {
    Stream& stream = streams_[node];
    stream.may_write = false;
    const grpc::Slice slice(message);
    stream.call->Write(grpc::ByteBuffer(&slice, 1), Tag(node, kWritten));
  }

  std::string Poll(int wait_ms, Listener* listener) override {
    auto deadline = std::chrono::system_clock::now() + std::chrono::milliseconds(wait_ms);
    for (int events = 0; events < kEvents; ++events) {
      void* tag = nullptr;
      bool ok = false;
      if (queue_.AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) break;
      deadline = {};  // only what is there already
      const Operation& operation = *static_cast<const Operation*>(tag);
      if (!ok) return "node " + std::to_string(operation.node) + ": the server ended the stream";
      Handle(operation.node, operation.kind, listener);
    }
    return "";
  }

  uint64_t received_bytes() const override { return received_bytes_; }

 private:
  enum Kind { kStarted, kWritten, kRead, kKinds };

  // What a tag in the queue points to.
  struct Operation {
    uint32_t node = 0;
    Kind kind = kStarted;
  };

  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<grpc::GenericStub> stub;
    std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call;
    grpc::ByteBuffer incoming;
    bool may_write = false;
    Operation operations[kKinds];
  };

  void* Tag(uint32_t node, Kind kind) { return &streams_[node].operations[kind]; }

  void Open(uint32_t node) {
    Stream& stream = streams_[node];
    for (const Kind kind : {kStarted, kWritten, kRead}) stream.operations[kind] = {node, kind};
    grpc::ChannelArguments arguments;
    // Otherwise the nodes would share connections.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxReceiveMessageSize(-1);
    const std::string& target = options_.targets[node % options_.targets.size()];
    stream.stub = std::make_unique<grpc::GenericStub>(
        grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
    stream.context.AddMetadata("node_id", options_.node_ids[node]);
    if (!options_.token.empty()) stream.context.AddMetadata("authorization", "Bearer " + options_.token);
    stream.call = stream.stub->PrepareCall(&stream.context, kSyncMethod, &queue_);
    stream.call->StartCall(Tag(node, kStarted));
  }

  void Handle(uint32_t node, Kind kind, Listener* listener) {
    Stream& stream = streams_[node];
    if (kind == kRead) {
      received_bytes_ += stream.incoming.Length();
      grpc::Slice whole;
      if (!stream.incoming.TrySingleSlice(&whole).ok()) stream.incoming.DumpToSingleSlice(&whole);
      listener->OnMessage(node, {reinterpret_cast<const char*>(whole.begin()), whole.size()});
    } else {
      stream.may_write = true;
      listener->OnRoom(node);
    }
    if (kind != kWritten) stream.call->Read(&stream.incoming, Tag(node, kRead));
  }

  const TransportOptions options_;
  grpc::CompletionQueue queue_;
  std::vector<Stream> streams_;
  uint64_t received_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Transport> MakeGrpcTransport(TransportOptions options) {
  return std::make_unique<GrpcTransport>(std::move(options));
}

}  // namespace mantaray::storm
