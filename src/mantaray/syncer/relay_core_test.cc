// Tests of the relay's core: what reaches whom, when, in which form, and what is refused.

#include "mantaray/syncer/relay_core.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "absl/strings/str_format.h"
#include "mantaray/syncer/backoff.h"

namespace mantaray::syncer {
namespace {

constexpr MessageType kView = MessageType::kResourceView;
constexpr MessageType kCommands = MessageType::kCommands;
const std::string kGc("\x08\x01", 2);
const std::string kFull("\x10\x01", 2);

NodeId Node(int number) {
  NodeId id;
  id.bytes.fill('n');
  std::memcpy(id.bytes.data(), &number, sizeof(number));
  return id;
}

std::string Bare(int node, int64_t version, std::string_view payload = "", MessageType type = kView) {
  return EncodeMessage(version, type, Node(node), payload);
}

std::string Batch(const std::vector<std::string>& messages) {
  std::string bytes;
  for (const std::string& message : messages) AppendBatchEntry(message, &bytes);
  return bytes;
}

struct FakePeer : Peer {
  void WriteReady() override { ready = true; }
  void Close(const absl::Status& status) override { closed = status; }

  bool ready = false;
  std::optional<absl::Status> closed;
};

struct Observer : RelayObserver {
  void NodeLeft(const NodeId& node_id) override { left.push_back(node_id); }
  std::vector<NodeId> left;
};

// A client of a relay: the stream, and what it was sent.
struct Client {
  RelayCore* core = nullptr;
  StreamId stream = kNoStream;
  FakePeer peer;
  size_t frames = 0;
  std::vector<SplitFrame> last_splits;
  // By node number and type: versions and payloads in the order they came.
  std::map<std::pair<int, MessageType>, std::vector<std::pair<int64_t, std::string>>> seen;

  void Drain() {
    while (const std::optional<Frame> frame = core->Take(stream)) {
      ++frames;
      const std::string bytes = frame->Flatten();
      const auto split = Split(bytes, {});
      ASSERT_TRUE(split.ok()) << split.status();
      ASSERT_EQ(split->messages.size(), frame->messages);
      for (const std::string_view part : split->messages) {
        const auto message = ParseMessage(part, {});
        ASSERT_TRUE(message.ok());
        int node = 0;
        std::memcpy(&node, message->node_id.bytes.data(), sizeof(node));
        seen[{node, message->type}].emplace_back(message->version, std::string(message->payload));
      }
    }
    peer.ready = false;
  }
  int64_t Version(int node, MessageType type = kView) {
    const auto found = seen.find({node, type});
    return found == seen.end() ? -1 : found->second.back().first;
  }
  size_t Count(int node, MessageType type = kView) { return seen[{node, type}].size(); }
};

struct RelayTest : testing::Test {
  RelayTest() {
    options.node_id = Node(1'000'000);
    options.downward = {};
    options.grace_ms = 1000;
    options.upstream_dialect = Dialect::kBatch;
  }

