// Tests of packing: bounds, order, no swarm of small files.

#include "mantaray/spill/packer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace mantaray::spill {
namespace {

TEST(Packer, OneLargeObjectDoesNotCloseASegmentForSmallOnes) {
  const std::vector<uint64_t> sizes = {40960, 4096, 81920, 4096, 4096};
  const auto plans = Pack(sizes, {.segment_bytes = 65536, .segment_objects = 100});
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[0].objects, (std::vector<size_t>{0, 1, 3, 4}));
  EXPECT_EQ(plans[1].objects, (std::vector<size_t>{2}));  // larger than the bound: alone
}

TEST(Packer, EveryObjectExactlyOnceAndNoSegmentBeyondItsBounds) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint64_t> sizes(random() % 300);
    for (uint64_t& size : sizes) size = 4096 * (1 + random() % 64);
    const PackLimits limits{.segment_bytes = 4096 * (1 + random() % 100), .segment_objects = 1 + random() % 50};
    std::vector<size_t> seen;
    uint64_t half_empty = 0;
    const auto plans = Pack(sizes, limits);
    for (const SegmentPlan& plan : plans) {
      uint64_t total = 0;
      for (size_t index : plan.objects) total += sizes[index];
      EXPECT_EQ(total, plan.size_bytes);
      EXPECT_TRUE(plan.objects.size() == 1 || plan.size_bytes <= limits.segment_bytes);
      EXPECT_LE(plan.objects.size(), limits.segment_objects);
      seen.insert(seen.end(), plan.objects.begin(), plan.objects.end());
      if (plan.size_bytes <= limits.segment_bytes / 2 && plan.objects.size() < limits.segment_objects) ++half_empty;
    }
    EXPECT_LE(half_empty, 1u);
    std::sort(seen.begin(), seen.end());
    ASSERT_EQ(seen.size(), sizes.size());
    for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i);
  }
}

}  // namespace
}  // namespace mantaray::spill
