// The credentials with which sync streams were taken, and which of them the relay shows upstream.

#ifndef MANTARAY_RELAY_SYNC_CREDENTIALS_H_
#define MANTARAY_RELAY_SYNC_CREDENTIALS_H_

#include <grpcpp/support/status.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "mantaray/relay/metadata.h"

namespace mantaray::relay {

// What the upstream said to somebody's metadata.
using Verified = std::function<void(const grpc::Status& status, const OwnedMetadata& answer)>;
// Somebody's metadata as one key.
using CredentialsKey = std::string;

struct SyncCredentials {
  OwnedMetadata metadata;
  OwnedMetadata answer;
  int64_t trusted_until_ms = 0;
  uint64_t verified = 0;  // when the upstream last took them: later ones have greater numbers; 0: never
  bool asking = false;
  std::vector<Verified> waiting;
  size_t streams = 0;  // taken with them, and still there
};

using SyncCredentialsMap = std::map<CredentialsKey, SyncCredentials>;

// The credentials to show upstream: of those that a stream still there was taken with, the ones that the upstream took
// last. Tokens may expire (Kubernetes renews those of a pod every hour), and the last one taken expires last. Null
// without streams.
inline const SyncCredentialsMap::value_type* CredentialsToShow(const SyncCredentialsMap& credentials) {
  const SyncCredentialsMap::value_type* best = nullptr;
  for (const auto& entry : credentials) {
    if (entry.second.streams > 0 && (best == nullptr || entry.second.verified > best->second.verified)) {
      best = &entry;
    }
  }
  return best;
}

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_SYNC_CREDENTIALS_H_
