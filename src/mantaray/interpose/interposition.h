// One function of a loaded library, replaced by a function of Mantaray until the slot is restored.
//
// ExchangeSlot makes the exchange safe for threads that call through the slot. One object is used by one thread at a
// time.

#ifndef MANTARAY_INTERPOSE_INTERPOSITION_H_
#define MANTARAY_INTERPOSE_INTERPOSITION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/interpose/elf_library.h"

namespace mantaray::interpose {

class Interposition {
 public:
  // Finds the slot of a function and checks that it holds the library's own definition, or `expected` if that is given.
  //
  // Errors as ElfLibrary::SlotOf; also FailedPrecondition if the slot holds something else because somebody changed it.
  static absl::StatusOr<Interposition> Prepare(const ElfLibrary& library, const std::string& mangled,
                                               std::optional<uintptr_t> expected = std::nullopt);

  // Puts the address of a function into the slot. Errors as ExchangeSlot.
  absl::Status Attach(uintptr_t replacement);

  // Restores the former content of the slot. Does nothing if nothing is attached. Errors as ExchangeSlot.
  absl::Status Detach();

  // The function that the slot held before, which a replacement calls.
  uintptr_t original() const { return original_; }
  template <typename Function>
  Function OriginalAs() const {
    return reinterpret_cast<Function>(original_);  // NOLINT(performance-no-int-to-ptr): a slot holds a number
  }
  bool attached() const { return attached_.has_value(); }

 private:
  Interposition(std::string name, uintptr_t* slot, uintptr_t original)
      : name_(std::move(name)), slot_(slot), original_(original) {}

  std::string name_;
  uintptr_t* slot_;
  uintptr_t original_;
  std::optional<uintptr_t> attached_;
};

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_INTERPOSITION_H_
