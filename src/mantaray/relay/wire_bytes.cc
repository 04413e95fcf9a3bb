// See wire_bytes.h.

#include "mantaray/relay/wire_bytes.h"

#include <memory>
#include <string>
#include <vector>

namespace mantaray::relay {
namespace {

using Owner = std::shared_ptr<const std::string>;

void DropOwner(void* owner) { delete static_cast<Owner*>(owner); }

}  // namespace

grpc::ByteBuffer ToByteBuffer(const syncer::Frame& frame) {
  std::vector<grpc::Slice> slices;
  slices.reserve(frame.slices.size());
  for (const syncer::Slice& slice : frame.slices) {
    // gRPC only reads what it is given to send.
    auto* bytes = const_cast<char*>(slice.bytes.data());
    slices.emplace_back(bytes, slice.bytes.size(), DropOwner, new Owner(slice.owner));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

FlatBytes::FlatBytes(const grpc::ByteBuffer& buffer) {
  if (!buffer.TrySingleSlice(&slice_).ok()) {
    buffer.DumpToSingleSlice(&slice_);
  }
}

grpc::Status ToGrpc(const absl::Status& status) {
  const std::string message(status.message());
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message);
}

syncer::StreamMetadata ToStreamMetadata(const ReceivedMetadata& received) {
  syncer::StreamMetadata metadata;
  for (const auto& [key, value] : received) {
    metadata.emplace_back(ToString(key), ToString(value));
  }
  return metadata;
}

}  // namespace mantaray::relay
