// Reading /proc/<pid>/stat and /proc/<pid>/fd.

#include "mantaray/spill/posix_host.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "mantaray/common/errno_status.h"

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

absl::StatusOr<OpenFiles> PosixHost::FilesOfRaylet() {
  if (raylet_pid_ == 0) return absl::UnavailableError("the raylet is not known");
  const std::string path = absl::StrCat("/proc/", raylet_pid_, "/fd");
  const auto close_directory = [](DIR* directory) { closedir(directory); };
  const std::unique_ptr<DIR, decltype(close_directory)> directory(opendir(path.c_str()), close_directory);
  if (directory == nullptr) return ErrnoStatus(errno, "opendir", path);
  OpenFiles files;
  errno = 0;
  while (const dirent* entry = readdir(directory.get())) {
    struct stat data {};
    // A descriptor that was closed meanwhile is not there any more.
    if (fstatat(dirfd(directory.get()), entry->d_name, &data, 0) == 0) {
      if (S_ISREG(data.st_mode)) files.emplace(data.st_dev, data.st_ino);
    } else if (errno != ENOENT) {
      return ErrnoStatus(errno, "stat", absl::StrCat(path, "/", entry->d_name));
    }
    errno = 0;
  }
  if (errno != 0) return ErrnoStatus(errno, "readdir", path);
  return files;
}

}  // namespace mantaray::spill
