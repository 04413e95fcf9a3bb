// See grpc_log.h. gRPC wrote its log through a function of its own until 1.65. Since then it writes through Abseil's.

#include "mantaray/relay/grpc_log.h"

#include <grpcpp/version_info.h>

#include <string>

#if GRPC_CPP_VERSION_MAJOR > 1 || GRPC_CPP_VERSION_MINOR >= 66

#include <absl/base/log_severity.h>
#include <absl/log/globals.h>
#include <absl/log/initialize.h>
#include <absl/log/log_entry.h>
#include <absl/log/log_sink.h>
#include <absl/log/log_sink_registry.h>

#include <atomic>

namespace mantaray::relay {
namespace {

class LogLines final : public absl::LogSink {
 public:
  void LogErrorsAt(LogLevel level) { errors_.store(level, std::memory_order_relaxed); }

  void Send(const absl::LogEntry& said) override {
    const bool error = said.log_severity() >= absl::LogSeverity::kError;
    Log(error ? errors_.load(std::memory_order_relaxed) : LogLevel::kDebug, "grpc",
        {{"message", std::string(said.text_message())},
         {"at", std::string(said.source_filename()) + ":" + std::to_string(said.source_line())}});
  }

 private:
  std::atomic<LogLevel> errors_{LogLevel::kDebug};
};

LogLines* AddLogLines() {
  // Abseil ignores the threshold of standard error until its log is initialized.
  absl::InitializeLog();
  absl::SetStderrThreshold(absl::LogSeverityAtLeast::kInfinity);
  // Never deleted: threads of gRPC may log until the process ends.
  auto* const lines = new LogLines;
  absl::AddLogSink(lines);
  return lines;
}

}  // namespace

void LogGrpcErrorsAt(LogLevel level) {
  static LogLines* const lines = AddLogLines();
  lines->LogErrorsAt(level);
}

}  // namespace mantaray::relay

#else

#include <grpc/support/log.h>

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

#endif
