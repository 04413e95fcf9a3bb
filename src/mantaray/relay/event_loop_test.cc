// The event loop on a real completion queue.

#include "mantaray/relay/event_loop.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace mantaray::relay {
namespace {

class EventLoopTest : public ::testing::Test {
 protected:
  explicit EventLoopTest(std::unique_ptr<grpc::CompletionQueue> queue = std::make_unique<grpc::CompletionQueue>())
      : loop_(std::move(queue), "test") {}

  // Runs a function on the loop and waits until `told` is called there, or later.
  void Run(const std::function<void(std::function<void()> told)>& function) {
    auto promise = std::make_shared<std::promise<void>>();
    std::future<void> answer = promise->get_future();
    loop_.Post([&function, promise] { function([promise] { promise->set_value(); }); });
    ASSERT_EQ(answer.wait_for(std::chrono::seconds(60)), std::future_status::ready);
  }

  EventLoop loop_;
  std::vector<std::string> seen_;  // of the loop's thread, until it has stopped
};

TEST_F(EventLoopTest, WorkOfManyThreadsIsDoneOnOneAndNoneIsLost) {
  loop_.Start();
  int done = 0;
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this, &done] {
      for (int j = 0; j < 1'000; ++j) {
        loop_.Post([&done] { ++done; });
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  Run([](const auto& told) { told(); });
  loop_.Stop();
  EXPECT_EQ(done, 4'000);
}

TEST_F(EventLoopTest, DeferredWorkWaitsUntilTheQueueHasRunDry) {
  loop_.Start();
  Run([this](const auto& told) {
    loop_.Defer([this, told] {
      seen_.emplace_back("deferred");
      // What is deferred meanwhile waits for its own turn.
      loop_.Defer([this, told] {
        seen_.emplace_back("deferred later");
        told();
      });
      seen_.emplace_back("deferred ends");
    });
    seen_.emplace_back("event");
  });
  loop_.Stop();
  EXPECT_EQ(seen_, (std::vector<std::string>{"event", "deferred", "deferred ends", "deferred later"}));
}

TEST_F(EventLoopTest, TimersRunInTheOrderInWhichTheyAreDue) {
  loop_.Start();
  Run([this](const auto& told) {
    loop_.Schedule(30, [told] { told(); });
    loop_.Schedule(10, [this] { seen_.emplace_back("second"); });
    loop_.Schedule(10, [this] { seen_.emplace_back("third"); });
    loop_.Schedule(0, [this] { seen_.emplace_back("first"); });
  });
  loop_.Stop();
  EXPECT_EQ(seen_, (std::vector<std::string>{"first", "second", "third"}));
}

TEST_F(EventLoopTest, ATimerThatIsCancelledDoesNotRun) {
  loop_.Start();
  Run([this](const auto& told) {
    const auto id = loop_.Schedule(5, [this] { seen_.emplace_back("cancelled"); });
    const auto past = loop_.Schedule(0, [this] { seen_.emplace_back("ran"); });
    loop_.Cancel(id);
    loop_.Schedule(20, [this, past, told] {
      // One that has run, and one that never was, are nothing to cancel.
      loop_.Cancel(past);
      loop_.Cancel(0);
      told();
    });
  });
  loop_.Stop();
  EXPECT_EQ(seen_, std::vector<std::string>{"ran"});
}

TEST_F(EventLoopTest, AfterItHasStoppedNothingRunsAndNothingCrashes) {
  loop_.Start();
  loop_.Stop();
  loop_.Post([this] { seen_.emplace_back("too late"); });
  loop_.Stop();
  EXPECT_TRUE(seen_.empty());
}

class QuietEventLoopTest : public EventLoopTest {
 protected:
  QuietEventLoopTest() : EventLoopTest(EventLoop::QueueThatDoesNotPoll()) {}
};

TEST_F(QuietEventLoopTest, WorkAndTimersRunThoughItDoesNotPoll) {
  loop_.Start();
  Run([this](const auto& told) {
    loop_.Schedule(20, [told] { told(); });
    loop_.Schedule(5, [this] { seen_.emplace_back("timer"); });
    loop_.Defer([this] { seen_.emplace_back("deferred"); });
    seen_.emplace_back("event");
  });
  loop_.Stop();
  EXPECT_EQ(seen_, (std::vector<std::string>{"event", "deferred", "timer"}));
}

}  // namespace
}  // namespace mantaray::relay
