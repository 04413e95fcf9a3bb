// What gRPC says of itself, as lines of the relay's own log: collectors rely on its format. Of gRPC's own format there
// is not a line.

#ifndef MANTARAY_RELAY_GRPC_LOG_H_
#define MANTARAY_RELAY_GRPC_LOG_H_

#include "mantaray/relay/log.h"

namespace mantaray::relay {

// From now on gRPC's errors are logged at this level, kDebug or kWarning, and the rest of what it says at kDebug.
void LogGrpcErrorsAt(LogLevel level);

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_GRPC_LOG_H_
