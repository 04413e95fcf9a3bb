// See package_key.h.

#include "mantaray/relay/package_key.h"

#include <string_view>
#include <vector>

#include "mantaray/relay/package_flights.h"

namespace mantaray::relay {
namespace {

// A larger request is no question for a package.
constexpr size_t kMaxRequestBytes = 4'096;

std::string Flat(const grpc::ByteBuffer& message) {
  std::vector<grpc::Slice> slices;
  std::string flat;
  if (message.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      flat.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  return flat;
}

void AppendPart(std::string_view part, std::string* key) {
  key->append(std::to_string(part.size())).append(":").append(part);
}

}  // namespace

OwnedMetadata CarriedOf(const ReceivedMetadata& received) {
  OwnedMetadata carried;
  for (const auto& [name, value] : received) {
    if (IsCarried(name)) {
      carried.emplace_back(ToString(name), ToString(value));
    }
  }
  return carried;
}

void AddMetadata(const OwnedMetadata& initial, const OwnedMetadata& trailing, grpc::ServerContext* context) {
  for (const auto& [name, value] : initial) {
    context->AddInitialMetadata(name, value);
  }
  for (const auto& [name, value] : trailing) {
    context->AddTrailingMetadata(name, value);
  }
}

std::optional<std::string> PackageKey(const std::string& method, const grpc::ByteBuffer& request,
                                      const ReceivedMetadata& metadata) {
  if (method != kFetchMethod || request.Length() > kMaxRequestBytes) {
    return std::nullopt;
  }
  const std::string question = Flat(request);
  if (!AsksForPackage(method, question)) {
    return std::nullopt;
  }
  std::string key;
  AppendPart(question, &key);
  for (const auto& [name, value] : CarriedOf(metadata)) {
    AppendPart(name, &key);
    AppendPart(value, &key);
  }
  return key;
}

}  // namespace mantaray::relay
