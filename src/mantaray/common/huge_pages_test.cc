// Memory from the allocator is aligned and keeps its content, whatever its size.

#include "mantaray/common/huge_pages.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mantaray {
namespace {

struct alignas(64) Line {
  uint64_t number = 0;
};

TEST(HugePageAllocatorTest, SmallAndLargeAreAlignedAndWhollyUsable) {
  for (const size_t count : {size_t{1}, size_t{1000}, size_t{100'000}, size_t{300'001}}) {
    std::vector<Line, HugePageAllocator<Line>> lines(count);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(lines.data()) % alignof(Line), 0U);
    for (size_t i = 0; i < count; ++i) lines[i].number = i;
    uint64_t sum = 0;
    for (const Line& line : lines) sum += line.number;
    EXPECT_EQ(sum, count * (count - 1) / 2);
  }
}

TEST(HugePageAllocatorTest, GrowingKeepsWhatIsThere) {
  std::vector<uint64_t, HugePageAllocator<uint64_t>> numbers;
  for (uint64_t number = 0; number < 3'000'000; ++number) numbers.push_back(number);
  for (uint64_t number = 0; number < 3'000'000; ++number) ASSERT_EQ(numbers[number], number);
}

}  // namespace
}  // namespace mantaray
