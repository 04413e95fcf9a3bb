// Tests of the wire dialects: what is told apart, what survives, what is refused.

#include "mantaray/syncer/wire.h"

#include <gtest/gtest.h>

#include <random>

namespace mantaray::syncer {
namespace {

NodeId Node(char fill) {
  NodeId id;
  id.bytes.fill(fill);
  return id;
}

std::string Batch(const std::vector<std::string>& messages) {
  std::string bytes;
  for (const std::string& message : messages) AppendBatchEntry(message, &bytes);
  return bytes;
}

TEST(Wire, MessageRoundTrip) {
  for (const int64_t version : {int64_t{0}, int64_t{1}, int64_t{300}, INT64_MAX}) {
    for (const MessageType type : {MessageType::kResourceView, MessageType::kCommands}) {
      const std::string bytes = EncodeMessage(version, type, Node('a'), "payload");
      const auto message = ParseMessage(bytes, {});
      ASSERT_TRUE(message.ok()) << message.status();
      EXPECT_EQ(message->version, version);
      EXPECT_EQ(message->type, type);
      EXPECT_EQ(message->node_id, Node('a'));
      EXPECT_EQ(message->payload, "payload");
      EXPECT_EQ(message->bytes, bytes);
    }
  }
}

TEST(Wire, FirstByteTellsTheDialects) {
  const std::string message = EncodeMessage(7, MessageType::kResourceView, Node('a'), "p");
  EXPECT_EQ(DialectOf(message), Dialect::kBare);
  EXPECT_EQ(DialectOf(Batch({message})), Dialect::kBatch);
  EXPECT_EQ(DialectOf(""), Dialect::kUnknown);
  std::string digest;
  AppendRelayDigest("d", &digest);
  EXPECT_EQ(DialectOf(digest), Dialect::kBatch);
}

TEST(Wire, VersionLeftOutOnTheWireIsStillABareMessage) {
  const std::string bytes = EncodeMessage(0, MessageType::kCommands, Node('a'), "").substr(2);
  EXPECT_EQ(DialectOf(bytes), Dialect::kBare);
  ASSERT_TRUE(ParseMessage(bytes, {}).ok());
  EXPECT_EQ(ParseMessage(bytes, {})->version, 0);
}

TEST(Wire, UnknownFieldsOfAMessageSurvive) {
  std::string bytes = EncodeMessage(7, MessageType::kResourceView, Node('a'), "p");
  bytes += "\x7a\x03new";
  const std::string frame = Batch({bytes});
  const auto split = Split(frame, {});
  ASSERT_TRUE(split.ok());
  ASSERT_EQ(split->messages.size(), 1u);
  EXPECT_EQ(ParseMessage(split->messages[0], {})->bytes, bytes);
}

TEST(Wire, LastOfSeveralValuesCountsAsInProtobuf) {
  std::string bytes = EncodeMessage(7, MessageType::kResourceView, Node('a'), "old");
  bytes = WithPayload(WithVersion(bytes, 9), "new");
  const auto message = ParseMessage(bytes, {});
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(message->version, 9);
  EXPECT_EQ(message->payload, "new");
}

TEST(Wire, WhatKillsAGcsIsRefused) {
  EXPECT_FALSE(Split("", {}).ok());
  std::string unknown_only = "\x7a\x01x";
  EXPECT_TRUE(Split(unknown_only, {}).ok());  // bare; its message is refused
  EXPECT_FALSE(ParseMessage(unknown_only, {}).ok());
  EXPECT_FALSE(ParseMessage("", {}).ok());

  std::string short_id = "\x08\x01\x22\x05node5";
  EXPECT_EQ(ParseMessage(short_id, {}).status().code(), absl::StatusCode::kInvalidArgument);

  std::string type_two = EncodeMessage(1, MessageType::kResourceView, Node('a'), "p") + "\x10\x02";
  EXPECT_EQ(ParseMessage(type_two, {}).status().code(), absl::StatusCode::kInvalidArgument);
  // Protobuf would cut it down to 0.
  std::string type_wrapped = EncodeMessage(1, MessageType::kResourceView, Node('a'), "p");
  type_wrapped += "\x10";
  AppendVarint(uint64_t{1} << 32, &type_wrapped);
  EXPECT_FALSE(ParseMessage(type_wrapped, {}).ok());

  std::string negative = EncodeMessage(-1, MessageType::kResourceView, Node('a'), "p");
  EXPECT_FALSE(ParseMessage(negative, {}).ok());
}

TEST(Wire, MessageThatWouldReadAsABatchIsRefused) {
  const std::string bytes = "\x0a\x01x" + EncodeMessage(1, MessageType::kResourceView, Node('a'), "p");
  EXPECT_FALSE(ParseMessage(bytes, {}).ok());
}

TEST(Wire, DamageIsRefusedAtEveryLength) {
  const std::string frame = Batch({EncodeMessage(300, MessageType::kCommands, Node('a'), std::string(200, 'p'))});
  for (size_t size = 0; size < frame.size(); ++size) EXPECT_FALSE(Split(frame.substr(0, size), {}).ok()) << size;
  const std::string message = EncodeMessage(300, MessageType::kCommands, Node('a'), std::string(200, 'p'));
  for (size_t size = 0; size < message.size(); ++size) EXPECT_FALSE(ParseMessage(message.substr(0, size), {}).ok());
}

TEST(Wire, GroupsFieldZeroAndEndlessVarintsAreDamage) {
  for (const std::string& bytes : {std::string("\x0b\x0c", 2), std::string("\x00\x01", 2), std::string(11, '\xff'),
                                   std::string("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11)}) {
    WireReader reader(bytes);
    WireReader::Field field;
    while (reader.Next(&field)) {
    }
    EXPECT_FALSE(reader.ok());
  }
}

TEST(Wire, LimitsHold) {
  const std::string message = EncodeMessage(1, MessageType::kResourceView, Node('a'), std::string(100, 'p'));
  WireLimits limits;
  limits.max_message_bytes = 50;
  EXPECT_EQ(ParseMessage(message, limits).status().code(), absl::StatusCode::kResourceExhausted);
  limits.max_batch_messages = 2;
  EXPECT_TRUE(Split(Batch({message, message}), limits).ok());
  EXPECT_EQ(Split(Batch({message, message, message}), limits).status().code(), absl::StatusCode::kResourceExhausted);
  limits.max_frame_bytes = 10;
  EXPECT_EQ(Split(message, limits).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(Wire, RelayTalkTravelsInABatchOfItsOwn) {
  std::string bytes;
  AppendRepairRequest(5, &bytes);
  AppendCompleteBuckets(6, &bytes);
  AppendRelayDigest("digest", &bytes);
  const auto split = Split(bytes, {});
  ASSERT_TRUE(split.ok());
  EXPECT_EQ(split->repair_request, 5u);
  EXPECT_EQ(split->complete_buckets, 6u);
  EXPECT_EQ(split->relay_digest, "digest");
  EXPECT_TRUE(split->messages.empty());
}

TEST(Wire, NodeIdFromHexWantsExactlyItsDigits) {
  EXPECT_EQ(NodeId::FromHex(Node('a').Hex()), Node('a'));
  EXPECT_FALSE(NodeId::FromHex(std::string(55, 'a')));
  EXPECT_FALSE(NodeId::FromHex(std::string(56, 'g')));
  EXPECT_FALSE(NodeId::FromBinary("short"));
}

TEST(Wire, RandomBytesNeverDoHarm) {
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(random() % 64, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % 3 == 0 ? random() % 0x30 : random());
    const auto split = Split(bytes, {});
    if (!split.ok()) continue;
    for (const std::string_view part : split->messages) {
      const auto message = ParseMessage(part, {});
      EXPECT_TRUE(!message.ok() || message->version >= 0);
    }
  }
}

}  // namespace
}  // namespace mantaray::syncer
