// The generator's own parts: what it writes can be read, however it is cut, and its percentiles are right.

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "benchmarks/sync_storm/grpc_stream.h"
#include "benchmarks/sync_storm/histogram.h"
#include "benchmarks/sync_storm/sync_messages.h"

namespace mantaray::storm {
namespace {

std::vector<std::pair<uint64_t, std::string>> DecodeAll(const std::string& data, bool* ok) {
  std::vector<std::pair<uint64_t, std::string>> found;
  *ok = Decode(data, [&](const SyncMessage& message) {
    found.emplace_back(PayloadSequence(message.payload), std::string(message.node_id));
  });
  return found;
}

std::string Frame(uint8_t type, uint8_t flags, uint32_t stream, const std::string& payload) {
  std::string frame;
  for (int shift : {16, 8, 0}) frame.push_back(static_cast<char>(payload.size() >> shift));
  frame.push_back(static_cast<char>(type));
  frame.push_back(static_cast<char>(flags));
  for (int shift : {24, 16, 8, 0}) frame.push_back(static_cast<char>(stream >> shift));
  return frame + payload;
}

std::string GrpcMessage(const std::string& body) {
  std::string message(1, '\0');
  for (int shift : {24, 16, 8, 0}) message.push_back(static_cast<char>(body.size() >> shift));
  return message + body;
}

TEST(SyncMessages, BothDialectsGiveBackWhatWasWritten) {
  for (Dialect dialect : {Dialect::kBare, Dialect::kBatch}) {
    bool ok = false;
    const auto found = DecodeAll(Encode(dialect, 300, Payload(7, 300, 40), NodeId(7, 9)), &ok);
    ASSERT_TRUE(ok);
    ASSERT_EQ(found.size(), 1);
    EXPECT_EQ(found[0].first, 300);
    EXPECT_EQ(found[0].second, NodeId(7, 9));
    EXPECT_EQ(NodeIndex(found[0].second), 7);
  }
}

TEST(SyncMessages, ABatchOfManyAndUnknownFieldsIsRead) {
  std::string batch;
  for (uint32_t index : {1, 2, 3}) batch += Encode(Dialect::kBatch, 1, Payload(index, 5, 0), NodeId(index, 1));
  bool ok = false;
  EXPECT_EQ(DecodeAll(batch, &ok).size(), 3);
  EXPECT_TRUE(ok);
  const std::string bare = Encode(Dialect::kBare, 1, Payload(1, 5, 0), NodeId(1, 1)) + std::string("\x7a\x02hi", 4);
  EXPECT_EQ(DecodeAll(bare, &ok).size(), 1);
  EXPECT_TRUE(ok);
}

TEST(SyncMessages, TruncationIsRefusedAtEveryLength) {
  const std::string whole = Encode(Dialect::kBatch, 300, Payload(7, 300, 40), NodeId(7, 9));
  for (size_t length = 0; length < whole.size(); ++length) {
    bool ok = true;
    DecodeAll(whole.substr(0, length), &ok);
    EXPECT_FALSE(ok) << length;
  }
}

TEST(GrpcStream, MessagesArriveWhereverTheBytesAreCut) {
  const std::string large(40'000, 'x');
  const std::string data = GrpcMessage("first") + GrpcMessage(large) + GrpcMessage("");
  std::string wire = Frame(4, 0, 0, "") + Frame(1, 4, 1, "\x88");
  for (size_t at = 0; at < data.size(); at += 16'384) wire += Frame(0, 0, 1, data.substr(at, 16'384));
  for (size_t step : {size_t{1}, size_t{2}, size_t{8}, size_t{1000}, wire.size()}) {
    GrpcStream stream({"a:1", "/s/m", {}, 1 << 20});
    std::vector<std::string> got;
    for (size_t at = 0; at < wire.size(); at += step) {
      const absl::Status status =
          stream.Receive(wire.substr(at, step), [&](absl::string_view message) { got.emplace_back(message); });
      ASSERT_TRUE(status.ok()) << status;
    }
    EXPECT_EQ(got, (std::vector<std::string>{"first", large, ""})) << step;
  }
}

TEST(GrpcStream, WindowsAreGivenBackAndRespected) {
  GrpcStream stream({"a:1", "/s/m", {}, 65'535});
  stream.Written(stream.unwritten().size());
  const auto ignore = [](absl::string_view) {};
  ASSERT_TRUE(stream.Receive(Frame(0, 0, 1, GrpcMessage(std::string(16'000, 'x'))), ignore).ok());
  EXPECT_TRUE(stream.unwritten().empty());
  ASSERT_TRUE(stream.Receive(Frame(0, 0, 1, GrpcMessage(std::string(16'379, 'x'))), ignore).ok());
  ASSERT_TRUE(stream.Receive(Frame(0, 0, 1, GrpcMessage(std::string(16'379, 'x'))), ignore).ok());
  EXPECT_EQ(stream.unwritten().size(), 26);  // 13 for the connection, 13 for the stream
  stream.Written(26);

  stream.Send(std::string(60'000, 'y'));
  stream.Written(stream.unwritten().size());
  EXPECT_FALSE(stream.CanSend(6'000));
  const std::string more("\x00\x00\x80\x00", 4);
  ASSERT_TRUE(stream.Receive(Frame(8, 0, 0, more) + Frame(8, 0, 1, more), ignore).ok());
  EXPECT_TRUE(stream.CanSend(6'000));
}

TEST(GrpcStream, AnEndedStreamSaysWhy) {
  const auto ignore = [](absl::string_view) {};
  GrpcStream trailers({"a:1", "/s/m", {}, 65'535});
  const absl::Status ended = trailers.Receive(Frame(1, 5, 1, "grpc-message no token"), ignore);
  EXPECT_EQ(ended.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(ended.message().find("no token"), absl::string_view::npos);
  GrpcStream reset({"a:1", "/s/m", {}, 65'535});
  EXPECT_FALSE(reset.Receive(Frame(3, 0, 1, std::string("\0\0\0\x08", 4)), ignore).ok());
}

TEST(Histogram, QuantilesAreWithinTheWidthOfABucket) {
  Histogram histogram;
  for (int64_t value = 1; value <= 100'000; ++value) histogram.Add(value);
  EXPECT_EQ(histogram.total(), 100'000);
  EXPECT_NEAR(static_cast<double>(histogram.Quantile(0.5)), 50'000, 50'000 * 0.016);
  EXPECT_NEAR(static_cast<double>(histogram.Quantile(0.99)), 99'000, 99'000 * 0.016);
  EXPECT_EQ(histogram.Quantile(1), 100'000);
  EXPECT_EQ(Histogram().Quantile(0.5), 0);
}

}  // namespace
}  // namespace mantaray::storm