  void Start() {
    clock.AdvanceMs(100'000);
    core = std::make_unique<RelayCore>(options, &clock, &observer);
    up.core = core.get();
  }
  void ConnectUpstream(const StreamMetadata& metadata = {}) {
    const auto stream = core->UpstreamConnected(metadata, &up.peer);
    ASSERT_TRUE(stream.ok()) << stream.status();
    up.stream = *stream;
  }
  std::unique_ptr<Client> Connect(int node, StreamMetadata more = {}) {
    auto client = std::make_unique<Client>();
    client->core = core.get();
    more.emplace_back("node_id", Node(node).Hex());
    const auto stream = core->AddDownstream(more, &client->peer);
    EXPECT_TRUE(stream.ok()) << stream.status();
    if (stream.ok()) client->stream = *stream;
    return client;
  }
  // A node's word, in the dialect of the cluster.
  std::string Word(int node, int64_t version) {
    return options.upstream_dialect == Dialect::kBare ? Bare(node, version) : Batch({Bare(node, version)});
  }
  // Connects a node and lets it say a first word, so that its dialect is known.
  std::unique_ptr<Client> Join(int node, int64_t version = 1) {
    auto client = Connect(node);
    core->OnDownstreamBytes(client->stream, Word(node, version));
    return client;
  }
  std::unique_ptr<Client> ConnectRelay(int node) {
    return Connect(node, {{"mantaray-relay", Node(node).Hex().substr(0, 16)}});
  }
  void Advance(int64_t ms) {
    clock.AdvanceMs(ms);
    core->Tick();
  }

  VirtualClock clock;
  RelayOptions options;
  Observer observer;
  std::unique_ptr<RelayCore> core;
  Client up;
};

TEST_F(RelayTest, ANodesMessageReachesUpstreamAndAllOthersButNotItself) {
  Start();
  ConnectUpstream();
  auto one = Join(1);
  auto two = Join(2);
  one->Drain();
  two->Drain();
  up.Drain();
  EXPECT_EQ(up.Version(1), 1);
  EXPECT_EQ(up.Version(2), 1);
  EXPECT_EQ(two->Version(1), 1);
  EXPECT_EQ(one->Version(2), 1);
  EXPECT_EQ(one->Count(1), 0u);
  EXPECT_EQ(two->Count(2), 0u);
}

TEST_F(RelayTest, UpstreamsMessagesReachNodesAndDoNotGoBack) {
  Start();
  ConnectUpstream();
  auto one = Join(1);
  up.Drain();
  core->OnUpstreamBytes(up.stream, Batch({Bare(7, 3, "\x18\x01"), Bare(8, 4)}));
  one->Drain();
  up.Drain();
  EXPECT_EQ(one->Version(7), 3);
  EXPECT_EQ(one->seen[std::make_pair(7, kView)][0].second, "\x18\x01");
  EXPECT_EQ(one->Version(8), 4);
  EXPECT_EQ(up.Count(7), 0u);
}

TEST_F(RelayTest, EachSideMaySpeakEitherDialect) {
  options.upstream_dialect = Dialect::kBare;
  Start();
  ConnectUpstream();
  auto batch = Join(1);
  auto bare = Connect(2);
  core->OnDownstreamBytes(bare->stream, Bare(2, 5));
  core->OnUpstreamBytes(up.stream, Bare(3, 6));
  const auto frame = core->Take(up.stream);
  ASSERT_TRUE(frame);
  EXPECT_EQ(DialectOf(frame->Flatten()), Dialect::kBare);
  EXPECT_EQ(frame->messages, 1u);
  const auto to_bare = core->Take(bare->stream);
  ASSERT_TRUE(to_bare);
  EXPECT_EQ(DialectOf(to_bare->Flatten()), Dialect::kBare);
  bare->Drain();
  batch->Drain();
  EXPECT_EQ(batch->Version(2), 5);
  EXPECT_EQ(batch->Version(3), 6);
}

TEST_F(RelayTest, NothingIsSentBeforeTheDialectIsKnown) {
  options.upstream_dialect = Dialect::kUnknown;
  Start();
  ConnectUpstream();
  auto silent = Connect(1);
  EXPECT_FALSE(core->upstream_ready());
  auto two = Connect(2);
  core->OnDownstreamBytes(two->stream, Bare(2, 1));
  EXPECT_FALSE(core->upstream_ready());  // it would die of the wrong one, and may yet speak
  core->OnUpstreamBytes(up.stream, "\xff");
  EXPECT_FALSE(core->upstream_ready());
  Advance(options.dialect_wait_ms);
  EXPECT_TRUE(core->upstream_ready());
  EXPECT_EQ(DialectOf(core->Take(up.stream)->Flatten()), Dialect::kBare);
  EXPECT_FALSE(core->Take(silent->stream));
  core->OnDownstreamBytes(silent->stream, Bare(1, 1));
  EXPECT_TRUE(silent->peer.ready);
  silent->Drain();
  EXPECT_EQ(silent->Version(2), 1);
}

TEST_F(RelayTest, UpstreamThatSpeaksFirstIsAnsweredInItsDialect) {
  options.upstream_dialect = Dialect::kUnknown;
  Start();
  ConnectUpstream();
  auto liar = Connect(2);
  core->OnDownstreamBytes(liar->stream, Bare(2, 1));
  core->OnUpstreamBytes(up.stream, Batch({Bare(7, 1)}));
  EXPECT_EQ(DialectOf(core->Take(up.stream)->Flatten()), Dialect::kBatch);
}

TEST_F(RelayTest, WindowGathersAndNewestWins) {
  options.downward = {.window_ms = 50};
  options.upward = {.window_ms = 50};
  Start();
  ConnectUpstream();
  auto one = Join(1);
  auto two = Join(2);
  Advance(50);
  Advance(50);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 2)}));  // after a quiet window: at once
  EXPECT_TRUE(two->peer.ready);
  one->Drain();
  two->Drain();
  up.Drain();
  for (int64_t version = 3; version < 10; ++version) core->OnDownstreamBytes(one->stream, Batch({Bare(1, version)}));
  EXPECT_FALSE(two->peer.ready);
  EXPECT_EQ(core->NextDeadlineMs(), clock.NowMs() + 50);
  Advance(49);
  EXPECT_FALSE(two->peer.ready);
  Advance(1);
  EXPECT_TRUE(two->peer.ready);
  two->Drain();
  up.Drain();
  EXPECT_EQ(two->Count(1), 2u);
  EXPECT_EQ(two->Version(1), 9);
  EXPECT_EQ(up.Count(1), 2u);
}

TEST_F(RelayTest, SlowReaderGetsTheNewestInOneFrameAndIsNotStarved) {
  Start();
  auto one = Join(1);
  auto slow = Join(2);
  for (int64_t version = 2; version < 1000; ++version) core->OnDownstreamBytes(one->stream, Batch({Bare(1, version)}));
  slow->Drain();
  EXPECT_EQ(slow->frames, 1u);
  EXPECT_EQ(slow->Version(1), 999);
}

TEST_F(RelayTest, SlowReaderIsNotStarvedByANodeThatChangesInEveryWindow) {
  options.downward = {.window_ms = 50};
  Start();
  auto one = Join(1);
  auto slow = Join(2);
  Advance(50);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 2)}));
  Advance(10);
  slow->Drain();  // comes when version 2 waits for its window: it is due to the reader since version 1 was let go
  EXPECT_EQ(slow->Version(1), 2);
}

TEST_F(RelayTest, CommandsAreNeverDelayedAndTheirFlagsNeverLost) {
  options.downward = {.window_ms = 1000};
  options.upward = {.window_ms = 1000};
  Start();
  ConnectUpstream();
  auto one = Join(1);
  auto two = Join(2);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 1, kGc, kCommands)}));
  EXPECT_TRUE(two->peer.ready);
  two->Drain();
  EXPECT_EQ(ReadCommandFlags(two->seen[std::make_pair(1, kCommands)].back().second), kGlobalGc);
  // Upstream is slow: three commands become one, with all flags.
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 2, kFull, kCommands)}));
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 3, "", kCommands)}));
  up.Drain();
  ASSERT_EQ(up.Count(1, kCommands), 1u);
  EXPECT_EQ(up.Version(1, kCommands), 3);
  EXPECT_EQ(ReadCommandFlags(up.seen[std::make_pair(1, kCommands)].back().second), kGlobalGc | kClusterFullOfActors);
  two->Drain();
  EXPECT_EQ(ReadCommandFlags(two->seen[std::make_pair(1, kCommands)].back().second), kClusterFullOfActors);
}

TEST_F(RelayTest, OldCommandsAreNotHandedToWhoJoinsLater) {
  Start();
  auto one = Join(1);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 1, kGc, kCommands)}));
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 2, "", kCommands)}));
  auto late = Join(2);
  late->Drain();
  EXPECT_EQ(late->Version(1, kCommands), 2);
  EXPECT_EQ(ReadCommandFlags(late->seen[std::make_pair(1, kCommands)].back().second), 0);
}

