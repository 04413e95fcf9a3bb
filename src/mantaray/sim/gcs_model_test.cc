// The simulation's GCS behaves as the real one was measured to.

#include "mantaray/sim/gcs_model.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "mantaray/sim/sync_decoder.h"
#include "mantaray/syncer/payload.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::sim {
namespace {

using syncer::MessageType;

constexpr uint32_t kStream = 100;  // of node 1; node 2 has the next one

uint32_t IndexOf(std::string_view id) { return static_cast<uint8_t>(id[0]); }

std::string Message(uint32_t node, int64_t version, MessageType type, uint8_t flags = 0) {
  syncer::NodeId id;
  id.bytes[0] = static_cast<char>(node);
  const std::string payload = type == MessageType::kCommands ? syncer::WithCommandFlags("", flags) : "";
  return syncer::EncodeMessage(version, type, id, payload);
}

std::string View(uint32_t node, int64_t version) { return Message(node, version, MessageType::kResourceView); }

std::string Batch(const std::vector<std::string>& messages) {
  std::string batch;
  for (const std::string& message : messages) syncer::AppendBatchEntry(message, &batch);
  return batch;
}

class GcsModelTest : public ::testing::Test {
 protected:
  // Returns of what the GCS dies.
  std::string Receive(uint32_t stream, const std::vector<std::string>& messages) {
    return gcs_.Receive(stream, Batch(messages), &ready_);
  }

  GcsModel gcs_{/*bare=*/false, IndexOf};
  std::vector<uint32_t> ready_;
};

TEST_F(GcsModelTest, NewStreamIsToldViewsAndCommandsOfAllOthers) {
  const std::string command = Message(1, 5, MessageType::kCommands, syncer::kGlobalGc);
  gcs_.Open(kStream, 1);
  ASSERT_EQ(Receive(kStream, {View(1, 3), command}), "");
  gcs_.Open(kStream + 1, 2);
  EXPECT_EQ(gcs_.Take(kStream + 1), (std::vector<std::string>{command, View(1, 3)}));
  EXPECT_TRUE(gcs_.Take(kStream + 1).empty());
  EXPECT_TRUE(gcs_.Take(kStream).empty());
}

TEST_F(GcsModelTest, OlderVersionsGoNowhereAndNewerOnesToAllButTheirNode) {
  gcs_.Open(kStream, 1);
  gcs_.Open(kStream + 1, 2);
  ASSERT_EQ(Receive(kStream, {View(1, 3)}), "");
  EXPECT_EQ(ready_, std::vector<uint32_t>{kStream + 1});
  gcs_.Take(kStream + 1);
  ASSERT_EQ(Receive(kStream, {View(1, 3), View(1, 2)}), "");
  EXPECT_TRUE(gcs_.Take(kStream + 1).empty());
  EXPECT_EQ(gcs_.VersionOf(1), 3u);
}

TEST_F(GcsModelTest, SecondStreamOfANodeEndsTheFirstAndErasesWhatItSaid) {
  gcs_.Open(kStream, 1);
  ASSERT_EQ(Receive(kStream, {View(1, 3), View(7, 1)}), "");
  EXPECT_EQ(gcs_.Open(kStream + 1, 1), kStream);
  EXPECT_EQ(gcs_.VersionOf(1), 0u);
  // It had carried another node, too, as a relay does. That one stays.
  EXPECT_EQ(gcs_.VersionOf(7), 1u);
}

TEST_F(GcsModelTest, WhatTheRealOneDiesOfIsNamed) {
  gcs_.Open(kStream, 1);
  EXPECT_NE(gcs_.Receive(kStream, "", &ready_), "");
  EXPECT_NE(gcs_.Receive(kStream, View(1, 3), &ready_), "");                   // bare
  EXPECT_NE(Receive(kStream, {"\x08\x01\x22\x05node5"}), "");                  // an id of five bytes
  EXPECT_NE(Receive(kStream, {View(1, 3) + "\x10\x02"}), "");                  // type 2
  EXPECT_NE(gcs_.Receive(kStream, std::string("\x0a\x05\x08"), &ready_), "");  // cut off
}

TEST(SyncDecoder, BareMessagesAndBatchesMeanWhatWasWritten) {
  const std::string view = View(9, 1'000'000);
  const DecodedFrame bare = DecodeSyncFrame(view);
  ASSERT_TRUE(bare.well_formed && !bare.is_batch && bare.messages.size() == 1);
  const std::string both = Batch({view, Message(8, 2, MessageType::kCommands, 3)});
  const DecodedFrame batch = DecodeSyncFrame(both);
  ASSERT_TRUE(batch.well_formed && batch.is_batch && batch.messages.size() == 2);
  EXPECT_EQ(batch.messages[0].bytes, view);
  EXPECT_EQ(batch.messages[0].version, 1'000'000u);
  EXPECT_EQ(IndexOf(batch.messages[1].node_id), 8u);
  EXPECT_EQ(DecodeCommandFlags(batch.messages[1].payload), 3);
}

}  // namespace
}  // namespace mantaray::sim
