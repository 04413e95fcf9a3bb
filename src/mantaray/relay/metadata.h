// Which metadata travels through a relay, and the one entry that relays add.
//
// Everything a caller or the upstream set is carried on, credentials among it; what belongs to one connection (HTTP/2
// pseudo headers, content type, compression, timeouts, which gRPC writes itself) is not.

#ifndef MANTARAY_RELAY_METADATA_H_
#define MANTARAY_RELAY_METADATA_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/string_ref.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mantaray::relay {

// Ids of the relays that a call has come through, the first one first, separated by commas.
inline constexpr char kPathKey[] = "mantaray-relay-path";
// Where the relay that opened a sync stream answers operators, HOST:PORT; for `mantaray relay status`.
inline constexpr char kAdminKey[] = "mantaray-relay-admin";

using ReceivedMetadata = std::multimap<grpc::string_ref, grpc::string_ref>;
using OwnedMetadata = std::vector<std::pair<std::string, std::string>>;

inline std::string ToString(const grpc::string_ref& text) { return std::string(text.data(), text.size()); }

// Whether an entry of that name is carried on.
bool IsCarried(const grpc::string_ref& key);

// Carries on what a caller sent.
void CopyClientMetadata(const ReceivedMetadata& from, grpc::ClientContext* to);

// The path of a call as this relay hands it on; nullopt when this relay is in it already or the path is too long to be
// true.
std::optional<std::string> PathWith(const ReceivedMetadata& received, const std::string& relay_id);

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_METADATA_H_
