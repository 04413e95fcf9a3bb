// Several functions of a loaded library, replaced together or not at all.

#ifndef MANTARAY_INTERPOSE_REPLACEMENTS_H_
#define MANTARAY_INTERPOSE_REPLACEMENTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/interpose/elf_library.h"
#include "mantaray/interpose/interposition.h"
#include "mantaray/interpose/ray_abi.h"

namespace mantaray::interpose {

struct Replacement {
  RayMethod method;
  uintptr_t ours;
};

template <typename Function>
uintptr_t AddressOf(Function* function) {
  return reinterpret_cast<uintptr_t>(function);
}

// Finds the slot of each function, in the same order, and changes none. Errors as Interposition::Prepare.
absl::StatusOr<std::vector<Interposition>> PrepareAll(const ElfLibrary& library,
                                                      const std::vector<Replacement>& replacements);

// Attaches prepared slots in their order and adds them to `attached`, which must be empty. If one of them cannot be
// attached, those before it are taken back.
absl::Status AttachAll(const std::vector<Replacement>& replacements, const std::vector<Interposition>& prepared,
                       std::vector<Interposition>* attached);

// Restores slots, the last one first, and stops at the first that cannot be restored. The others stay in the list.
absl::Status DetachAll(std::vector<Interposition>* attached);

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_REPLACEMENTS_H_
