// The command line and the environment of the relay.

#ifndef MANTARAY_RELAY_OPTIONS_H_
#define MANTARAY_RELAY_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "mantaray/relay/log.h"
#include "mantaray/relay/shared_methods.h"

namespace mantaray::relay {

// Paths of PEM files; all of them, or none where TLS is not used.
struct TlsFiles {
  bool used = false;
  std::string certificate;
  std::string key;
  std::string authority;
};

// The value of --dialect. With kAuto the relay takes the dialect of the first message from the upstream.
enum class DialectChoice { kAuto, kBare, kBatch };

struct Options {
  std::string upstream;                         // HOST:PORT
  std::string listen = "0.0.0.0:6379";          // HOST:PORT
  std::string admin_listen = "127.0.0.1:6380";  // HOST:PORT; empty: none
  std::string admin_advertise;                  // what is told to a relay upstream; empty: admin_listen
  int64_t window_ms = 25;
  int64_t upward_window_ms = 0;
  int64_t max_batch_size = 0;  // 0: no bound
  int64_t grace_ms = 30'000;
  int64_t drain_ms = 2'000;
  int64_t upstream_timeout_ms = 5'000;  // 0: the listener stays open whatever happens to the upstream
  int64_t max_message_bytes = 512 << 20;
  int64_t max_calls = 50'000;  // under way
  int64_t package_bytes = 256'000'000;
  int64_t read_window_ms = 100;
  SharedMethodSet shared_reads = SharedMethodSet().set();
  int64_t max_memory_bytes = 0;       // 0: four fifths of what the process may have
  int64_t max_view_bytes = 16 << 20;  // of one node's resource view
  int64_t upstream_connections = 2;
  int64_t parent_pid = 0;
  DialectChoice dialect = DialectChoice::kAuto;
  bool suppress_noise = false;
  LogLevel log_level = LogLevel::kInfo;
  bool log_json = false;
  TlsFiles tls;
};

// What the command line asks for.
enum class Ask { kRun, kHelp, kVersion, kError };

struct Parsed {
  Ask ask = Ask::kRun;
  Options options;
  std::string error;  // one sentence, for kError
};

using Environment = std::function<const char*(const char* name)>;

// Reads arguments (without the program's name) on top of the environment.
Parsed ParseOptions(const std::vector<std::string>& arguments, const Environment& environment);

// What --help prints.
std::string HelpText();

}  // namespace mantaray::relay

#endif  // MANTARAY_RELAY_OPTIONS_H_
