// The relay's log: one line an event on standard error, as text for people or as JSON for collectors.
//
//   2026-01-31T12:00:00.123Z INFO relay: listening address=0.0.0.0:6379
//   {"time":"2026-01-31T12:00:00.123Z","level":"info","event":"listening","address":"0.0.0.0:6379"}
//
// Thread-safe. No credentials are ever given to it.

#ifndef MANTARAY_RELAY_LOG_H_
#define MANTARAY_RELAY_LOG_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace mantaray::relay {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

using LogFields = std::initializer_list<std::pair<std::string_view, std::string>>;

// To be called before there are threads.
void SetUpLog(LogLevel lowest, bool json);
bool IsLogged(LogLevel level);
void Log(LogLevel level, std::string_view event, LogFields fields = {});

inline void LogDebug(std::string_view event, LogFields fields = {}) { Log(LogLevel::kDebug, event, fields); }
inline void LogInfo(std::string_view event, LogFields fields = {}) { Log(LogLevel::kInfo, event, fields); }
inline void LogWarning(std::string_view event, LogFields fields = {}) { Log(LogLevel::kWarning, event, fields); }
inline void LogError(std::string_view event, LogFields fields = {}) { Log(LogLevel::kError, event, fields); }

// `text` as a JSON string, with its quotes. Bytes that are no ASCII or that JSON does not allow come escaped.
std::string JsonString(std::string_view text);

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_LOG_H_
