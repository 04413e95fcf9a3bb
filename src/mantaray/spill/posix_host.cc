// Reading /proc/<pid>/stat.

#include "mantaray/spill/posix_host.h"

#include <signal.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace mantaray::spill {
namespace {

// proc(5): fields behind the command's closing parenthesis, counted from the state.
constexpr size_t kStateField = 0;
constexpr size_t kStartTimeField = 19;

}  // namespace

absl::StatusOr<ProcessId> PosixHost::Lookup(int64_t pid) {
  if (kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) {
    return absl::NotFoundError(absl::StrCat("no process ", pid));
  }
  // The process exists, so failing to look at it (no descriptors left, no /proc) says nothing.
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  if (!file) return absl::UnavailableError(absl::StrCat("process ", pid, " cannot be looked at"));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t command_end = text.rfind(')');
  if (command_end == std::string::npos) {
    return absl::UnavailableError(absl::StrCat("process ", pid, " cannot be looked at"));
  }
  const std::vector<std::string> fields = absl::StrSplit(text.substr(command_end + 1), ' ', absl::SkipEmpty());
  ProcessId process{.pid = pid};
  if (fields.size() <= kStartTimeField || !absl::SimpleAtoi(fields[kStartTimeField], &process.start_ticks)) {
    return absl::UnavailableError(absl::StrCat("process ", pid, " cannot be looked at"));
  }
  const bool dead = fields[kStateField] == "Z" || fields[kStateField] == "X";
  if (dead) return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  return process;
}

bool PosixHost::IsAlive(const ProcessId& process) {
  const absl::StatusOr<ProcessId> found = Lookup(process.pid);
  if (!found.ok()) return !absl::IsNotFound(found.status());
  return *found == process;
}

int64_t RealClock::NowMs() const {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

}  // namespace mantaray::spill
