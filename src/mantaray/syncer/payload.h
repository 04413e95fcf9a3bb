// What is inside sync messages: as much of it as a relay has to understand.
//
// Payloads travel as they came. They are looked into for three things: whether they are well-formed (the shield),
// whether an update is one that no scheduler would act on (noise suppression), and which commands a message carries
// (coalescing must not lose one). Bounded like wire.h. Pure.

#ifndef MANTARAY_SYNCER_PAYLOAD_H_
#define MANTARAY_SYNCER_PAYLOAD_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::syncer {

// InvalidArgument: not well-formed.
absl::Status CheckPayload(MessageType type, std::string_view payload);

// When an update of a node's resources may wait.
struct NoiseOptions {
  bool enabled = false;
  double object_store_bytes = 64.0 * (1 << 20);  // movements of available object-store memory below it are noise
  int64_t idle_ms = 10'000;                      // so are movements of the idle time below it
  int64_t max_delay_ms = 5'000;                  // how long noise may wait
};

// Whether `now` differs from `published`, a node's last update that went on, in nothing but available object-store
// bytes and idle time, each by less than its threshold. A node that becomes idle or stops being it, store memory that
// runs out or comes back, unknown fields that changed and payloads that do not parse are no noise.
bool IsNoise(std::string_view published, std::string_view now, const NoiseOptions& options);

// The commands that a CommandsSyncMessage may carry, as bits.
inline constexpr uint8_t kGlobalGc = 1;
inline constexpr uint8_t kClusterFullOfActors = 2;
inline constexpr uint8_t kCommandFlags[] = {kGlobalGc, kClusterFullOfActors};

// The flags that are set; none of a payload that does not parse.
uint8_t ReadCommandFlags(std::string_view payload);
// The same payload with these flags set as well.
std::string WithCommandFlags(std::string_view payload, uint8_t flags);

}  // namespace mantaray::syncer

#endif  // MANTARAY_SYNCER_PAYLOAD_H_
