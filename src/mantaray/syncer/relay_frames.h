// The frames of a relay: which changes wait for which stream, what each stream is sent, and when.
//
// Part of a relay's core. Commands go at once, views when their window is over, and noise when its time is up. Streams
// that stand at the same position share a frame. Not thread-safe.

#ifndef MANTARAY_SYNCER_RELAY_FRAMES_H_
#define MANTARAY_SYNCER_RELAY_FRAMES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "mantaray/syncer/relay_digests.h"
#include "mantaray/syncer/relay_state.h"

namespace mantaray::syncer {

class RelayFrames {
 public:
  RelayFrames(RelayState* state, RelayDigests* digests);

  Channel& ChannelOf(MessageType type, size_t direction);
  const Channel& ChannelOf(MessageType type, size_t direction) const;

  // An entry changed: it goes to the nodes, and upstream if it came from below.
  void Publish(ViewEntry* entry, bool from_below);
  // Whether a change is noise and waits. `before`: the entry as it was.
  bool HoldAsNoise(ViewEntry* entry, const ViewEntry& before);
  // An entry leaves the view.
  void Remove(ViewEntry* entry);
  // Nodes moved between streams, so that shared frames leave out the wrong entries.
  void ForgetSegments();

  // The next frame of a stream, or nothing for now.
  std::optional<Frame> Take(RelayStream* stream);
  // Tells a stream's peer that there is something to take, if it waits for that.
  void Wake(RelayStream* stream);

  // Publishes the noise whose time is up.
  void ReleaseNoise();
  // Lets go what has waited for long enough, and wakes the streams that get it.
  void ReleaseAll();
  int64_t NextDeadlineMs() const;

  // How many changes a stream has yet to take.
  size_t Behind(const RelayStream& stream) const;
  size_t Slots() const;

 private:
  bool IsBehind(const RelayStream& stream) const;
  bool HasTakenAll(const RelayStream& stream) const;
  std::optional<Frame> TakeCommands(RelayStream* stream);
  std::optional<Frame> TakeViews(RelayStream* stream);
  std::optional<Frame> TakeBareView(RelayStream* stream);
  std::string WithFlagsFor(const RelayStream& stream, const ViewEntry& entry) const;
  void CountOut(const RelayStream& stream, const Frame& frame);

  RelayState* state_;
  RelayDigests* digests_;
  std::array<std::array<Channel, kDirections>, kMessageTypes> channels_;  // by type and direction
  std::set<std::pair<int64_t, NodeId>> noise_;                            // nodes, by when their noise goes on
};

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_RELAY_FRAMES_H_
