// The library that is preloaded into a raylet: it looks at files before the raylet opens them; see pull_check.h.
//
// It stands before fopen, with which the raylet opens the files of spilled objects that other nodes pull. Only for such
// files it does more than call the C library's own function. Processes that the raylet starts do not get it.

#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "mantaray/common/steady_clock.h"
#include "mantaray/spill/posix_file_system.h"
#include "mantaray/spill/pull_check.h"

namespace mantaray::spill {
namespace {

using Opener = FILE* (*)(const char*, const char*);

constexpr char kPreloadVariable[] = "LD_PRELOAD";
constexpr char kNotesVariable[] = "_MANTARAY_PULL_NOTES";

// Takes this library, which is the first, out of the environment, and closes the descriptor that it was loaded from.
__attribute__((constructor)) void LeaveEnvironment() {
  const char* variable = std::getenv(kPreloadVariable);
  if (variable == nullptr) return;
  const std::pair<std::string, std::string> names = absl::StrSplit(variable, absl::MaxSplits(':', 1));
  absl::string_view own = names.first;
  int descriptor = -1;
  if (!absl::ConsumePrefix(&own, "/proc/self/fd/") || !absl::SimpleAtoi(own, &descriptor)) return;
  close(descriptor);
  if (names.second.empty()) {
    unsetenv(kPreloadVariable);
  } else {
    setenv(kPreloadVariable, names.second.c_str(), /*overwrite=*/1);
  }
}

// Never destroyed: threads of the raylet may open files until its very end.
PullCheck* Check() {
  static PullCheck* const check = [] {
    const char* notes = std::getenv(kNotesVariable);
    return new PullCheck(new PosixFileSystem, new SteadyClock, notes == nullptr ? "" : notes);
  }();
  return check;
}

FILE* Open(const char* function, const char* path, const char* mode) {
  // Most files are none of ours; for them, not even memory is allocated.
  const bool spilled =
      path != nullptr && mode != nullptr && mode[0] == 'r' && std::strstr(path, kNodeDirectoryPrefix.data()) != nullptr;
  if (spilled && !Check()->MayRead(path)) {
    errno = EIO;
    return nullptr;
  }
  return reinterpret_cast<Opener>(dlsym(RTLD_NEXT, function))(path, mode);
}

}  // namespace
}  // namespace mantaray::spill

extern "C" {

__attribute__((visibility("default"))) FILE* fopen(const char* path, const char* mode) {
  return mantaray::spill::Open("fopen", path, mode);
}

__attribute__((visibility("default"))) FILE* fopen64(const char* path, const char* mode) {
  return mantaray::spill::Open("fopen64", path, mode);
}
}