TEST_F(RelayTest, CommandsOfAFrameThatUpstreamMayHaveLostGoAgain) {
  Start();
  ConnectUpstream();
  auto one = Join(1);
  up.Drain();
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 1, kGc, kCommands)}));
  ASSERT_TRUE(core->Take(up.stream));  // being written when the stream breaks
  core->UpstreamLost(up.stream);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 2, "", kCommands)}));
  Client again;
  again.core = core.get();
  again.stream = *core->UpstreamConnected({}, &again.peer);
  again.Drain();
  EXPECT_EQ(again.Version(1, kCommands), 2);
  EXPECT_EQ(ReadCommandFlags(again.seen[std::make_pair(1, kCommands)].back().second), kGlobalGc);
}

TEST_F(RelayTest, ReconnectUpstreamSendsTheWholeView) {
  Start();
  ConnectUpstream();
  auto one = Join(1);
  auto two = Join(2);
  up.Drain();
  core->OnUpstreamBytes(up.stream, Batch({Bare(7, 1)}));
  core->UpstreamLost(up.stream);
  Client again;
  again.core = core.get();
  again.stream = *core->UpstreamConnected({}, &again.peer);
  again.Drain();
  EXPECT_EQ(again.Version(1), 1);
  EXPECT_EQ(again.Version(2), 1);
  EXPECT_EQ(again.Count(7), 0u);  // not ours to tell
}

TEST_F(RelayTest, ReplayOfOwnNodesIsStaleAndHigherVersionsAreSurpassed) {
  Start();
  ConnectUpstream();
  auto one = Join(1, 10);
  auto two = Join(2);
  up.Drain();
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 10), Bare(1, 9)}));
  EXPECT_EQ(core->metrics().stale, 2u);
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 500, "\x18\x01")}));
  for (const int64_t version : {11, 12, 13}) {
    up.Drain();
    EXPECT_EQ(up.Version(1), 10);
    core->OnDownstreamBytes(one->stream, Batch({Bare(1, version)}));
  }
  up.Drain();
  two->Drain();
  EXPECT_EQ(up.Version(1), 501);
  EXPECT_EQ(two->Version(1), 501);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 14)}));
  up.Drain();
  EXPECT_EQ(up.Version(1), 502);
}

TEST_F(RelayTest, OldWordsOfANodeThatMovedRaiseNothing) {
  Start();
  ConnectUpstream();
  auto one = Join(1, 10);
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 14)}));  // it moved and goes on elsewhere
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 11)}));
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 12)}));
  EXPECT_EQ(core->metrics().raised, 0u);
}

TEST_F(RelayTest, NodeKnownFromUpstreamThatConnectsHereIsToldUpstreamFromNowOn) {
  Start();
  ConnectUpstream();
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 5)}));
  auto one = Join(1, 5);
  core->UpstreamLost(up.stream);  // the GCS restarts empty
  Client again;
  again.core = core.get();
  again.stream = *core->UpstreamConnected({}, &again.peer);
  again.Drain();
  EXPECT_EQ(again.Version(1), 5);
}

TEST_F(RelayTest, NewerVersionFromUpstreamIsBelieved) {
  Start();
  ConnectUpstream();
  auto one = Join(1, 10);
  auto two = Join(2);
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 500)}));
  two->Drain();
  EXPECT_EQ(two->Version(1), 500);
}

TEST_F(RelayTest, NodeThatStartsOverGoesOnUpwards) {
  Start();
  auto one = Join(1, 10);
  auto two = Join(2);
  auto again = Join(1, 3);
  EXPECT_TRUE(one->peer.closed);
  two->Drain();
  EXPECT_EQ(two->Version(1), 11);
  core->OnDownstreamBytes(again->stream, Batch({Bare(1, 4)}));
  core->OnDownstreamBytes(again->stream, Batch({Bare(1, 2)}));  // stale all the same
  two->Drain();
  EXPECT_EQ(two->Version(1), 12);
}

TEST_F(RelayTest, SecondStreamOfANodeReplacesTheFirst) {
  Start();
  auto first = Join(1);
  auto second = Join(1, 2);
  ASSERT_TRUE(first->peer.closed);
  EXPECT_EQ(first->peer.closed->code(), absl::StatusCode::kAborted);
  core->RemoveDownstream(first->stream);  // the transport's late notice
  core->OnDownstreamBytes(first->stream, Batch({Bare(1, 99)}));
  Advance(options.grace_ms + 1);
  EXPECT_EQ(core->view().size(), 1u);
  EXPECT_EQ(core->downstream_streams(), 1u);
  EXPECT_EQ(core->metrics().streams_replaced, 1u);
}

TEST_F(RelayTest, NodeLeavesAfterItsGraceTimeAndComesBackWithinIt) {
  Start();
  ConnectUpstream();
  Advance(options.replay_ms);
  auto one = Join(1);
  auto two = Join(2);
  core->RemoveDownstream(one->stream);
  Advance(options.grace_ms - 1);
  one = Join(1, 1);
  Advance(options.grace_ms);
  EXPECT_EQ(core->view().size(), 2u);
  core->RemoveDownstream(one->stream);
  EXPECT_EQ(core->NextDeadlineMs(), clock.NowMs() + options.grace_ms);
  Advance(options.grace_ms);
  EXPECT_EQ(core->view().size(), 1u);
  EXPECT_EQ(observer.left, std::vector<NodeId>{Node(1)});
}

