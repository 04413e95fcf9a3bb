// Puts a function into a slot of a loaded library, and takes it out again.
//
// The slot's page is read-only after relocation. ExchangeSlot makes it writable, exchanges the word atomically, and
// restores the protection. Other threads may call through the slot at any time: each call goes to one function or to
// the other. A call that has begun continues in the function that it began in, so neither may be unloaded.
//
// A slot that does not hold the expected address is left alone: somebody else has changed it, and that function may not
// expect to be bypassed. Thread-safe.

#ifndef MANTARAY_INTERPOSE_SLOT_H_
#define MANTARAY_INTERPOSE_SLOT_H_

#include <cstdint>

#include "absl/status/status.h"

namespace mantaray::interpose {

// Replaces `expected` by `desired` in a slot.
//
// FailedPrecondition: the slot holds something else. Internal: the protection of its page cannot be read or changed.
absl::Status ExchangeSlot(uintptr_t* slot, uintptr_t expected, uintptr_t desired);

// Returns what a slot holds.
uintptr_t ReadSlot(const uintptr_t* slot);

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_SLOT_H_
