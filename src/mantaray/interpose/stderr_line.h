// Lines about Ray's counter on stderr, at a bounded rate.
//
// Ray's threads do not hold the interpreter's lock, so these lines go to stderr and not to Python's logging.

#ifndef MANTARAY_INTERPOSE_STDERR_LINE_H_
#define MANTARAY_INTERPOSE_STDERR_LINE_H_

#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mantaray::interpose {

inline void WriteStderrLine(absl::string_view line) {
  const std::string whole = absl::StrCat("mantaray: ", line, "\n");
  // One write, so that lines of several processes do not mix. If it fails, there is no other place to report it.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, whole.data(), whole.size());
}

// At most one line in kIntervalMs. Not thread-safe.
class BoundedRate {
 public:
  static constexpr int64_t kIntervalMs = 5000;

  bool Allows(int64_t now_ms) {
    if (last_ms_ && now_ms - *last_ms_ < kIntervalMs) return false;
    last_ms_ = now_ms;
    return true;
  }

 private:
  std::optional<int64_t> last_ms_;
};

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_STDERR_LINE_H_
