// Tests of how a stuck loop is told from one that has much to do.

#include "mantaray/relay/pulse.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace mantaray::relay {
namespace {

// Runs what was posted when the test says so.
struct FakeLoop {
  void Post(std::function<void()> function) { posted.push_back(std::move(function)); }
  void Run() {
    for (const auto& function : posted) function();
    posted.clear();
  }
  std::vector<std::function<void()>> posted;
};

TEST(Pulse, LoopThatHangsIsNoticed) {
  FakeLoop loop;
  Pulse<FakeLoop> pulse(&loop);
  EXPECT_TRUE(pulse.Alive(1'000));
  EXPECT_TRUE(pulse.Alive(5'999));
  EXPECT_FALSE(pulse.Alive(6'000));
  EXPECT_FALSE(pulse.Alive(60'000));
  // Questions do not pile up in a loop that hangs.
  EXPECT_EQ(loop.posted.size(), 1u);
  loop.Run();
  EXPECT_TRUE(pulse.Alive(60'001));
}

TEST(Pulse, LoopThatIsAskedRarelyDoesNotLookStuck) {
  FakeLoop loop;
  Pulse<FakeLoop> pulse(&loop);
  for (int64_t now_ms = 0; now_ms < 10'000'000; now_ms += 1'000'000) {
    EXPECT_TRUE(pulse.Alive(now_ms));
    loop.Run();
  }
}

}  // namespace
}  // namespace mantaray::relay
