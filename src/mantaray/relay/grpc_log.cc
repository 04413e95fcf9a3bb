// See grpc_log.h.

#include "mantaray/relay/grpc_log.h"

#include <grpc/support/log.h>

#include <string>

namespace mantaray::relay {
namespace {

void WriteLine(LogLevel level, const gpr_log_func_args& said) {
  Log(level, "grpc", {{"message", said.message}, {"at", std::string(said.file) + ":" + std::to_string(said.line)}});
}

void LogAtDebug(gpr_log_func_args* said) { WriteLine(LogLevel::kDebug, *said); }

void LogErrorsAtWarning(gpr_log_func_args* said) {
  WriteLine(said->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kDebug, *said);
}

}  // namespace

void LogGrpcErrorsAt(LogLevel level) {
  gpr_set_log_function(level == LogLevel::kDebug ? LogAtDebug : LogErrorsAtWarning);
}

}  // namespace mantaray::relay
