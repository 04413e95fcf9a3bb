// Tests of CRC32C against the published vectors and of its implementations against one another.

#include "mantaray/common/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace mantaray {
namespace {

std::string RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// RFC 3720, appendix B.4.
TEST(Crc32c, PublishedVectors) {
  EXPECT_EQ(Crc32c("123456789", 9), 0xE3069283u);
  const std::string zeros(32, '\0');
  EXPECT_EQ(Crc32c(zeros.data(), zeros.size()), 0x8A9136AAu);
  const std::string ones(32, '\xff');
  EXPECT_EQ(Crc32c(ones.data(), ones.size()), 0x62A8AB43u);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending.push_back(static_cast<char>(i));
  EXPECT_EQ(Crc32c(ascending.data(), ascending.size()), 0x46DD794Eu);
  EXPECT_EQ(Crc32c("", 0), 0u);
}

TEST(Crc32c, FastAndPortableAgreeAtEveryLengthAndAlignment) {
  const std::string bytes = RandomBytes(40000, 1);
  for (size_t size : {0, 1, 7, 8, 9, 255, 256, 257, 511, 512, 520, 767, 768, 769, 4096, 12287, 12288, 12289, 30000}) {
    for (size_t start = 0; start < 9; ++start) {
      EXPECT_EQ(Crc32c(bytes.data() + start, size), Crc32cExtendPortable(0, bytes.data() + start, size))
          << "size " << size << " start " << start;
    }
  }
}

TEST(Crc32c, ExtendAndCombineEqualTheWhole) {
  const std::string bytes = RandomBytes(100000, 2);
  const uint32_t whole = Crc32c(bytes.data(), bytes.size());
  for (size_t cut : {size_t{0}, size_t{1}, size_t{4096}, size_t{65537}, bytes.size()}) {
    const uint32_t head = Crc32c(bytes.data(), cut);
    const uint32_t tail = Crc32c(bytes.data() + cut, bytes.size() - cut);
    EXPECT_EQ(Crc32cExtend(head, bytes.data() + cut, bytes.size() - cut), whole);
    EXPECT_EQ(Crc32cCombine(head, tail, bytes.size() - cut), whole);
  }
}

}  // namespace
}  // namespace mantaray
