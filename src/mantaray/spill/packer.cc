// First-fit packing.

#include "mantaray/spill/packer.h"

namespace mantaray::spill {
namespace {

bool Fits(const SegmentPlan& plan, uint64_t size_bytes, const PackLimits& limits) {
  return plan.objects.size() < limits.segment_objects && plan.size_bytes <= limits.segment_bytes &&
         size_bytes <= limits.segment_bytes - plan.size_bytes;
}

}  // namespace

std::vector<SegmentPlan> Pack(std::span<const uint64_t> record_bytes, const PackLimits& limits) {
  std::vector<SegmentPlan> plans;
  size_t first_open = 0;  // plans before it are full, so that many equal objects cost linear time
  for (size_t index = 0; index < record_bytes.size(); ++index) {
    const uint64_t size_bytes = record_bytes[index];
    size_t target = first_open;
    while (target < plans.size() && !Fits(plans[target], size_bytes, limits)) ++target;
    if (target == plans.size()) plans.emplace_back();
    plans[target].objects.push_back(index);
    plans[target].size_bytes += size_bytes;
    while (first_open < plans.size() && !Fits(plans[first_open], kSmallestRecordBytes, limits)) ++first_open;
  }
  return plans;
}

}  // namespace mantaray::spill
