// Tests of the view, its change logs, and coalescing.

#include "mantaray/syncer/view_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace mantaray::syncer {
namespace {

NodeId Node(int number) {
  NodeId id;
  std::memcpy(id.bytes.data(), &number, sizeof(number));
  return id;
}

struct World {
  ViewStore view{1000};
  Channel channel;
  explicit World(CoalescerOptions options, FrameLimits limits = {}) : channel(kDown, options, limits) {}

  ViewEntry* Put(int node, int64_t version, int64_t now_ms) {
    const std::string bytes = EncodeMessage(version, MessageType::kResourceView, Node(node), "p");
    ViewEntry* entry = nullptr;
    if (view.Apply(*ParseMessage(bytes, {}), kFromUpstream, &entry) != ViewStore::Outcome::kNewer) return nullptr;
    channel.Add(entry, now_ms);
    return entry;
  }
  bool Release(int64_t now_ms) {
    return channel.Release(now_ms, [](ViewEntry*) {});
  }
  std::vector<int64_t> VersionsAfter(uint64_t position) {
    std::vector<int64_t> versions;
    channel.log().VisitAfter(position, [&](ViewEntry* entry) {
      versions.push_back(entry->version);
      return true;
    });
    return versions;
  }
};

TEST(ViewStore, StaleAndDuplicateMessagesLeaveNoTrace) {
  World world({});
  ASSERT_NE(world.Put(1, 5, 0), nullptr);
  EXPECT_EQ(world.Put(1, 5, 0), nullptr);
  EXPECT_EQ(world.Put(1, 4, 0), nullptr);
  EXPECT_NE(world.Put(1, 6, 0), nullptr);
  EXPECT_EQ(world.VersionsAfter(0), (std::vector<int64_t>{6}));
}

TEST(ViewStore, NumberOfNodesIsBounded) {
  ViewStore view(2);
  EXPECT_NE(view.FindOrAdd(Node(1)), nullptr);
  EXPECT_NE(view.FindOrAdd(Node(2)), nullptr);
  EXPECT_EQ(view.FindOrAdd(Node(3)), nullptr);
  EXPECT_NE(view.FindOrAdd(Node(1)), nullptr);
}

TEST(ChangeLog, ReaderThatFellBehindSeesTheNewestOnceAndMemoryStaysBounded) {
  World world({});
  for (int64_t version = 1; version <= 1000; ++version) {
    for (int node = 0; node < 10; ++node) world.Put(node, version, 0);
  }
  EXPECT_EQ(world.VersionsAfter(0), std::vector<int64_t>(10, 1000));
  EXPECT_LE(world.channel.log().slots(), 2 * 10 + 65u);
}

TEST(Coalescer, WindowOfZeroSendsAtOnce) {
  Coalescer coalescer({.window_ms = 0});
  EXPECT_FALSE(coalescer.Due(10));
  coalescer.Add(10);
  EXPECT_TRUE(coalescer.Due(10));
}

TEST(Coalescer, NothingWaitsLongerThanTheWindowAlsoAfterAFlushBySize) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const CoalescerOptions options{.window_ms = static_cast<int64_t>(random() % 50),
                                   .max_batch_messages = random() % 8};
    Coalescer coalescer(options);
    std::vector<int64_t> waiting;
    int64_t last_ms = -1000;
    for (int64_t now_ms = 0; now_ms < 1000; ++now_ms) {
      for (size_t arrivals = random() % 3; arrivals > 0; --arrivals) {
        coalescer.Add(now_ms);
        waiting.push_back(now_ms);
        if (options.max_batch_messages > 0 && waiting.size() >= options.max_batch_messages) {
          EXPECT_TRUE(coalescer.Due(now_ms));
        }
      }
      if (!waiting.empty()) {
        EXPECT_LE(coalescer.DeadlineMs(), waiting.front() + options.window_ms);
      }
      if (coalescer.Due(now_ms)) {
        const bool by_size = options.max_batch_messages > 0 && waiting.size() >= options.max_batch_messages;
        EXPECT_LE(now_ms - waiting.front(), options.window_ms);
        EXPECT_TRUE(by_size || now_ms - last_ms >= options.window_ms);
        last_ms = now_ms;
        coalescer.Flushed(now_ms);
        waiting.clear();
      }
    }
  }
}

TEST(Channel, NewestWinsWithinAWindowAndCountsOnce) {
  World world({.window_ms = 100, .max_batch_messages = 3});
  world.Put(9, 1, 0);
  EXPECT_TRUE(world.Release(0));  // the first goes at once
  const uint64_t seen = world.channel.latest();
  world.Put(1, 1, 0);
  world.Put(1, 2, 10);
  world.Put(1, 3, 20);
  world.Put(2, 1, 30);
  EXPECT_FALSE(world.Release(99));  // two different ones wait
  EXPECT_TRUE(world.Release(100));
  EXPECT_EQ(world.channel.Build(seen)->messages, 2u);
  world.Put(1, 4, 110);
  world.Put(2, 2, 110);
  EXPECT_FALSE(world.Release(110));
  world.Put(3, 1, 110);
  EXPECT_TRUE(world.Release(110));
}

TEST(Channel, FramesAreSharedByReadersAtTheSamePosition) {
  World world({});
  world.Put(1, 1, 0);
  world.Put(2, 1, 0);
  const auto one = world.channel.Build(0);
  EXPECT_EQ(one->bytes, world.channel.Build(0)->bytes);
  EXPECT_EQ(one->For(7).slices[0].owner, one->For(8).slices[0].owner);
  world.Put(2, 2, 0);
  EXPECT_NE(one->bytes, world.channel.Build(0)->bytes);
}

TEST(Channel, NobodyGetsItsOwnMessagesAndEverybodyAllOthers) {
  World world({});
  std::mt19937 random(9);
  for (int node = 0; node < 50; ++node) world.Put(node, 1 + node, 0)->node->carried_by = 1 + random() % 5;
  const auto segment = world.channel.Build(0);
  for (StreamId stream = 0; stream <= 6; ++stream) {
    const Frame frame = segment->For(stream);
    std::vector<int64_t> expected;
    for (const auto& [id, node] : world.view.nodes()) {
      if (node->carried_by != stream) expected.push_back(node->entries[0]->version);
    }
    std::vector<int64_t> got;
    const std::string bytes = frame.Flatten();
    EXPECT_EQ(bytes.size(), frame.size_bytes);
    const auto split = Split(bytes, {});
    ASSERT_TRUE(split.ok());
    for (const auto message : split->messages) got.push_back(ParseMessage(message, {})->version);
    std::sort(expected.begin(), expected.end());
    std::sort(got.begin(), got.end());
    EXPECT_EQ(got, expected);
    EXPECT_EQ(frame.messages, expected.size());
  }
}

TEST(Channel, FramesKeepToTheirLimitsAndLeaveNothingOut) {
  World world({}, {.max_messages = 7, .max_bytes = 100'000});
  for (int node = 0; node < 50; ++node) world.Put(node, 1, 0);
  uint64_t position = 0;
  size_t messages = 0;
  while (position < world.channel.latest()) {
    const auto segment = world.channel.Build(position);
    EXPECT_LE(segment->messages, 7u);
    ASSERT_GT(segment->to, position);
    messages += segment->messages;
    position = segment->to;
  }
  EXPECT_EQ(messages, 50u);
}

}  // namespace
}  // namespace mantaray::syncer
