// Which objects go into which segment.
//
// First fit in the order given: every object goes to the first segment that still has room, so one large object does
// not close a segment that later small ones could fill, and no swarm of nearly empty files is left. An object larger
// than the bound goes alone. Pure.

#ifndef MANTARAY_SPILL_PACKER_H_
#define MANTARAY_SPILL_PACKER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace mantaray::spill {

// No record is smaller: a plan with less room is full.
inline constexpr uint64_t kSmallestRecordBytes = 4096;

struct SegmentPlan {
  std::vector<size_t> objects;  // indices into the sizes given, ascending
  uint64_t size_bytes = 0;      // headers, trailers and padding counted
};

struct PackLimits {
  uint64_t segment_bytes = 0;    // at least 1
  uint64_t segment_objects = 0;  // at least 1; the file system's limit of links
};

// `record_bytes[i]` is what object i takes in a segment. Every index appears in exactly one plan.
std::vector<SegmentPlan> Pack(std::span<const uint64_t> record_bytes, const PackLimits& limits);

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_PACKER_H_
