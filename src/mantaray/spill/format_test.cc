// Tests of the byte layout: what is written down in format.h, and every damage the parser survives.

#include "mantaray/spill/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "mantaray/common/crc32c.h"

namespace mantaray::spill {
namespace {

using ::testing::HasSubstr;

Trailer SampleTrailer() {
  Trailer trailer;
  trailer.object_id = *ObjectId::FromBinary(std::string(kObjectIdBytes, 'i'));
  trailer.offset = 3 * kBlockBytes;
  trailer.header_bytes = kLengthsBytes + 100;
  trailer.payload_bytes = 150000;
  trailer.header_crc = 0x01020304;
  trailer.payload_crc = 0xA0B0C0D0;
  return trailer;
}

void Recompute(TrailerBytes* bytes) {
  const uint32_t crc = Crc32c(bytes->data(), 80);
  for (size_t i = 0; i < 4; ++i) (*bytes)[80 + i] = static_cast<char>(crc >> (8 * i));
}

TEST(TrailerFormat, BytesLieWhereTheDocumentSays) {
  const TrailerBytes bytes = EncodeTrailer(SampleTrailer());
  EXPECT_EQ(std::string(bytes.data(), 8), "MRAYSPL\n");
  EXPECT_EQ(bytes[8], 1);
  EXPECT_EQ(bytes[9], 0);
  EXPECT_EQ(bytes[10], 84);
  EXPECT_EQ(std::string(bytes.data() + 16, kObjectIdBytes), std::string(kObjectIdBytes, 'i'));
  EXPECT_EQ(static_cast<unsigned char>(bytes[45]), 0x30);  // 12288 = 0x3000
  EXPECT_EQ(static_cast<unsigned char>(bytes[68]), 0x04);
  EXPECT_EQ(static_cast<unsigned char>(bytes[72]), 0xD0);
}

TEST(TrailerFormat, RoundTrip) {
  const auto parsed = ParseTrailer(EncodeTrailer(SampleTrailer()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->object_id, SampleTrailer().object_id);
  EXPECT_EQ(parsed->offset, SampleTrailer().offset);
  EXPECT_EQ(parsed->header_bytes, SampleTrailer().header_bytes);
  EXPECT_EQ(parsed->payload_bytes, SampleTrailer().payload_bytes);
  EXPECT_EQ(parsed->header_crc, SampleTrailer().header_crc);
  EXPECT_EQ(parsed->payload_crc, SampleTrailer().payload_crc);
}

TEST(TrailerDamage, TruncatedTrailer) {
  const TrailerBytes bytes = EncodeTrailer(SampleTrailer());
  for (size_t size = 0; size < kTrailerBytes; ++size) {
    const auto parsed = ParseTrailer({bytes.data(), size});
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss) << size;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("truncated"));
  }
}

TEST(TrailerDamage, HoleWhereTheTrailerWas) {
  const TrailerBytes zeros{};
  EXPECT_THAT(std::string(ParseTrailer(zeros).status().message()), HasSubstr("magic"));
}

TEST(TrailerDamage, EverySingleFlippedBitIsFound) {
  for (size_t bit = 0; bit < 8 * kTrailerBytes; ++bit) {
    TrailerBytes bytes = EncodeTrailer(SampleTrailer());
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(ParseTrailer(bytes).status().code(), absl::StatusCode::kDataLoss) << bit;
  }
}

TEST(TrailerDamage, VersionOfTheFuture) {
  TrailerBytes bytes = EncodeTrailer(SampleTrailer());
  bytes[8] = 2;
  Recompute(&bytes);
  EXPECT_THAT(std::string(ParseTrailer(bytes).status().message()), HasSubstr("version"));
}

TEST(TrailerDamage, AbsurdLengthsWithAGoodChecksum) {
  for (size_t at : {size_t{52}, size_t{60}}) {
    TrailerBytes bytes = EncodeTrailer(SampleTrailer());
    for (size_t i = 0; i < 8; ++i) bytes[at + i] = '\xff';
    Recompute(&bytes);
    EXPECT_THAT(std::string(ParseTrailer(bytes).status().message()), HasSubstr("bad lengths"));
  }
}

TEST(TrailerDamage, TrailerOfAnotherObjectOrPlace) {
  const Trailer trailer = SampleTrailer();
  const Lengths lengths{60, 40, 150000};
  EXPECT_TRUE(CheckTrailer(trailer, lengths, trailer.offset).ok());
  EXPECT_THAT(std::string(CheckTrailer(trailer, lengths, 0).message()), HasSubstr("misplaced"));
  EXPECT_THAT(std::string(CheckTrailer(trailer, {60, 40, 150001}, trailer.offset).message()),
              HasSubstr("another object"));
}

TEST(HeaderDamage, LengthsThatDoNotAddUp) {
  const Lengths lengths{60, 40, 1000};
  const auto bytes = EncodeLengths(lengths);
  EXPECT_TRUE(ParseLengths(bytes, lengths.object_bytes()).ok());
  EXPECT_EQ(ParseLengths(bytes, lengths.object_bytes() + 1).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ParseLengths({bytes.data(), 23}, lengths.object_bytes()).status().code(), absl::StatusCode::kDataLoss);
}

TEST(HeaderDamage, LengthsThatOverflowWhenAdded) {
  const auto bytes = EncodeLengths({~uint64_t{0}, 1, 100});
  EXPECT_EQ(ParseLengths(bytes, 124).status().code(), absl::StatusCode::kDataLoss);
}

TEST(RecordSize, TrailerAlwaysFitsAndRecordsStayAligned) {
  for (uint64_t object_bytes :
       {uint64_t{24}, uint64_t{4011}, uint64_t{4012}, uint64_t{4013}, uint64_t{4096}, uint64_t{1} << 30}) {
    EXPECT_EQ(RecordBytes(object_bytes) % kBlockBytes, 0u);
    EXPECT_GE(RecordBytes(object_bytes), object_bytes + kTrailerBytes);
    EXPECT_LT(RecordBytes(object_bytes), object_bytes + kTrailerBytes + kBlockBytes);
  }
}

}  // namespace
}  // namespace mantaray::spill
