// Tests of resource-view sync in simulation: invariants over many seeds, exact replay, and bugs that must be found.

#include "mantaray/sim/syncer_world.h"

#include <gtest/gtest.h>

namespace mantaray::sim {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__SANITIZE_UNDEFINED__)
constexpr uint64_t kShare = 5;
#else
constexpr uint64_t kShare = 1;
#endif

std::string Listed(const SyncerWorldOutcome& outcome) {
  std::string all;
  for (const std::string& violation : outcome.violations) all += violation + "\n";
  return all;
}

TEST(SyncerWorld, InvariantsHoldOverManySeeds) {
  for (uint64_t seed = 1; seed <= 40 / kShare; ++seed) {
    SyncerWorldOptions options;
    options.seed = seed;
    const SyncerWorldOutcome outcome = RunSyncerWorld(options);
    ASSERT_EQ(Listed(outcome), "") << "seed " << seed;
    EXPECT_GT(outcome.delivered_messages, 10'000u);
    EXPECT_LE(outcome.calm_staleness_max_ms, outcome.calm_bound_ms);
  }
}

TEST(SyncerWorld, InvariantsHoldWithTheRelaysRightBelowTheGcs) {
  for (uint64_t seed = 100; seed < 100 + 10 / kShare; ++seed) {
    SyncerWorldOptions options;
    options.seed = seed;
    options.mid_relays = 0;
    ASSERT_EQ(Listed(RunSyncerWorld(options)), "") << "seed " << seed;
  }
}

TEST(SyncerWorld, InvariantsHoldWithBareMessages) {
  for (uint64_t seed = 200; seed < 200 + 10 / kShare; ++seed) {
    SyncerWorldOptions options;
    options.seed = seed;
    options.bare = true;
    options.nodes = 30;
    ASSERT_EQ(Listed(RunSyncerWorld(options)), "") << "seed " << seed;
  }
}

TEST(SyncerWorld, InvariantsHoldWithNoiseSuppressed) {
  for (uint64_t seed = 300; seed < 300 + 10 / kShare; ++seed) {
    SyncerWorldOptions options;
    options.seed = seed;
    options.relay.noise = {.enabled = true, .object_store_bytes = 1e9, .idle_ms = 10'000, .max_delay_ms = 1'000};
    ASSERT_EQ(Listed(RunSyncerWorld(options)), "") << "seed " << seed;
  }
}

// In these a node that moved or died was taken for another's, because of its last command.
TEST(SyncerWorld, WorldsThatOnceFailedHold) {
  for (const uint64_t seed : {88, 325, 335, 436}) {
    SyncerWorldOptions options;
    options.seed = seed;
    EXPECT_EQ(Listed(RunSyncerWorld(options)), "") << "seed " << seed;
  }
}

// The shape of the world of ten thousand nodes (docs/sync-simulation.md), as much of it as a test can wait for.
TEST(SyncerWorld, InvariantsHoldInALargeTreeAndOneSeedIsOneRun) {
  SyncerWorldOptions options;
  options.seed = 11;
  options.nodes = 1'200 / kShare;
  options.leaf_relays = 20;
  options.hz = 0.5;
  options.storm_ms = 4'000;
  const SyncerWorldOutcome outcome = RunSyncerWorld(options);
  ASSERT_EQ(Listed(outcome), "");
  EXPECT_GT(outcome.relay_crashes, 0u);
  EXPECT_GT(outcome.delivered_messages, options.nodes * options.nodes * 5);
  EXPECT_EQ(RunSyncerWorld(options).trace, outcome.trace);
}

TEST(SyncerWorld, OneSeedIsOneRun) {
  SyncerWorldOptions options;
  options.seed = 7;
  const SyncerWorldOutcome one = RunSyncerWorld(options);
  const SyncerWorldOutcome two = RunSyncerWorld(options);
  EXPECT_EQ(one.trace, two.trace);
  EXPECT_EQ(one.events, two.events);
  options.seed = 8;
  EXPECT_NE(RunSyncerWorld(options).trace, one.trace);
}

TEST(SyncerWorld, EverySabotageIsFound) {
  for (const Sabotage sabotage :
       {Sabotage::kLostUpdatesStayLost, Sabotage::kSendsOldVersions, Sabotage::kEchoesToSender,
        Sabotage::kDropsCommandFlags, Sabotage::kForgetsTimer, Sabotage::kKeepsTheDead, Sabotage::kForgetsToResend,
        Sabotage::kQueuesForSlowReaders}) {
    bool found = false;
    for (uint64_t seed = 1; seed <= 5 && !found; ++seed) {
      SyncerWorldOptions options;
      options.seed = seed;
      options.sabotage = sabotage;
      found = !RunSyncerWorld(options).violations.empty();
    }
    EXPECT_TRUE(found) << "sabotage " << static_cast<int>(sabotage);
  }
}

}  // namespace
}  // namespace mantaray::sim
