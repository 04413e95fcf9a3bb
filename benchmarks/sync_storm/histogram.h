// Counts of durations in buckets of constant relative width (1.6 %), cheap enough for every message received.

#ifndef MANTARAY_BENCHMARKS_SYNC_STORM_HISTOGRAM_H_
#define MANTARAY_BENCHMARKS_SYNC_STORM_HISTOGRAM_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mantaray::storm {

// Not thread-safe. Values are in microseconds, negative ones count as 0.
class Histogram {
 public:
  Histogram() : counts_(kBuckets) {}

  void Add(int64_t value_us, uint64_t times = 1) {
    const uint64_t value = static_cast<uint64_t>(std::max<int64_t>(value_us, 0));
    counts_[BucketOf(value)] += times;
    total_ += times;
    max_ = std::max(max_, value);
  }

  uint64_t total() const { return total_; }
  uint64_t max_us() const { return max_; }

  // The value that the given share of all values does not exceed; 0 when there is none.
  uint64_t Quantile(double share) const {
    const double wanted = share * static_cast<double>(total_);
    uint64_t seen = 0;
    for (size_t bucket = 0; bucket < counts_.size(); ++bucket) {
      seen += counts_[bucket];
      if (seen > 0 && static_cast<double>(seen) >= wanted) return std::min(UpperEndOf(bucket), max_);
    }
    return max_;
  }

 private:
  static constexpr int kStepBits = 6;
  static constexpr uint64_t kSteps = 1 << kStepBits;
  static constexpr size_t kBuckets = kSteps * (64 - kStepBits + 1);

  static size_t BucketOf(uint64_t value) {
    if (value < kSteps) return value;
    const int shift = std::bit_width(value) - 1 - kStepBits;
    return kSteps * (shift + 1) + ((value >> shift) - kSteps);
  }

  static uint64_t UpperEndOf(size_t bucket) {
    if (bucket < kSteps) return bucket;
    const size_t shift = bucket / kSteps - 1;
    return ((kSteps + bucket % kSteps + 1) << shift) - 1;
  }

  std::vector<uint64_t> counts_;
  uint64_t total_ = 0;
  uint64_t max_ = 0;
};

}  // namespace mantaray::storm

#endif  // MANTARAY_BENCHMARKS_SYNC_STORM_HISTOGRAM_H_
