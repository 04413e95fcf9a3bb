// Tests of when reads that ask the same share a flight.

#include "mantaray/relay/read_gate.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

namespace mantaray::relay {
namespace {

constexpr int64_t kEveryMs = 25;
constexpr int64_t kBurst = 3;

class ReadGateTest : public testing::Test {
 protected:
  // A read comes alone. Returns whether it leaves at that moment.
  bool LeavesAtOnce(const std::string& key, int call, int64_t now_ms) {
    gate_.Join(key, call, now_ms);
    return gate_.Due(now_ms).size() == 1;
  }

  void UseUp(const std::string& key, int64_t now_ms) {
    for (int64_t i = 0; i < kBurst; ++i) EXPECT_TRUE(LeavesAtOnce(key, 10'000 + static_cast<int>(i), now_ms));
  }

  ReadGate<int> gate_{kEveryMs, kBurst};
};

TEST_F(ReadGateTest, SeldomReadIsNeverHeldUp) {
  for (int64_t now_ms = 0; now_ms < 10'000; now_ms += kEveryMs) EXPECT_TRUE(LeavesAtOnce("nodes", 1, now_ms));
  EXPECT_EQ(gate_.NextMs(), std::nullopt);
}

TEST_F(ReadGateTest, ReadsThatComeTogetherLeaveTogetherWhateverTokensThereAre) {
  for (int call = 0; call < 100; ++call) gate_.Join("nodes", call, 1'000);
  const auto flights = gate_.Due(1'000);
  ASSERT_EQ(flights.size(), 1u);
  EXPECT_EQ(flights[0].size(), 100u);
}

TEST_F(ReadGateTest, ReadsOfManyLeaveAsOneAndWaitNoLongerThanTheWindow) {
  UseUp("nodes", 1'000);
  for (int call = 0; call < 3'200; ++call) EXPECT_FALSE(LeavesAtOnce("nodes", call, 1'001));
  ASSERT_EQ(gate_.NextMs(), 1'000 + kEveryMs);
  EXPECT_TRUE(gate_.Due(1'000 + kEveryMs - 1).empty());
  const auto flights = gate_.Due(1'000 + kEveryMs);
  ASSERT_EQ(flights.size(), 1u);
  EXPECT_EQ(flights[0].size(), 3'200u);
  EXPECT_EQ(gate_.NextMs(), std::nullopt);
}

TEST_F(ReadGateTest, SlowUpstreamIsAskedNoMoreOftenThanSaid) {
  std::vector<int64_t> left_ms;
  for (int64_t now_ms = 0; now_ms < 2'000; ++now_ms) {
    for (size_t flight = gate_.Due(now_ms).size(); flight > 0; --flight) left_ms.push_back(now_ms);
    if (LeavesAtOnce("nodes", static_cast<int>(now_ms), now_ms)) left_ms.push_back(now_ms);
  }
  EXPECT_LE(left_ms.size(), 2'000 / kEveryMs + kBurst);
  for (size_t i = kBurst + 1; i < left_ms.size(); ++i) EXPECT_EQ(left_ms[i] - left_ms[i - 1], kEveryMs);
}

TEST_F(ReadGateTest, ReadThatComesAfterAFlightLeftGetsNothingThatIsOlderThanItself) {
  UseUp("nodes", 0);
  EXPECT_FALSE(LeavesAtOnce("nodes", 1, 1));
  EXPECT_EQ(gate_.Due(kEveryMs).size(), 1u);
  EXPECT_FALSE(LeavesAtOnce("nodes", 2, kEveryMs));
  const auto flights = gate_.Due(2 * kEveryMs);
  ASSERT_EQ(flights.size(), 1u);
  EXPECT_EQ(flights[0], std::vector<int>{2});
}

TEST_F(ReadGateTest, DifferentQuestionsShareNothing) {
  UseUp("nodes", 0);
  UseUp("jobs", 0);
  EXPECT_FALSE(LeavesAtOnce("nodes", 1, 5));
  EXPECT_FALSE(LeavesAtOnce("jobs", 2, 5));
  EXPECT_EQ(gate_.Due(kEveryMs).size(), 2u);
}

TEST_F(ReadGateTest, ReadThatIsGivenUpDoesNotLeave) {
  UseUp("nodes", 0);
  EXPECT_FALSE(LeavesAtOnce("nodes", 1, 5));
  EXPECT_FALSE(LeavesAtOnce("nodes", 2, 5));
  gate_.Leave(1);
  gate_.Leave(7);  // was never here
  const auto flights = gate_.Due(kEveryMs);
  ASSERT_EQ(flights.size(), 1u);
  EXPECT_EQ(flights[0], std::vector<int>{2});
  EXPECT_FALSE(LeavesAtOnce("nodes", 3, kEveryMs));
  gate_.Leave(3);
  EXPECT_EQ(gate_.NextMs(), std::nullopt);
  EXPECT_TRUE(gate_.Due(10'000).empty());
}

TEST_F(ReadGateTest, ReadsHardlyWaitWhileTheUpstreamAnswersAtOnce) {
  for (int flight = 0; flight < 200; ++flight) gate_.Landed(0.4);
  UseUp("nodes", 1'000);
  EXPECT_FALSE(LeavesAtOnce("nodes", 1, 1'000));
  EXPECT_EQ(gate_.NextMs(), 1'004);
  // The upstream becomes slow while a read waits, whose time was told.
  for (int flight = 0; flight < 200; ++flight) gate_.Landed(500);
  EXPECT_EQ(gate_.Due(1'004).size(), 1u);
  EXPECT_FALSE(LeavesAtOnce("nodes", 2, 1'005));
  EXPECT_EQ(gate_.NextMs(), 1'004 + kEveryMs);
}

TEST_F(ReadGateTest, KeysThatNobodyAsksForAreForgotten) {
  int64_t now_ms = 0;
  for (int key = 0; key < 100'000; ++key) LeavesAtOnce("key " + std::to_string(key), key, now_ms += 1);
  EXPECT_LE(gate_.keys(), 2'000u);
}

// Random reads, departures and steps of time, judged by a plain account of what every read may expect.
TEST_F(ReadGateTest, EveryReadLeavesOnceAndInTimeWhateverTheUpstreamTakes) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    ReadGate<int> gate(kEveryMs, kBurst);
    std::unordered_map<int, int64_t> waits;  // since when
    int64_t now_ms = 0;
    for (int call = 0; call < 500; ++call) {
      now_ms += random() % 12;
      for (const auto& flight : gate.Due(now_ms)) {
        for (const int one : flight) {
          ASSERT_TRUE(waits.contains(one)) << "seed " << seed;
          waits.erase(one);
        }
        ASSERT_FALSE(flight.empty());
      }
      for (const auto& [one, since_ms] : waits) ASSERT_LT(now_ms - since_ms, kEveryMs + 12) << "seed " << seed;
      const std::string key = call % 2 == 0 ? "even" : "odd";
      gate.Join(key, call, now_ms);
      waits[call] = now_ms;
      if (random() % 8 == 0) gate.Landed(random() % 3 == 0 ? 0.1 : 40);
      if (!waits.empty() && random() % 4 == 0) {
        gate.Leave(waits.begin()->first);
        waits.erase(waits.begin());
      }
    }
  }
}

}  // namespace
}  // namespace mantaray::relay
