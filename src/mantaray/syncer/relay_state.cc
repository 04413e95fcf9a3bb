// See relay_state.h.

#include "mantaray/syncer/relay_state.h"

#include <algorithm>

namespace mantaray::syncer {

void DelayHistogram::Add(int64_t delay_ms) {
  const auto bound = std::lower_bound(kBoundsMs.begin(), kBoundsMs.end(), delay_ms);
  ++counts[bound - kBoundsMs.begin()];
  sum_ms += static_cast<uint64_t>(std::max<int64_t>(delay_ms, 0));
}

RelayState::RelayState(const RelayOptions& relay_options, const Clock* relay_clock)
    : options(relay_options),
      clock(relay_clock),
      relay_id(relay_options.node_id.Hex().substr(0, kRelayIdDigits)),
      shield(relay_options.wire),
      view(relay_options.max_nodes) {}

RelayStream* RelayState::FindStream(StreamId id) {
  const auto found = streams.find(id);
  return found == streams.end() ? nullptr : found->second.get();
}

std::set<std::string> RelayState::RelaysBelow() const {
  std::set<std::string> below;
  for (const auto& [id, stream] : relay_streams) {
    if (stream->is_upstream()) continue;
    below.insert(stream->hello.relay_id);
    below.insert(stream->hello.other_relays.begin(), stream->hello.other_relays.end());
  }
  return below;
}

bool RelayState::Settled() const { return upstream != nullptr && clock->NowMs() >= SettledAtMs(); }

}  // namespace mantaray::syncer
