// The load generator of the sync benchmarks; `sync_storm --help` lists its options. See storm.h for what it measures.

#include <sys/resource.h>

#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "benchmarks/sync_storm/storm.h"

namespace {

using mantaray::storm::Dialect;
using mantaray::storm::StormOptions;

constexpr char kHelp[] =
    "sync_storm --targets=ADDRESS:PORT[,ADDRESS:PORT...] [--option=value ...]\n"
    "Simulated raylets on sync streams; JSON on stdout, one line an event, the last is the result.\n\n"
    "  --nodes=50          simulated raylets, spread over the targets in turn\n"
    "  --dialect=batch     or bare: what they speak (Ray 2.53 and later batch, before bare)\n"
    "  --client=light      or grpc: what carries their streams, see transport.h\n"
    "  --hz=1              views a second that each publishes\n"
    "  --warmup-s=2 --seconds=10   of steady load before, and while, it is measured; --seconds=0: none\n"
    "  --bursts=3          rounds in which all nodes publish at once\n"
    "  --join-s=60 --settle-s=15 --burst-s=30   how long to wait for everybody to be up to date\n"
    "  --message-bytes=285 about, on the wire\n"
    "  --material-every=1  of so many views of a node one differs in more than object-store bytes and idle time\n"
    "  --window-bytes=1048576      receive window of a stream\n"
    "  --seed=1            of node ids and phases\n"
    "  --token=TOKEN       sent as `authorization: Bearer TOKEN`\n";

// Sets one option; false when there is no such option or the value will not do.
bool Set(absl::string_view name, absl::string_view value, StormOptions* options) {
  const std::map<absl::string_view, double*> seconds = {
      {"hz", &options->hz},         {"warmup-s", &options->warmup_s}, {"seconds", &options->seconds},
      {"join-s", &options->join_s}, {"settle-s", &options->settle_s}, {"burst-s", &options->burst_s},
  };
  if (const auto found = seconds.find(name); found != seconds.end()) {
    return absl::SimpleAtod(value, found->second) && *found->second >= 0 && options->hz > 0;
  }
  if (name == "targets") {
    options->targets = absl::StrSplit(value, ',', absl::SkipEmpty());
    return !options->targets.empty();
  }
  if (name == "dialect") {
    options->dialect = value == "bare" ? Dialect::kBare : Dialect::kBatch;
    return value == "bare" || value == "batch";
  }
  if (name == "client") {
    options->grpc_library = value == "grpc";
    return value == "grpc" || value == "light";
  }
  if (name == "token") {
    options->token = std::string(value);
    return true;
  }
  if (name == "nodes") return absl::SimpleAtoi(value, &options->nodes) && options->nodes > 0;
  if (name == "bursts") return absl::SimpleAtoi(value, &options->bursts);
  if (name == "message-bytes") return absl::SimpleAtoi(value, &options->message_bytes);
  if (name == "material-every") {
    return absl::SimpleAtoi(value, &options->material_every) && options->material_every > 0;
  }
  if (name == "window-bytes") return absl::SimpleAtoi(value, &options->window_bytes) && options->window_bytes >= 1024;
  if (name == "seed") return absl::SimpleAtoi(value, &options->seed);
  return false;
}

void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  StormOptions options;
  for (int at = 1; at < argc; ++at) {
    absl::string_view argument = argv[at];
    if (argument == "--help" || argument == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(argument, absl::MaxSplits('=', 1));
    if (parts.first.substr(0, 2) != "--" || !Set(parts.first.substr(2), parts.second, &options)) {
      std::fprintf(stderr, "sync_storm: `%s` is no option of this program; see --help\n", argv[at]);
      return 2;
    }
  }
  if (options.targets.empty()) {
    std::fputs("sync_storm: --targets is missing; see --help\n", stderr);
    return 2;
  }
  RaiseFileLimit();
  const absl::Status status = mantaray::storm::Storm(std::move(options)).Run();
  if (!status.ok()) std::fprintf(stderr, "sync_storm: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