TEST_F(RelayTest, LateJoinersAreNotShownNodesKnownToBeDead) {
  Start();
  auto one = Join(1, 5);
  core->RemoveDownstream(one->stream);
  Advance(options.grace_ms);
  ConnectUpstream();
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 5), Bare(2, 1)}));  // the GCS replays
  auto late = Join(3);
  late->Drain();
  EXPECT_EQ(late->Count(1), 0u);
  EXPECT_EQ(late->Version(2), 1);
  Advance(options.replay_ms);
  EXPECT_EQ(observer.left, std::vector<NodeId>{Node(1)});  // it was never withdrawn
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 6)}));   // it lives, elsewhere
  late->Drain();
  EXPECT_EQ(late->Version(1), 6);
}

TEST_F(RelayTest, DeadNodeThatComesBackWithTheSameVersionIsShownAgain) {
  Start();
  auto one = Join(1, 5);
  core->RemoveDownstream(one->stream);
  Advance(options.grace_ms);
  auto back = Join(1, 5);
  auto two = Join(2);
  two->Drain();
  EXPECT_EQ(two->Version(1), 5);
}

TEST_F(RelayTest, NodeThatLeftTwiceComesBackNoOlderThanItFirstLeft) {
  Start();
  auto one = Join(1, 5);
  core->RemoveDownstream(one->stream);
  Advance(options.grace_ms);
  auto back = Connect(1);
  core->OnDownstreamBytes(back->stream, Batch({Bare(1, 1, kGc, kCommands)}));
  core->RemoveDownstream(back->stream);
  Advance(options.grace_ms);
  auto relay = ConnectRelay(100);
  core->OnDownstreamBytes(relay->stream, Batch({Bare(1, 4)}));
  EXPECT_EQ(core->view().Find(Node(1)), nullptr);
}

TEST_F(RelayTest, LastCommandOfADeadNodeDoesNotBringItBack) {
  Start();
  ConnectUpstream();
  auto one = Join(1, 5);
  core->RemoveDownstream(one->stream);
  Advance(options.grace_ms);
  auto relay = ConnectRelay(100);
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 3, "", kCommands)}));
  core->OnDownstreamBytes(relay->stream, Batch({Bare(1, 3, "", kCommands)}));
  EXPECT_EQ(core->view().Find(Node(1)), nullptr);
}

TEST_F(RelayTest, LastCommandOfANodeThatMovedSaysNotWhereItLives) {
  Start();
  ConnectUpstream();
  auto relay = ConnectRelay(100);
  core->OnDownstreamBytes(relay->stream, Batch({Bare(1, 5), Bare(1, 2, "", kCommands)}));
  Advance(options.replay_ms);
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 6)}));  // it moved
  core->OnDownstreamBytes(relay->stream, Batch({Bare(1, 2, "", kCommands)}));
  core->RemoveDownstream(relay->stream);
  Advance(2 * options.grace_ms);
  EXPECT_NE(core->view().Find(Node(1)), nullptr);
  EXPECT_TRUE(observer.left.empty());
  // Nor is it repeated upstream for ever.
  up.Drain();
  const size_t before = up.Count(1, kCommands);
  for (int times = 0; times < 100; ++times) {
    Advance(50);
    up.Drain();
  }
  EXPECT_EQ(up.Count(1, kCommands), before);
}

TEST_F(RelayTest, CommandFromElsewhereDoesNotKeepANodeThatDiedHere) {
  Start();
  ConnectUpstream();
  auto one = Join(1, 5);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 2, "", kCommands)}));
  Advance(options.replay_ms);
  core->RemoveDownstream(one->stream);
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 2, "", kCommands)}));
  Advance(options.grace_ms);
  EXPECT_EQ(core->view().Find(Node(1)), nullptr);
  EXPECT_EQ(observer.left.size(), 1u);
}

