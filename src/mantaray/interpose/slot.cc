// See slot.h.

#include "mantaray/interpose/slot.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "mantaray/common/mutex.h"

namespace mantaray::interpose {
namespace {

// Two changes of one page must not overlap, because the first to finish would protect the page under the second.
Mutex g_changes;

// The protection of the page at an address, from the kernel's list.
absl::StatusOr<int> ProtectionAt(uintptr_t address) {
  FILE* maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return absl::InternalError(absl::StrCat("cannot open /proc/self/maps: ", strerror(errno)));
  absl::StatusOr<int> found = absl::InternalError("the kernel does not list the page of the slot");
  char line[4096];
  while (std::fgets(line, sizeof(line), maps) != nullptr) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char access[5] = {};
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &begin, &end, access) != 3) continue;  // NOLINT
    if (address < begin || address >= end) continue;
    found =
        (access[0] == 'r' ? PROT_READ : 0) | (access[1] == 'w' ? PROT_WRITE : 0) | (access[2] == 'x' ? PROT_EXEC : 0);
    break;
  }
  std::fclose(maps);
  return found;
}

}  // namespace

uintptr_t ReadSlot(const uintptr_t* slot) { return __atomic_load_n(slot, __ATOMIC_ACQUIRE); }

absl::Status ExchangeSlot(uintptr_t* slot, uintptr_t expected, uintptr_t desired) {
  const MutexLock lock(&g_changes);
  const auto address = reinterpret_cast<uintptr_t>(slot);
  const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  void* page = reinterpret_cast<void*>(address & ~(page_bytes - 1));  // NOLINT
  const absl::StatusOr<int> protection = ProtectionAt(address);
  if (!protection.ok()) return protection.status();
  const bool writable = (*protection & PROT_WRITE) != 0;
  if (!writable && mprotect(page, page_bytes, *protection | PROT_WRITE) != 0) {
    return absl::InternalError(absl::StrCat("the page of the slot cannot be made writable: ", strerror(errno)));
  }
  uintptr_t held = expected;
  // std::atomic_ref would do the same, but not every standard library has it yet.
  const bool done = __atomic_compare_exchange_n(slot, &held, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  if (!writable && mprotect(page, page_bytes, *protection) != 0) {
    return absl::InternalError(absl::StrCat("the page of the slot cannot be protected again: ", strerror(errno)));
  }
  if (!done) return absl::FailedPreconditionError("somebody else has changed the slot");
  return absl::OkStatus();
}

}  // namespace mantaray::interpose
