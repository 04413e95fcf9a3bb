// Between gRPC's types and those of the syncer core: bytes, statuses, metadata. Nothing is copied that need not be.

#ifndef MANTARAY_RELAY_WIRE_BYTES_H_
#define MANTARAY_RELAY_WIRE_BYTES_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <string_view>

#include "absl/status/status.h"
#include "mantaray/relay/metadata.h"
#include "mantaray/syncer/shield.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::relay {

// A frame as a gRPC message, which keeps the frame's bytes alive and shares them.
grpc::ByteBuffer ToByteBuffer(const syncer::Frame& frame);

// The bytes of a gRPC message in one piece; valid as long as this object.
class FlatBytes {
 public:
  explicit FlatBytes(const grpc::ByteBuffer& buffer);
  std::string_view view() const { return {reinterpret_cast<const char*>(slice_.begin()), slice_.size()}; }

 private:
  grpc::Slice slice_;
};

grpc::Status ToGrpc(const absl::Status& status);

syncer::StreamMetadata ToStreamMetadata(const ReceivedMetadata& received);

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_WIRE_BYTES_H_