TEST_F(RelayTest, EchoesAreDroppedAndImpersonationEndsTheStream) {
  Start();
  ConnectUpstream();
  auto one = Join(1, 5);
  auto two = Join(2);
  // A raylet that reconnects says all it knows.
  core->OnDownstreamBytes(two->stream, Batch({Bare(2, 2), Bare(1, 5), Bare(1, 4), Bare(77, 9)}));
  EXPECT_FALSE(two->peer.closed);
  EXPECT_EQ(core->metrics().echoes, 3u);
  EXPECT_EQ(core->view().Find(Node(77)), nullptr);
  // So does one that comes from where node 1 moved to, before the end of node 1's stream is known here.
  core->OnDownstreamBytes(two->stream, Batch({Bare(1, 6)}));
  EXPECT_FALSE(two->peer.closed);
  EXPECT_EQ(core->view().Find(Node(1))->entries[0]->version, 5);
  // But not so far ahead, and not later on.
  auto three = Join(3);
  core->OnDownstreamBytes(three->stream, Batch({Bare(1, 1'000'000)}));
  ASSERT_TRUE(three->peer.closed);
  EXPECT_EQ(three->peer.closed->code(), absl::StatusCode::kPermissionDenied);
  Advance(5'000);
  up.Drain();
  core->OnDownstreamBytes(two->stream, Batch({Bare(2, 3), Bare(1, 6)}));
  ASSERT_TRUE(two->peer.closed);
  EXPECT_EQ(two->peer.closed->code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(core->shield().refused(Refusal::kImpersonation), 2u);
  up.Drain();
  EXPECT_EQ(up.Version(1), 5);
  EXPECT_EQ(up.Version(2), 2);  // nothing of that frame went on
}

TEST_F(RelayTest, NodeThatSpeaksForOneBehindARelayIsAnImpostorToo) {
  Start();
  auto relay = ConnectRelay(50);
  core->OnDownstreamBytes(relay->stream, Batch({Bare(10, 5)}));
  auto two = Join(2);
  core->OnDownstreamBytes(two->stream, Batch({Bare(10, 5), Bare(10, 6)}));  // what it heard before it came
  EXPECT_FALSE(two->peer.closed);
  Advance(5'000);
  core->OnDownstreamBytes(two->stream, Batch({Bare(10, 5)}));
  EXPECT_FALSE(two->peer.closed);
  core->OnDownstreamBytes(two->stream, Batch({Bare(10, 6)}));
  ASSERT_TRUE(two->peer.closed);
  EXPECT_EQ(two->peer.closed->code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(core->view().Find(Node(10))->entries[0]->version, 5);
}

TEST_F(RelayTest, NothingHostileReachesUpstream) {
  Start();
  ConnectUpstream();
  const std::vector<std::pair<Refusal, std::string>> frames = {
      {Refusal::kEmptyBatch, ""},
      {Refusal::kMalformed, "\x0a\xff"},
      {Refusal::kMalformed, Batch({Bare(1, 2), "\x08\x01\x22\x05node5"})},
      {Refusal::kMalformed, Batch({Bare(1, 2) + "\x10\x02"})},
      {Refusal::kBadPayload, Batch({Bare(1, 2, "garbage")})},
      {Refusal::kOversized, Batch({Bare(1, 2, std::string(options.wire.max_message_bytes + 1, 'x'))})},
      {Refusal::kWrongDialect, Bare(1, 2)},
  };
  uint64_t refused = 0;
  for (const auto& [reason, bytes] : frames) {
    auto client = Join(1);
    up.Drain();
    const size_t before = up.frames;
    const uint64_t count = core->shield().refused(reason);
    core->OnDownstreamBytes(client->stream, bytes);
    ASSERT_TRUE(client->peer.closed) << RefusalName(reason);
    EXPECT_FALSE(client->peer.closed->ok());
    EXPECT_EQ(core->shield().refused(reason), count + 1) << RefusalName(reason);
    EXPECT_EQ(core->shield().refused_total(), ++refused);
    up.Drain();
    EXPECT_EQ(up.frames, before) << RefusalName(reason);
  }
}

// A view of a node that holds this many one-CPU bundles, each of a placement group of its own.
std::string ViewOfBundles(int bundles) {
  std::string payload;
  for (int bundle = 0; bundle < bundles; ++bundle) {
    const std::string group = absl::StrFormat("%032d", bundle);
    for (const char* name : {"CPU_group_", "CPU_group_0_", "bundle_group_", "bundle_group_0_"}) {
      const std::string key = name + group;
      std::string entry;
      AppendVarint(1 << 3 | 2, &entry);
      AppendVarint(key.size(), &entry);
      entry += key;
      entry += std::string("\x11\0\0\0\0\0\0\xf0\x3f", 9);
      for (const uint64_t map : {1, 2}) {
        AppendVarint(map << 3 | 2, &payload);
        AppendVarint(entry.size(), &payload);
        payload += entry;
      }
    }
  }
  return payload;
}

TEST_F(RelayTest, NodeWithThousandsOfBundlesKeepsItsStream) {
  Start();
  ConnectUpstream();
  auto busy = Join(1);
  auto other = Join(2);
  const std::string payload = ViewOfBundles(10'000);
  ASSERT_LT(payload.size(), options.wire.max_message_bytes);
  core->OnDownstreamBytes(busy->stream, Batch({Bare(1, 2, payload)}));
  EXPECT_FALSE(busy->peer.closed.has_value());
  core->Tick();
  other->Drain();
  up.Drain();
  EXPECT_EQ(other->Version(1), 2);
  ASSERT_EQ(up.Version(1), 2);
  const auto& heard = up.seen.at({1, kView});
  EXPECT_EQ(heard.back().second, payload);
  EXPECT_EQ(core->shield().refused_total(), 0u);
}

TEST_F(RelayTest, StreamsWithoutAGoodNodeIdAreRefused) {
  Start();
  FakePeer peer;
  EXPECT_EQ(core->AddDownstream({}, &peer).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(core->AddDownstream({{"node_id", "abc"}}, &peer).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(core->AddDownstream({{"node_id", std::string(56, 'z')}}, &peer).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(core->shield().refused(Refusal::kMissingNodeId), 1u);
  EXPECT_EQ(core->shield().refused(Refusal::kBadNodeId), 2u);
}

TEST_F(RelayTest, StreamsAndNodesAreBounded) {
  options.max_streams = 2;
  options.max_nodes = 3;
  Start();
  auto one = Join(1);
  auto two = Join(2);
  FakePeer peer;
  EXPECT_EQ(core->AddDownstream({{"node_id", Node(3).Hex()}}, &peer).status().code(),
            absl::StatusCode::kResourceExhausted);
  auto again = Join(1, 2);  // takes the place of one
  core->RemoveDownstream(two->stream);
  auto relay = ConnectRelay(50);
  core->OnDownstreamBytes(relay->stream, Batch({Bare(10, 1), Bare(11, 1)}));
  ASSERT_TRUE(relay->peer.closed);
  EXPECT_EQ(relay->peer.closed->code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(RelayTest, BadMessagesOfUpstreamAreSkippedOneByOne) {
  Start();
  ConnectUpstream();
  auto one = Join(1);
  core->OnUpstreamBytes(up.stream, Batch({"\x08\x01\x22\x05node5", Bare(7, 1), Bare(8, 1, "garbage"), Bare(9, 1)}));
  one->Drain();
  EXPECT_EQ(one->Version(7), 1);
  EXPECT_EQ(one->Version(9), 1);
  EXPECT_EQ(one->Count(8), 0u);
  EXPECT_EQ(core->shield().skipped(), 2u);
  core->OnUpstreamBytes(up.stream, "\x0a\xff");
  EXPECT_TRUE(up.peer.closed);
  EXPECT_FALSE(core->upstream_connected());
}

TEST_F(RelayTest, RelayBelowCarriesManyNodesAndGetsNoneOfThemBack) {
  Start();
  ConnectUpstream();
  Advance(options.replay_ms);
  auto relay = ConnectRelay(50);
  auto one = Join(1);
  core->OnDownstreamBytes(relay->stream, Batch({Bare(10, 1), Bare(11, 1)}));
  relay->Drain();
  one->Drain();
  up.Drain();
  EXPECT_EQ(relay->Version(1), 1);
  EXPECT_EQ(relay->Count(10), 0u);
  EXPECT_EQ(one->Version(10), 1);
  EXPECT_EQ(up.Version(11), 1);
  core->OnUpstreamBytes(up.stream, Batch({Bare(10, 2)}));
  relay->Drain();
  EXPECT_EQ(relay->Version(10), 2);  // the node moved: the relay has to know
  core->RemoveDownstream(relay->stream);
  Advance(options.grace_ms);
  EXPECT_EQ(core->view().size(), 2u);
  EXPECT_EQ(observer.left, std::vector<NodeId>{Node(11)});
}

TEST_F(RelayTest, WhatARelaySaysOfANodeWithItsOwnStreamWaitsUntilThatEnds) {
  Start();
  auto one = Join(1, 5);
  auto two = Join(2);
  auto relay = ConnectRelay(50);
  core->OnDownstreamBytes(relay->stream, Batch({Bare(1, 7)}));
  two->Drain();
  EXPECT_EQ(two->Version(1), 5);
  EXPECT_FALSE(relay->peer.closed);
  core->RemoveDownstream(one->stream);  // it was half-open: the node had moved behind the relay
  Advance(options.grace_ms);
  two->Drain();
  EXPECT_EQ(two->Version(1), 7);
  EXPECT_TRUE(observer.left.empty());
}

TEST_F(RelayTest, LoopsAreRefusedWhicheverEdgeClosesThem) {
  Start();
  const std::string own = core->relay_id();
  const std::string other(16, 'a');
  FakePeer peer;
  const auto add = [&](StreamMetadata metadata) {
    metadata.emplace_back("node_id", Node(60).Hex());
    return core->AddDownstream(metadata, &peer).status().code();
  };
  EXPECT_EQ(add({{"mantaray-relay", own}}), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(add({{"mantaray-relay", other}, {"mantaray-relay-below", own}}), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(core->UpstreamConnected({{"mantaray-relay", own}}, &peer).status().code(),
            absl::StatusCode::kFailedPrecondition);
  auto below = ConnectRelay(61);
  const std::string below_id = Node(61).Hex().substr(0, 16);
  EXPECT_EQ(core->UpstreamConnected({{"mantaray-relay", below_id}}, &peer).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      core->UpstreamConnected({{"mantaray-relay", other}, {"mantaray-relay-above", below_id}}, &peer).status().code(),
      absl::StatusCode::kFailedPrecondition);
  ConnectUpstream({{"mantaray-relay", other}});
  EXPECT_EQ(add({{"mantaray-relay", other}}), absl::StatusCode::kFailedPrecondition);
  EXPECT_GE(core->shield().refused(Refusal::kLoop), 6u);
}

// Two cores, wired to each other.
// One relay below another, in a cluster of either dialect; the one below has to find out which.
struct TreeTest : RelayTest, testing::WithParamInterface<Dialect> {
  TreeTest() { options.upstream_dialect = GetParam(); }
  void StartBoth() {
    options.digest_ms = 100;
    options.replay_ms = 50;
    Start();
    RelayOptions below_options = options;
    below_options.node_id = Node(2'000'000);
    below_options.upstream_dialect = Dialect::kUnknown;
    below = std::make_unique<RelayCore>(below_options, &clock, &below_observer);
  }
  void Link() {
    const auto down = core->AddDownstream(below->UpstreamMetadata(), &link_down_peer);
    ASSERT_TRUE(down.ok()) << down.status();
    link_down = *down;
    const auto link = below->UpstreamConnected(core->DownstreamMetadata(), &link_up_peer);
    ASSERT_TRUE(link.ok()) << link.status();
    link_up = *link;
  }
  // Node 1 behind the upper relay and node 2 behind the lower one, each known to both.
  void StartWithANodeEach() {
    StartBoth();
    ConnectUpstream();
    Link();
    one = Join(1);
    two = JoinBelow(2);
    Carry();
  }
  void BothSay(int64_t version) {
    core->OnDownstreamBytes(one->stream, Word(1, version));
    below->OnDownstreamBytes(two->stream, Word(2, version));
  }
  // Carries frames until both are silent; `lose` says which ones get lost.
  void Carry(bool lose_up = false, bool lose_down = false) {
    for (bool moved = true; moved;) {
      moved = false;
      if (const auto frame = below->Take(link_up)) {
        moved = true;
        if (!lose_up) core->OnDownstreamBytes(link_down, frame->Flatten());
      }
      if (const auto frame = core->Take(link_down)) {
        moved = true;
        if (!lose_down) below->OnUpstreamBytes(link_up, frame->Flatten());
      }
    }
  }
  void Pass(int64_t ms) {
    for (int64_t step = 0; step < ms; step += 10) {
      clock.AdvanceMs(10);
      core->Tick();
      below->Tick();
      Carry();
    }
  }
  std::unique_ptr<Client> JoinBelow(int node, int64_t version = 1) {
    auto client = std::make_unique<Client>();
    client->core = below.get();
    client->stream = *below->AddDownstream({{"node_id", Node(node).Hex()}}, &client->peer);
    below->OnDownstreamBytes(client->stream, Word(node, version));
    return client;
  }
  static int64_t Held(const RelayCore& core, int node) {
    const NodeState* state = core.view().Find(Node(node));
    return state == nullptr || state->entries[0] == nullptr ? -1 : state->entries[0]->version;
  }

  std::unique_ptr<RelayCore> below;
  Observer below_observer;
  FakePeer link_down_peer;
  FakePeer link_up_peer;
  StreamId link_down = kNoStream;
  StreamId link_up = kNoStream;
  std::unique_ptr<Client> one;
  std::unique_ptr<Client> two;
};

TEST_P(TreeTest, UpdateLostBetweenRelaysDoesNotStayLost) {
  StartWithANodeEach();
  Pass(100);
  BothSay(2);
  Carry(/*lose_up=*/true, /*lose_down=*/true);
  EXPECT_EQ(Held(*below, 1), 1);
  EXPECT_EQ(Held(*core, 2), 1);
  Pass(300);
  EXPECT_EQ(Held(*below, 1), 2);
  EXPECT_EQ(Held(*core, 2), 2);
  const uint64_t repaired = core->metrics().repaired_buckets;
  EXPECT_GE(repaired, 1u);
  Pass(1000);
  EXPECT_EQ(core->metrics().repaired_buckets, repaired);  // nothing left to repair
}

TEST_P(TreeTest, NodeThatLeftAboveLeavesBelow) {
  StartBoth();
  ConnectUpstream();
  Link();
  auto one = Join(1);
  auto two = JoinBelow(2);
  Pass(100);
  core->RemoveDownstream(one->stream);
  Pass(options.grace_ms + 500);
  EXPECT_EQ(Held(*core, 1), -1);
  EXPECT_EQ(Held(*below, 1), -1);
  EXPECT_TRUE(below_observer.left.empty());
}

TEST_P(TreeTest, NodeThatLeftBelowIsWithdrawnAbove) {
  StartBoth();
  ConnectUpstream();
  Link();
  auto two = JoinBelow(2);
  Carry();
  below->RemoveDownstream(two->stream);
  Pass(options.grace_ms - 100);
  EXPECT_EQ(Held(*core, 2), 1);
  options.digest_ms = 0;
  clock.AdvanceMs(200);
  below->Tick();
  ASSERT_EQ(below_observer.left.size(), 1u);
  FakePeer peer;
  EXPECT_EQ(core->AddDownstream(below->WithdrawMetadata(Node(2)), &peer).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Held(*core, 2), -1);
  EXPECT_EQ(observer.left, std::vector<NodeId>{Node(2)});
}

TEST_P(TreeTest, WithdrawalOfANodeThatLivesElsewhereIsIgnored) {
  StartBoth();
  auto one = Join(1);
  FakePeer peer;
  EXPECT_FALSE(core->AddDownstream(below->WithdrawMetadata(Node(1)), &peer).ok());
  EXPECT_EQ(Held(*core, 1), 1);
}

TEST_P(TreeTest, LoopThatNoMetadataShowedIsFoundByTheRelaysTalk) {
  StartBoth();
  Link();
  auto one = Join(1);
  auto two = JoinBelow(2);
  Carry();
  // The upper relay's upstream turns out to lie below: it hears so from above.
  ConnectUpstream({{"mantaray-relay", std::string(16, 'c')}});
  RelayOptions third;
  third.node_id = Node(3'000'000);
  std::string talk = std::string(1, 2) + std::string(16, 'c') + below->relay_id();
  std::string frame;
  AppendRelayDigest(talk, &frame);
  core->OnUpstreamBytes(up.stream, frame);
  ASSERT_TRUE(up.peer.closed);
  EXPECT_EQ(up.peer.closed->code(), absl::StatusCode::kFailedPrecondition);
}

// Repairs come as batches; where they end, nodes' words go on as they were.
TEST_P(TreeTest, DialectOfTheNodesIsNotTakenFromWhatRelaysTellEachOther) {
  StartWithANodeEach();
  BothSay(2);
  Carry(/*lose_up=*/true, /*lose_down=*/true);
  Pass(300);
  ASSERT_GE(core->metrics().repaired_buckets + below->metrics().repaired_buckets, 2u);
  BothSay(3);
  for (const auto& frame : {below->Take(link_up), core->Take(link_down), core->Take(up.stream)}) {
    ASSERT_TRUE(frame);
    EXPECT_EQ(DialectOf(frame->Flatten()), GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(EitherDialect, TreeTest, testing::Values(Dialect::kBare, Dialect::kBatch),
                         [](const auto& with) { return with.param == Dialect::kBare ? "Bare" : "Batch"; });

// Ray logs a message that it has already as stale.
TEST_F(RelayTest, WhatDidNotChangeIsNotRepeatedToTheLogsOfRay) {
  Start();
  ConnectUpstream();
  auto one = Join(1);
  auto two = Join(2);
  core->OnUpstreamBytes(up.stream, Batch({Bare(3, 1)}));
  for (int step = 0; step < 600; ++step) {
    Advance(500);
    two->Drain();
    up.Drain();
  }
  EXPECT_EQ(two->Count(1), 1u);
  EXPECT_EQ(two->Count(3), 1u);
  EXPECT_EQ(up.Count(1), 1u);
}

// The relay that it left may have had the GCS forget it.
TEST_F(RelayTest, NodeThatMovedHereAndSaysNothingNewGoesUpstreamOnceMore) {
  Start();
  ConnectUpstream();
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 5)}));
  auto one = Join(1, 5);
  up.Drain();
  EXPECT_EQ(up.Count(1), 1u);
  Advance(2 * options.grace_ms - 1);
  up.Drain();
  EXPECT_EQ(up.Count(1), 1u);
  EXPECT_EQ(core->NextDeadlineMs(), clock.NowMs() + 1);
  for (int times = 0; times < 100; ++times) {
    Advance(options.grace_ms);
    up.Drain();
  }
  EXPECT_EQ(up.Count(1), 2u);
}

TEST_F(RelayTest, NodeThatMovedWhileTheGcsWasAwayIsNotWithdrawn) {
  Start();
  ConnectUpstream();
  auto one = Join(1, 5);
  Advance(options.replay_ms);
  core->RemoveDownstream(one->stream);
  core->UpstreamLost(up.stream);
  Advance(options.grace_ms);
  EXPECT_EQ(core->view().Find(Node(1)), nullptr);
  ConnectUpstream();
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 5)}));  // what somebody remembers of it
  EXPECT_TRUE(observer.left.empty());
  core->OnUpstreamBytes(up.stream, Batch({Bare(1, 6)}));  // the word of the relay it has moved to
  Advance(10 * options.replay_ms);
  EXPECT_TRUE(observer.left.empty());
}

TEST_F(RelayTest, NodesThatAreGoneDoNotOutliveAReplayThatDoesNotNameThem) {
  Start();
  ConnectUpstream();
  auto one = Join(1, 5);
  core->OnUpstreamBytes(up.stream, Batch({Bare(2, 1), Bare(3, 1)}));
  Advance(options.replay_ms);
  EXPECT_EQ(core->view().size(), 3u);
  core->UpstreamLost(up.stream);
  ConnectUpstream();
  core->OnUpstreamBytes(up.stream, Batch({Bare(3, 1)}));
  EXPECT_EQ(core->view().size(), 3u);  // upstream may not have told all yet
  EXPECT_EQ(core->NextDeadlineMs(), clock.NowMs() + options.replay_ms);
  Advance(options.replay_ms);
  EXPECT_EQ(core->view().Find(Node(2)), nullptr);
  EXPECT_NE(core->view().Find(Node(3)), nullptr);
  EXPECT_NE(core->view().Find(Node(1)), nullptr);
  EXPECT_TRUE(observer.left.empty());
  core->OnUpstreamBytes(up.stream, Batch({Bare(2, 1)}));  // it was late
  EXPECT_NE(core->view().Find(Node(2)), nullptr);
}

TEST_F(RelayTest, NodesThatAreGoneElsewhereTakeNoRoomFromNewOnes) {
  options.max_nodes = 4;
  Start();
  ConnectUpstream();
  auto one = Join(1);
  auto relay = ConnectRelay(100);
  for (int node = 1'000; node < 1'100; ++node) core->OnUpstreamBytes(up.stream, Batch({Bare(node, 1)}));
  EXPECT_EQ(core->view().size(), 4u);
  auto two = Join(2);
  core->OnDownstreamBytes(relay->stream, Batch({Bare(3, 1)}));
  EXPECT_FALSE(relay->peer.closed);
  for (const int node : {1, 2, 3, 1'099}) EXPECT_NE(core->view().Find(Node(node)), nullptr) << node;
  EXPECT_EQ(core->metrics().evicted, 99u);
}

std::string NoisyPayload(double store_bytes) {
  std::string entry = "\x0a\x13object_store_memory\x11";
  entry.append(reinterpret_cast<const char*>(&store_bytes), 8);
  std::string payload = "\x0a";
  AppendVarint(entry.size(), &payload);
  return payload + entry;
}

TEST_F(RelayTest, NoiseWaitsForItsBoundAndNoLonger) {
  options.noise = {.enabled = true, .object_store_bytes = 100, .idle_ms = 1000, .max_delay_ms = 500};
  Start();
  ConnectUpstream();
  auto one = Connect(1);
  auto two = Join(2);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 1, NoisyPayload(1000))}));
  two->Drain();
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 2, NoisyPayload(1050))}));
  Advance(300);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 3, NoisyPayload(1090))}));
  two->Drain();
  EXPECT_EQ(two->Version(1), 1);
  EXPECT_EQ(core->NextDeadlineMs(), clock.NowMs() + 200);
  Advance(200);
  two->Drain();
  EXPECT_EQ(two->Version(1), 3);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 4, NoisyPayload(1100))}));
  two->Drain();
  EXPECT_EQ(two->Version(1), 3);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 5, NoisyPayload(1190))}));  // 100 from what went on last
  two->Drain();
  EXPECT_EQ(two->Version(1), 5);
}

