// Explores seeded worlds of spilling and looks for one that breaks a promise; see engine_world.h.
//
//   engine_explorer [--worlds=N] [--first-seed=S] [--seconds=T] [--bug=NAME] [--trace]
//
// Without arguments it is the bounded run of the tests: some thousands of worlds without a bug must all be good, and
// each planted bug must be found by the damage that it does (without a sanitizer).

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/base/config.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "mantaray/common/steady_clock.h"
#include "mantaray/spill/engine_world.h"

#if defined(ABSL_HAVE_THREAD_SANITIZER)
// One thread plays all workers, each in the middle of another's operation. So the order in which it takes their locks
// cannot end in a deadlock.
extern "C" const char* __tsan_default_options() { return "detect_deadlocks=0"; }
#endif

namespace mantaray::spill {
namespace {

// A sanitizer makes a world twenty times slower. It looks at what the engine does to memory and threads, for which few
// worlds are enough; the plain run judges the promises and looks for the planted bugs.
#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif
constexpr uint64_t kTestWorlds = kIsSanitized ? 200 : 4000;
constexpr uint64_t kMostWorldsForABug = 20000;

struct Arguments {
  uint64_t worlds = 0;
  uint64_t first_seed = 1;
  uint64_t seconds = 0;
  bool trace = false;
  Bug bug = Bug::kNone;
  absl::string_view sign = {};  // words that a violation must have to count
};

struct Found {
  uint64_t worlds = 0;
  uint64_t seed = 0;  // of the bad world, 0 when all were good
  WorldOutcome totals;
};

// Runs worlds until one is bad, so many were good, or (if not 0) so many seconds have passed.
Found Explore(const Arguments& arguments) {
  Found found;
  SteadyClock clock;
  const int64_t end_ms = clock.NowMs() + static_cast<int64_t>(arguments.seconds * 1000);
  for (uint64_t seed = arguments.first_seed; found.worlds < arguments.worlds; ++seed) {
    if (arguments.seconds != 0 && clock.NowMs() > end_ms) break;
    const WorldOutcome outcome = RunWorld(seed, arguments.bug, arguments.trace);
    ++found.worlds;
    found.totals.operations += outcome.operations;
    found.totals.crashes += outcome.crashes;
    found.totals.faults += outcome.faults;
    found.totals.overtakings += outcome.overtakings;
    if (outcome.violation.empty() || !absl::StrContains(outcome.violation, arguments.sign)) continue;
    found.seed = seed;
    found.totals.violation = outcome.violation;
    break;
  }
  return found;
}

void Print(const Found& found, absl::string_view bug) {
  const WorldOutcome& totals = found.totals;
  std::printf("%s: %llu worlds, %llu operations, %llu deaths, %llu faults, %llu overtakings", std::string(bug).c_str(),
              static_cast<unsigned long long>(found.worlds), static_cast<unsigned long long>(totals.operations),
              static_cast<unsigned long long>(totals.crashes), static_cast<unsigned long long>(totals.faults),
              static_cast<unsigned long long>(totals.overtakings));
  if (found.seed != 0) {
    std::printf("; seed %llu: %s", static_cast<unsigned long long>(found.seed), totals.violation.c_str());
  }
  std::printf("\n");
}

bool TestRun() {
  const Found sound = Explore({.worlds = kTestWorlds});
  Print(sound, "no bug");
  bool good = sound.seed == 0;
  if (kIsSanitized) return good;
  for (const SeededBug& seeded : kSeededBugs) {
    const Found found = Explore({.worlds = kMostWorldsForABug, .bug = seeded.bug, .sign = seeded.sign});
    Print(found, seeded.name);
    good = good && found.seed != 0;
  }
  return good;
}

bool ParseArgument(absl::string_view argument, Arguments* arguments) {
  if (argument == "--trace") return arguments->trace = true;
  if (absl::ConsumePrefix(&argument, "--worlds=")) return absl::SimpleAtoi(argument, &arguments->worlds);
  if (absl::ConsumePrefix(&argument, "--first-seed=")) return absl::SimpleAtoi(argument, &arguments->first_seed);
  if (absl::ConsumePrefix(&argument, "--seconds=")) return absl::SimpleAtoi(argument, &arguments->seconds);
  if (!absl::ConsumePrefix(&argument, "--bug=")) return false;
  for (const SeededBug& seeded : kSeededBugs) {
    if (seeded.name != argument) continue;
    arguments->bug = seeded.bug;
    arguments->sign = seeded.sign;
  }
  return arguments->bug != Bug::kNone;
}

}  // namespace
}  // namespace mantaray::spill

int main(int argc, char** argv) {
  using mantaray::spill::Arguments;
  if (argc == 1) return mantaray::spill::TestRun() ? EXIT_SUCCESS : EXIT_FAILURE;
  Arguments arguments;
  arguments.worlds = 1000000;
  for (int i = 1; i < argc; ++i) {
    if (mantaray::spill::ParseArgument(argv[i], &arguments)) continue;
    std::fprintf(stderr, "engine_explorer: %s is not understood; see the head of engine_explorer.cc\n", argv[i]);
    return 2;
  }
  const auto found = mantaray::spill::Explore(arguments);
  mantaray::spill::Print(found, "explored");
  return found.seed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
