// A call that the proxy carries. Part of the proxy's implementation; proxy.h says what it promises.

#ifndef MANTARAY_RELAY_PROXY_CALL_H_
#define MANTARAY_RELAY_PROXY_CALL_H_

#include <grpcpp/client_context.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server_context.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "mantaray/relay/held_bytes.h"
#include "mantaray/relay/memory_guard.h"
#include "mantaray/relay/operations.h"
#include "mantaray/relay/package_key.h"
#include "mantaray/relay/proxy.h"
#include "mantaray/relay/read_flight.h"

namespace mantaray::relay {

// One call and its image upstream. The event that gRPC delivers at the end of an accepted call is always the last or
// before the last, so the object lives at least as long as its client's call.
class ProxyCall final : public PackageCall<FetchedPackage>, public ReadPassenger, private Operations {
 public:
  explicit ProxyCall(Proxy* proxy);

  // Waits for a client. The object deletes itself when nothing of either call is in flight any more.
  void Accept();
  // Ends the call from this side, unless it is ending already.
  void Abort(const grpc::Status& status);

  // Returns how the memory guard sees this call, or nothing if the call moves no large message.
  std::optional<BulkCall<ProxyCall*>> Bulk(int64_t now_ms);
  // Ends the call because the memory is used up.
  void EndForMemory();

  // PackageCall
  void Fetch() override;
  void Take(const FetchedPackage& package) override;

  // ReadPassenger
  void Land(const ReadAnswer& answer) override;

  // What the flight of this read, and of those that ask the same, asks the upstream, by this call's deadline.
  ReadFlight::Question Question() const;
  std::string peer() const { return server_context_.peer(); }
  gpr_timespec deadline() const { return server_context_.raw_deadline(); }
  size_t shared_method() const { return *shared_method_; }
  // The call's read has left.
  void TakeOff(ReadFlight* flight) { flight_ = flight; }

 private:
  // The memory guard ends calls with messages of at least this size.
  static constexpr size_t kBulkBytes = 64 << 10;
  static constexpr int64_t kSmallArrivesWithinMs = 250;

  void OnAccepted(bool ok);
  // Finds out whether this is a read that may share an answer, or may change what reads see.
  void CountAmongReads();
  // Returns false if it has refused the call.
  bool PrepareUpstream();
  // Opens the call upstream, together with the first message if there is one already, which saves a packet.
  void StartUpstream();
  void CancelUpstream();

  // What the client sends.
  void ReadFromClient();
  void OnServerRead(bool ok);
  // Lets a call for a package wait for its turn, or for what another call brings.
  void JoinPackage();
  // Whether the call is answered without a call of its own upstream, by what its first message says.
  bool StaysHere();
  // Lets a read wait for a flight that it may share; returns whether it does.
  bool JoinRead();
  // Nobody waits any more for what other calls bring to this one.
  void LeaveOthers();
  void WriteUpstream();
  void WriteNextUpstream();
  void OnClientWrite(bool ok);

  // What the upstream answers.
  void OnClientMetadata(bool ok);
  void ReadFromUpstream();
  void OnClientRead(bool ok);
  void WriteDown();
  void OnServerWrite(bool ok);
  void OnClientFinish(bool /*ok*/);
  // Tells the calls that wait for the same package what came of it.
  void LandPackage();
  // Sends the status, together with the last message if there is one, once nothing else has to go before.
  void MaybeFinish();
  void OnServerFinish(bool /*ok*/);
  // gRPC reports that the call is over for the client, for whatever reason.
  void OnDone(bool /*ok*/);

  // Both directions.
  void Flush();
  void DeferFlush();
  // Answers a health check that asks for the relay itself; returns whether it was one.
  bool AnswersHealth();
  void LastEnded() override;  // Operations

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

  std::chrono::steady_clock::time_point started_;
  int64_t arrives_ms_ = 0;  // when the message that is arriving began to arrive; 0: none is arriving
  int64_t write_ms_ = 0;    // when the last write began

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
  std::optional<size_t> shared_method_;  // an index of kSharedMethods, if the call may share a read
  std::string writes_for_;               // its client's connection, if the call may change what reads see
  bool waits_for_read_ = false;
  ReadFlight* flight_ = nullptr;
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
