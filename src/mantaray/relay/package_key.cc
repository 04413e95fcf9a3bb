// See package_key.h.

#include "mantaray/relay/package_key.h"

#include <grpc/slice.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "mantaray/relay/package_flights.h"

namespace mantaray::relay {
namespace {

constexpr size_t kLargePieceBytes = 4 << 20;

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

std::string QuestionKey(const std::string& method, const grpc::ByteBuffer& request, const ReceivedMetadata& metadata) {
  std::string key;
  AppendPart(method, &key);
  AppendPart(Flat(request), &key);
  for (const auto& [name, value] : CarriedOf(metadata)) {
    AppendPart(name, &key);
    AppendPart(value, &key);
  }
  return key;
}

std::optional<std::string> PackageKey(const std::string& method, const grpc::ByteBuffer& request,
                                      const ReceivedMetadata& metadata) {
  if (method != kFetchMethod || request.Length() > kMaxQuestionBytes || !AsksForPackage(method, Flat(request))) {
    return std::nullopt;
  }
  return QuestionKey(method, request, metadata);
}

grpc::ByteBuffer InLargePieces(grpc::ByteBuffer message) {
  std::vector<grpc::Slice> pieces;
  if (!message.Dump(&pieces).ok()) {
    return message;
  }
  size_t left = message.Length();
  message.Clear();
  std::vector<grpc::Slice> large;
  grpc_slice filling = grpc_empty_slice();
  size_t filled = 0;
  for (grpc::Slice& piece : pieces) {
    for (size_t taken = 0; taken < piece.size();) {
      if (filled == GRPC_SLICE_LENGTH(filling)) {
        filling = grpc_slice_malloc_large(std::min(left, kLargePieceBytes));
        large.emplace_back(filling, grpc::Slice::STEAL_REF);
        filled = 0;
      }
      const size_t count = std::min(piece.size() - taken, GRPC_SLICE_LENGTH(filling) - filled);
      std::memcpy(GRPC_SLICE_START_PTR(filling) + filled, piece.begin() + taken, count);
      taken += count;
      filled += count;
      left -= count;
    }
    // Frees each piece once it is copied, so that the message never takes its memory twice.
    piece = grpc::Slice();
  }
  return {large.data(), large.size()};
}

}  // namespace mantaray::relay
