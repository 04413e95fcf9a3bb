// The relay's own answer to gRPC's health protocol, for probes that speak it: the service "mantaray". Questions about
// any other service, the empty name among them, are the upstream's.

#ifndef MANTARAY_RELAY_HEALTH_H_
#define MANTARAY_RELAY_HEALTH_H_

#include <grpcpp/support/byte_buffer.h>

#include <string>

namespace mantaray::relay {

inline constexpr char kHealthCheck[] = "/grpc.health.v1.Health/Check";
inline constexpr char kHealthWatch[] = "/grpc.health.v1.Health/Watch";

inline bool IsHealthMethod(const std::string& method) { return method == kHealthCheck || method == kHealthWatch; }

// Whether a request of the health service asks for the relay itself.
bool AsksForRelay(const grpc::ByteBuffer& request);

// A response of the health service.
grpc::ByteBuffer HealthResponse(bool serving);

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_HEALTH_H_
