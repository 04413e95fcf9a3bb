// See replacements.h.

#include "mantaray/interpose/replacements.h"

#include <cstddef>
#include <utility>

namespace mantaray::interpose {

absl::StatusOr<std::vector<Interposition>> PrepareAll(const ElfLibrary& library,
                                                      const std::vector<Replacement>& replacements) {
  std::vector<Interposition> slots;
  for (const Replacement& replacement : replacements) {
    absl::StatusOr<Interposition> slot = Interposition::Prepare(library, replacement.method.mangled);
    if (!slot.ok()) return slot.status();
    slots.push_back(*std::move(slot));
  }
  return slots;
}

absl::Status AttachAll(const std::vector<Replacement>& replacements, const std::vector<Interposition>& prepared,
                       std::vector<Interposition>* attached) {
  for (size_t i = 0; i < prepared.size(); ++i) {
    Interposition slot = prepared[i];
    absl::Status status = slot.Attach(replacements[i].ours);
    if (!status.ok()) {
      status.Update(DetachAll(attached));
      return status;
    }
    attached->push_back(std::move(slot));
  }
  return absl::OkStatus();
}

absl::Status DetachAll(std::vector<Interposition>* attached) {
  while (!attached->empty()) {
    absl::Status status = attached->back().Detach();
    if (!status.ok()) return status;
    attached->pop_back();
  }
  return absl::OkStatus();
}

}  // namespace mantaray::interpose
