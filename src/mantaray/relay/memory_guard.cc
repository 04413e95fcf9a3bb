// See memory_guard.h.

#include "mantaray/relay/memory_guard.h"

#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

namespace mantaray::relay {
namespace {

// Returns the number in a file of the system, or 0 if there is none: no such file, or a word such as "max".
int64_t NumberIn(const std::string& path) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? number : 0;
}

}  // namespace

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0;
  int64_t resident_pages = 0;
  file >> pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

int64_t DefaultMemoryLimitBytes() {
  int64_t limit = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  // Inside a container, the container's own control group is mounted at the root. The second file is that of version 1.
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    if (const int64_t bytes = NumberIn(path); bytes > 0) {
      limit = std::min(limit, bytes);
    }
  }
  return limit / 5 * 4;
}

void TrimMemory() { malloc_trim(0); }

}  // namespace mantaray::relay
