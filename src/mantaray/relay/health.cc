// See health.h.

#include "mantaray/relay/health.h"

#include <string_view>
#include <vector>

namespace mantaray::relay {
namespace {

// HealthCheckRequest{service: "mantaray"} and HealthCheckResponse{status: ...}, as every protobuf writes them.
constexpr std::string_view kRequest = "\x0a\x08mantaray";
constexpr std::string_view kServing = "\x08\x01";
constexpr std::string_view kNotServing = "\x08\x02";

}  // namespace

bool AsksForRelay(const grpc::ByteBuffer& request) {
  if (request.Length() != kRequest.size()) {
    return false;
  }
  std::vector<grpc::Slice> slices;
  if (!request.Dump(&slices).ok()) {
    return false;
  }
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes == kRequest;
}

grpc::ByteBuffer HealthResponse(bool serving) {
  const std::string_view bytes = serving ? kServing : kNotServing;
  const grpc::Slice slice(bytes.data(), bytes.size());
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace mantaray::relay
