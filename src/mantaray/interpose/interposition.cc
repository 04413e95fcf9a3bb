// See interposition.h.

#include "mantaray/interpose/interposition.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "mantaray/interpose/slot.h"

namespace mantaray::interpose {
namespace {

absl::Status About(const std::string& name, const absl::Status& status) {
  return status.ok() ? status : absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
}

}  // namespace

absl::StatusOr<Interposition> Interposition::Prepare(const ElfLibrary& library, const std::string& mangled,
                                                     std::optional<uintptr_t> expected) {
  const absl::StatusOr<uintptr_t*> slot = library.SlotOf(mangled);
  if (!slot.ok()) return slot.status();
  if (!expected) {
    const absl::StatusOr<uintptr_t> definition = library.DefinitionOf(mangled);
    if (!definition.ok()) return definition.status();
    expected = *definition;
  }
  if (ReadSlot(*slot) != *expected) {
    return absl::FailedPreconditionError(absl::StrCat(mangled, ": somebody else has changed the slot"));
  }
  return Interposition(mangled, *slot, *expected);
}

absl::Status Interposition::Attach(uintptr_t replacement) {
  absl::Status status = ExchangeSlot(slot_, original_, replacement);
  if (status.ok()) attached_ = replacement;
  return About(name_, status);
}

absl::Status Interposition::Detach() {
  if (!attached_) return absl::OkStatus();
  absl::Status status = ExchangeSlot(slot_, *attached_, original_);
  if (status.ok()) attached_.reset();
  return About(name_, status);
}

}  // namespace mantaray::interpose
