// The reads of the GCS that may be shared (read_gate.h), and how the command line names them.

#ifndef MANTARAY_RELAY_SHARED_METHODS_H_
#define MANTARAY_RELAY_SHARED_METHODS_H_

#include <array>
#include <bitset>
#include <cstddef>
#include <optional>
#include <string_view>

namespace mantaray::relay {

struct SharedMethod {
  std::string_view name;  // as the command line and metrics have it
  std::string_view path;  // as gRPC has it
};

// Each of them only reads, and its answer depends on nothing but the request and the caller's credentials, in all
// releases of Ray from 2.48 to 2.60. A method that a release lacks is answered by its GCS, as without sharing.
inline constexpr std::array<SharedMethod, 9> kSharedMethods = {{
    {"CheckAlive", "/ray.rpc.NodeInfoGcsService/CheckAlive"},
    {"GetAllActorInfo", "/ray.rpc.ActorInfoGcsService/GetAllActorInfo"},
    {"GetAllJobInfo", "/ray.rpc.JobInfoGcsService/GetAllJobInfo"},
    {"GetAllNodeAddressAndLiveness", "/ray.rpc.NodeInfoGcsService/GetAllNodeAddressAndLiveness"},
    {"GetAllNodeInfo", "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"},
    {"GetClusterId", "/ray.rpc.NodeInfoGcsService/GetClusterId"},
    {"GetInternalConfig", "/ray.rpc.InternalKVGcsService/GetInternalConfig"},
    {"InternalKVGet", "/ray.rpc.InternalKVGcsService/InternalKVGet"},
    {"InternalKVMultiGet", "/ray.rpc.InternalKVGcsService/InternalKVMultiGet"},
}};

// Which of them are shared, by index.
using SharedMethodSet = std::bitset<kSharedMethods.size()>;

// Returns the index of the method with this path.
inline std::optional<size_t> SharedMethodOf(std::string_view path) {
  for (size_t index = 0; index < kSharedMethods.size(); ++index) {
    if (kSharedMethods[index].path == path) {
      return index;
    }
  }
  return std::nullopt;
}

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_SHARED_METHODS_H_
