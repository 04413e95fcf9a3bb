// What relays tell each other, so that an update that was lost between them does not stay lost (digest.h).
//
// Part of a relay's core: decides when a stream to another relay gets a digest, compares digests that arrive with the
// view, and names the nodes that the other relay no longer has. Not thread-safe.

#ifndef MANTARAY_SYNCER_RELAY_DIGESTS_H_
#define MANTARAY_SYNCER_RELAY_DIGESTS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "mantaray/syncer/relay_state.h"

namespace mantaray::syncer {

class RelayDigests {
 public:
  explicit RelayDigests(RelayState* state) : state_(state) {}

  // Whether a stream gets a digest now. `has_taken_all`: whether it has taken everything that there is for it.
  bool Due(const RelayStream& stream, bool has_taken_all) const;
  // When a stream that has taken everything gets its next digest; kNeverMs: not before it has something to take.
  int64_t DueMs(const RelayStream& stream) const;
  // Adds to a frame what there is to tell the relay at the other end; makes the frame if there is none.
  void AddTalk(RelayStream* stream, bool has_taken_all, std::optional<Frame>* frame);
  // Takes in what the relay at the other end tells. Puts the nodes into `gone` that it should have named and did not.
  // InvalidArgument: not well-formed. FailedPrecondition: a loop.
  absl::Status OnTalk(RelayStream* stream, const Shield::CheckedFrame& frame, std::vector<NodeState*>* gone);

 private:
  bool ShouldKnow(const RelayStream& stream, const ViewEntry& entry) const;
  bool HeldFrom(const RelayStream& stream, const ViewEntry& entry) const;
  std::vector<NodeState*> Missing(const RelayStream& stream, const Shield::CheckedFrame& frame);
  std::string RepairBucket(const RelayStream& stream, size_t bucket, size_t* messages) const;

  RelayState* state_;
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_RELAY_DIGESTS_H_
