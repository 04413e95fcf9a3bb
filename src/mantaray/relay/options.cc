// See options.h.

#include "mantaray/relay/options.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <initializer_list>
#include <string_view>

namespace mantaray::relay {
namespace {

std::string Joined(std::initializer_list<std::string_view> parts) {
  std::string all;
  for (const std::string_view part : parts) all.append(part);
  return all;
}

constexpr std::string_view kHelp = R"(Usage: mantaray relay --upstream HOST:PORT [options]

A relay between raylets and the GCS (or another relay): it carries the resource-view sync of all its nodes over one stream,
batched both ways, and proxies every other call unchanged. Nodes join through it with `ray start --address=RELAY:PORT`.

  --upstream HOST:PORT         the GCS, or the relay above this one (required)
  --listen HOST:PORT           where nodes connect                                      [0.0.0.0:6379]
  --admin-listen HOST:PORT     /metrics, /status, /healthz, /readyz; empty for none     [127.0.0.1:6380]
  --admin-advertise HOST:PORT  how the relay above reaches --admin-listen               [the same]

  --window-ms N                updates on their way to nodes wait for so long, to leave together; 0: not at all
                               [RAY_gcs_resource_broadcast_max_batch_delay_ms, else 25]
  --max-batch-size N           waiting updates that leave before the window ends; 0: no bound
                               [RAY_gcs_resource_broadcast_max_batch_size, else 0]
  --upward-window-ms N         updates on their way to the upstream wait for so long    [0]
  --dialect DIALECT            what the upstream speaks: bare (Ray before 2.53), batch, or auto  [auto]
  --grace-ms N                 a node whose stream ended leaves the view after          [30000]
  --suppress-noise             let updates wait in which only object-store bytes or idle time moved

  --drain-ms N                 how long calls under way have after SIGTERM              [2000]
  --upstream-timeout-ms N      with the upstream out of reach for so long, close the listener and every connection
                               until it is back, so that Ray's own time-out begins; 0: never  [5000]
  --max-message-bytes N        larger messages are refused   [RAY_max_grpc_message_size, else 536870912]
  --max-view-bytes N           a sync stream ends when its node's resource view is larger  [16777216]
  --max-calls N                more calls under way are refused, long polls among them  [50000]
  --package-bytes N            no package is fetched while messages of so many bytes wait here  [256000000]
  --shared-reads METHODS       reads of the GCS that share an answer when many ask the same: all, none, or names of
                               methods with commas between them                         [all]
  --read-window-ms N           then a read waits for ten times as long as the upstream takes, and for no longer
                               than this                                                [100]
  --max-memory-bytes N         with more memory in use, calls that move large messages end  [4/5 of what there is]
  --upstream-connections N     over which calls are spread, client by client            [2]
  --parent-pid PID             end when this process has ended