TEST_F(RelayTest, NoiseOfANodeThatEndsIsForgottenWithIt) {
  options.noise = {.enabled = true, .object_store_bytes = 100, .idle_ms = 1000, .max_delay_ms = 5000};
  Start();
  auto one = Connect(1);
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 1, NoisyPayload(1000))}));
  core->OnDownstreamBytes(one->stream, Batch({Bare(1, 2, NoisyPayload(1001))}));
  core->RemoveDownstream(one->stream);
  Advance(options.grace_ms);
  EXPECT_EQ(core->view().size(), 0u);
  Advance(10'000);
  EXPECT_EQ(core->NextDeadlineMs(), kNeverMs);
}

TEST_F(RelayTest, SerialisedOnceHoweverManyStreams) {
  Start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int node = 0; node < 20; ++node) clients.push_back(Join(node));
  for (auto& client : clients) client->Drain();
  core->OnDownstreamBytes(clients[0]->stream, Batch({Bare(0, 2)}));
  std::set<const std::string*> buffers;
  for (size_t at = 1; at < clients.size(); ++at) buffers.insert(core->Take(clients[at]->stream)->slices[0].owner.get());
  EXPECT_EQ(buffers.size(), 1u);
}

TEST_F(RelayTest, StatusTellsWhoLagsBehind) {
  Start();
  ConnectUpstream();
  auto one = Join(1);
  auto two = Join(2);
  two->Drain();
  Advance(250);
  for (const StreamStatus& status : core->Streams()) {
    if (status.id == two->stream) {
      EXPECT_EQ(status.behind, 0u);
    }
    if (status.id == one->stream) {
      EXPECT_EQ(status.behind, 2u);  // its own among them, which it will not be sent
      EXPECT_EQ(status.behind_ms, 250);
    }
  }
}

TEST(Backoff, WaitsDoubleAreJitteredAndBounded) {
  Backoff backoff({.first_ms = 100, .max_ms = 1000});
  EXPECT_EQ(backoff.NextMs(0), 50);
  EXPECT_EQ(backoff.NextMs(0), 100);
  for (int round = 0; round < 10; ++round) {
    const int64_t wait_ms = backoff.NextMs(0.999);
    EXPECT_LE(wait_ms, 1000);
    EXPECT_GE(wait_ms, 200);
  }
  backoff.Reset();
  EXPECT_EQ(backoff.NextMs(0), 50);
}

}  // namespace
}  // namespace mantaray::syncer
