// Which calls may share a fetch of a package (package_flights.h), and what they share.

#ifndef MANTARAY_RELAY_PACKAGE_KEY_H_
#define MANTARAY_RELAY_PACKAGE_KEY_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <optional>
#include <string>

#include "mantaray/relay/held_bytes.h"
#include "mantaray/relay/metadata.h"

namespace mantaray::relay {

// A smaller reply to a fetch carries no package that would be worth sharing.
inline constexpr size_t kMinPackageBytes = 64 << 10;

// What a call brought back.
struct FetchedPackage {
  HeldMessage message;
  OwnedMetadata initial;
  OwnedMetadata trailing;
};

// The entries that are carried on.
OwnedMetadata CarriedOf(const ReceivedMetadata& received);

// Adds entries to what a call answers.
void AddMetadata(const OwnedMetadata& initial, const OwnedMetadata& trailing, grpc::ServerContext* context);

// The same for calls that ask the same with the same credentials and have come through the same relays.
std::string QuestionKey(const std::string& method, const grpc::ByteBuffer& request, const ReceivedMetadata& metadata);

// A longer request is a question of its own, which nobody else asks.
inline constexpr size_t kMaxQuestionBytes = 4'096;

// QuestionKey of a call that asks for one package; nullopt for a call that asks for none.
std::optional<std::string> PackageKey(const std::string& method, const grpc::ByteBuffer& request,
                                      const ReceivedMetadata& metadata);

// Returns the same message in few pieces. A message arrives in thousands of pieces, and each call that writes it keeps
// a list of them: for 200 calls and 100 MB these lists take another 200 MB.
grpc::ByteBuffer InLargePieces(grpc::ByteBuffer message);

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_PACKAGE_KEY_H_