  --log-level LEVEL            debug, info, warning or error                            [info]
  --log-format FORMAT          text or json                                             [text]
  --version, --help

TLS is configured as Ray's own, on both sides: RAY_USE_TLS=1 with RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and
RAY_TLS_CA_CERT, all three of them.
Tokens (RAY_AUTH_MODE=token) are carried from the nodes to the upstream, which decides; the relay has none.

Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot listen or read its certificates, 2 for a command line or a
variable that is wrong.
)";

struct Flag {
  std::string_view name;
  bool takes_value;
  // Returns what is allowed when the value is not, else an empty string.
  std::string (*set)(Options* options, const std::string& value);
};

bool ReadInteger(const std::string& text, int64_t low, int64_t high, int64_t* value) {
  int64_t parsed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
  if (error != std::errc() || end != text.data() + text.size() || parsed < low || parsed > high) {
    return false;
  }
  *value = parsed;
  return true;
}

std::string SetInteger(int64_t* target, const std::string& text, int64_t low, int64_t high) {
  if (ReadInteger(text, low, high, target)) {
    return "";
  }
  return "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
}

std::string SetAddress(std::string* target, const std::string& text) {
  const size_t colon = text.rfind(':');
  int64_t port = 0;
  if (colon == std::string::npos || colon == 0 || !ReadInteger(text.substr(colon + 1), 0, 65535, &port)) {
    return "HOST:PORT";
  }
  *target = text;
  // An IPv6 address as Kubernetes has it: without the brackets that tell its colons from that of the port.
  if (text.front() != '[' && text.find(':') != colon) {
    *target = Joined({"[", text.substr(0, colon), "]", text.substr(colon)});
  }
  return "";
}

constexpr int64_t kHourMs = 3'600'000;
constexpr char kWindowVariable[] = "RAY_gcs_resource_broadcast_max_batch_delay_ms";
constexpr char kBatchVariable[] = "RAY_gcs_resource_broadcast_max_batch_size";
constexpr char kMessageVariable[] = "RAY_max_grpc_message_size";

std::string SetWindow(Options* o, const std::string& v) { return SetInteger(&o->window_ms, v, 0, 60'000); }
std::string SetBatch(Options* o, const std::string& v) { return SetInteger(&o->max_batch_size, v, 0, 1'000'000); }
std::string SetMessage(Options* o, const std::string& v) {
  return SetInteger(&o->max_message_bytes, v, 1024, 2'147'483'647);
}

std::string SetLogLevel(Options* options, const std::string& value) {
  constexpr std::string_view kWords[] = {"debug", "info", "warning", "error"};
  for (size_t i = 0; i < std::size(kWords); ++i) {
    if (value == kWords[i]) {
      options->log_level = static_cast<LogLevel>(i);
      return "";
    }
  }
  return "debug, info, warning or error";
}

std::string SetLogFormat(Options* options, const std::string& value) {
  options->log_json = value == "json";
  return value == "json" || value == "text" ? "" : "text or json";
}

std::string SetSharedReads(Options* options, const std::string& value) {
  options->shared_reads.reset();
  if (value == "none") {
    return "";
  }
  if (value == "all") {
    options->shared_reads.set();
    return "";
  }
  std::string allowed = "all, none, or some of";
  for (const SharedMethod& method : kSharedMethods) {
    allowed.append(" ").append(method.name);
  }
  for (size_t from = 0; from <= value.size();) {
    const size_t comma = std::min(value.find(',', from), value.size());
    const std::string_view name = std::string_view(value).substr(from, comma - from);
    const auto* method = std::find_if(kSharedMethods.begin(), kSharedMethods.end(),
                                      [name](const SharedMethod& one) { return one.name == name; });
    if (method == kSharedMethods.end()) {
      return allowed;
    }
    options->shared_reads.set(static_cast<size_t>(method - kSharedMethods.begin()));
    from = comma + 1;
  }
  return "";
}

std::string SetDialect(Options* options, const std::string& value) {
  constexpr std::string_view kWords[] = {"auto", "bare", "batch"};
  for (size_t i = 0; i < std::size(kWords); ++i) {
    if (value == kWords[i]) {
      options->dialect = static_cast<DialectChoice>(i);
      return "";
    }
  }
  return "auto, bare or batch";
}

const Flag kFlags[] = {
    {"upstream", true, [](Options* o, const std::string& v) { return SetAddress(&o->upstream, v); }},
    {"listen", true, [](Options* o, const std::string& v) { return SetAddress(&o->listen, v); }},
    {"admin-listen", true,
     [](Options* o, const std::string& v) {
       o->admin_listen.clear();
       return v.empty() ? std::string() : SetAddress(&o->admin_listen, v);
     }},
    {"admin-advertise", true, [](Options* o, const std::string& v) { return SetAddress(&o->admin_advertise, v); }},
    {"window-ms", true, SetWindow},
    {"max-batch-size", true, SetBatch},
    {"upward-window-ms", true,
     [](Options* o, const std::string& v) { return SetInteger(&o->upward_window_ms, v, 0, 60'000); }},
    {"dialect", true, SetDialect},
    {"grace-ms", true, [](Options* o, const std::string& v) { return SetInteger(&o->grace_ms, v, 0, kHourMs); }},
    {"suppress-noise", false,
     [](Options* o, const std::string&) {
       o->suppress_noise = true;
       return std::string();
     }},
    {"drain-ms", true, [](Options* o, const std::string& v) { return SetInteger(&o->drain_ms, v, 0, kHourMs); }},
    {"upstream-timeout-ms", true,
     [](Options* o, const std::string& v) { return SetInteger(&o->upstream_timeout_ms, v, 0, kHourMs); }},
    {"max-message-bytes", true, SetMessage},
    {"max-view-bytes", true,
     [](Options* o, const std::string& v) { return SetInteger(&o->max_view_bytes, v, 1024, 63 << 20); }},
    {"max-calls", true, [](Options* o, const std::string& v) { return SetInteger(&o->max_calls, v, 1, 10'000'000); }},
    {"package-bytes", true,
     [](Options* o, const std::string& v) { return SetInteger(&o->package_bytes, v, 0, int64_t{1} << 40); }},
    {"shared-reads", true, SetSharedReads},
    {"read-window-ms", true,
     [](Options* o, const std::string& v) { return SetInteger(&o->read_window_ms, v, 1, 60'000); }},
    {"max-memory-bytes", true,
     [](Options* o, const std::string& v) {
       return SetInteger(&o->max_memory_bytes, v, 64'000'000, int64_t{1} << 40);
     }},
    {"upstream-connections", true,
     [](Options* o, const std::string& v) { return SetInteger(&o->upstream_connections, v, 1, 64); }},
    {"parent-pid", true,
     [](Options* o, const std::string& v) { return SetInteger(&o->parent_pid, v, 1, 2'147'483'647); }},
    {"log-level", true, SetLogLevel},
    {"log-format", true, SetLogFormat},
};

std::string Value(const Environment& environment, const char* name) {
  const char* value = environment(name);
  return value == nullptr ? "" : value;
}

// Ray takes "1" and "true" for a switch that is on, in whatever case.
bool IsOn(std::string_view value) {
  constexpr std::string_view kTrue = "true";
  const auto same = [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; };
  return value == "1" || std::equal(value.begin(), value.end(), kTrue.begin(), kTrue.end(), same);
}

// As Ray, wants all three files or none. Without the authority anybody would be let in.
std::string ReadTls(const Environment& environment, TlsFiles* files) {
  if (!IsOn(Value(environment, "RAY_USE_TLS"))) {
    return "";
  }
  files->used = true;
  const struct {
    const char* name;
    std::string* path;
  } variables[] = {{"RAY_TLS_SERVER_CERT", &files->certificate},
                   {"RAY_TLS_SERVER_KEY", &files->key},
                   {"RAY_TLS_CA_CERT", &files->authority}};
  for (const auto& variable : variables) {
    *variable.path = Value(environment, variable.name);
    if (variable.path->empty()) {
      return Joined({"RAY_USE_TLS is on, but ", variable.name,
                     " is not set; RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT have to be"});
    }
  }
  return "";
}

// Returns an error, or an empty string.
std::string ReadEnvironment(const Environment& environment, Options* options) {
  const struct {
    const char* name;
    std::string (*set)(Options*, const std::string&);
  } variables[] = {{kWindowVariable, SetWindow}, {kBatchVariable, SetBatch}, {kMessageVariable, SetMessage}};
  for (const auto& variable : variables) {
    const std::string value = Value(environment, variable.name);
    const std::string allowed = value.empty() ? "" : variable.set(options, value);
    if (!allowed.empty()) {
      return Joined({variable.name, " is set to '", value, "'; allowed: ", allowed});
    }
  }
  return ReadTls(environment, &options->tls);
}

Parsed Wrong(std::string error) {
  Parsed parsed;
  parsed.ask = Ask::kError;
  parsed.error = std::move(error);
  return parsed;
}

const Flag* FindFlag(std::string_view name) {
  for (const Flag& flag : kFlags) {
    if (flag.name == name) {
      return &flag;
    }
  }
  return nullptr;
}

}  // namespace

Parsed ParseOptions(const std::vector<std::string>& arguments, const Environment& environment) {
  Parsed parsed;
  for (const std::string& argument : arguments) {
    if (argument == "--help" || argument == "-h") {
      parsed.ask = Ask::kHelp;
      return parsed;
    }
    if (argument == "--version") {
      parsed.ask = Ask::kVersion;
      return parsed;
    }
  }
  if (std::string error = ReadEnvironment(environment, &parsed.options); !error.empty()) {
    return Wrong(std::move(error));
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const size_t equals = argument.find('=');
    const bool named = argument.starts_with("--");
    const Flag* flag =
        named ? FindFlag(std::string_view(argument).substr(2, equals == std::string::npos ? equals : equals - 2))
              : nullptr;
    if (flag == nullptr) {
      return Wrong("there is no option '" + argument + "'");
    }
    std::string value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (flag->takes_value) {
      if (++i == arguments.size()) {
        return Wrong(argument + " needs a value");
      }
      value = arguments[i];
    }
    if (const std::string allowed = flag->set(&parsed.options, value); !allowed.empty()) {
      return Wrong(Joined({"--", flag->name, " is '", value, "'; allowed: ", allowed}));
    }
  }
  if (parsed.options.upstream.empty()) {
    return Wrong("--upstream is missing: name the GCS, HOST:PORT");
  }
  return parsed;
}

std::string HelpText() { return std::string(kHelp); }

}  // namespace mantaray::relay
