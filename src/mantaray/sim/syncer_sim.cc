// Runs worlds of resource-view sync from the command line: syncer_sim SEED [COUNT [NODES [LEAF_RELAYS [MID_RELAYS]]]].
//
// Prints one line a world, and what did not hold. Ends with 1 if anything did not.

#include <cstdio>
#include <cstdlib>

#include "mantaray/sim/syncer_world.h"

int main(int argc, char** argv) {
  const auto number = [&](int at, uint64_t otherwise) {
    return at < argc ? std::strtoull(argv[at], nullptr, 10) : otherwise;
  };
  mantaray::sim::SyncerWorldOptions options;
  const uint64_t first = number(1, 1);
  const uint64_t count = number(2, 1);
  options.nodes = number(3, options.nodes);
  options.leaf_relays = number(4, options.leaf_relays);
  options.mid_relays = number(5, options.mid_relays);
  if (options.nodes > 1'000) {
    options.hz = 0.5;
    options.storm_ms = 6'000;
    options.gcs_restarts = 170;  // one
  }
  bool held = true;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    options.seed = seed;
    const auto outcome = mantaray::sim::RunSyncerWorld(options);
    std::printf(
        "seed %llu: %s; trace %016llx, %llu events, %llu messages delivered, %llu streams, %llu deaths, %llu relay "
        "crashes, %llu GCS restarts, %llu buckets repaired; calm staleness p50 %lld p99 %lld max %lld ms (bound %lld); "
        "relay memory %zu "
        "bytes\n",
        static_cast<unsigned long long>(seed), outcome.violations.empty() ? "held" : "VIOLATED",
        static_cast<unsigned long long>(outcome.trace), static_cast<unsigned long long>(outcome.events),
        static_cast<unsigned long long>(outcome.delivered_messages), static_cast<unsigned long long>(outcome.streams),
        static_cast<unsigned long long>(outcome.deaths), static_cast<unsigned long long>(outcome.relay_crashes),
        static_cast<unsigned long long>(outcome.gcs_restarts),
        static_cast<unsigned long long>(outcome.repaired_buckets),
        static_cast<long long>(outcome.calm_staleness_p50_ms), static_cast<long long>(outcome.calm_staleness_p99_ms),
        static_cast<long long>(outcome.calm_staleness_max_ms), static_cast<long long>(outcome.calm_bound_ms),
        outcome.relay_memory_bytes);
    for (const std::string& violation : outcome.violations) std::printf("  %s\n", violation.c_str());
    std::fflush(stdout);
    held = held && outcome.violations.empty();
  }
  return held ? 0 : 1;
}
