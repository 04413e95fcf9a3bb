// Huge pages for memory that is there already; see the header.

#include "mantaray/common/collapse_pages.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mantaray {
namespace {

// Linux 6.1 and later; the C library of the wheels is older.
constexpr int kMadvCollapse = 25;
// With pages of 64 KiB a huge page has 512 MiB: too much to copy at once.
constexpr size_t kLargestHugePageBytes = size_t{4} << 20;
// How much is looked at, and at most collapsed, with one system call.
constexpr size_t kPagesAtOnce = 32;

struct Range {
  uintptr_t begin;
  uintptr_t end;
};

// Bounds of private, writable mappings without a file: heaps and arenas, whatever their name.
absl::StatusOr<std::vector<Range>> AnonymousRanges() {
  // A larger range is a reservation that is nearly empty, and looking it through would take minutes.
  const size_t memory_bytes = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::ifstream maps("/proc/self/maps");
  std::vector<Range> ranges;
  std::string line;
  while (std::getline(maps, line)) {
    std::istringstream words(line);
    std::string bounds, access, offset, device, name;
    uint64_t inode = 0;
    words >> bounds >> access >> offset >> device >> inode >> name;
    const bool is_stack = name == "[stack]";
    if (access != "rw-p" || inode != 0 || is_stack) continue;
    const size_t dash = bounds.find('-');
    Range range{};
    if (dash == std::string::npos || !absl::SimpleHexAtoi(bounds.substr(0, dash), &range.begin) ||
        !absl::SimpleHexAtoi(bounds.substr(dash + 1), &range.end)) {
      return absl::UnavailableError(absl::StrCat("/proc/self/maps has the line ", line));
    }
    if (range.end - range.begin <= memory_bytes) ranges.push_back(range);
  }
  if (ranges.empty()) return absl::UnavailableError("/proc/self/maps cannot be read");
  return ranges;
}

class Collapser {
 public:
  explicit Collapser(size_t huge_page_bytes)
      : huge_page_bytes_(huge_page_bytes),
        pages_(huge_page_bytes / static_cast<size_t>(sysconf(_SC_PAGESIZE))),
        is_resident_(pages_ * kPagesAtOnce) {}

  size_t collapsed_bytes() const { return collapsed_bytes_; }

  absl::Status Collapse(Range range) {
    const uintptr_t mask = huge_page_bytes_ - 1;
    uintptr_t begin = (range.begin + mask) & ~mask;
    const uintptr_t end = range.end & ~mask;
    while (begin < end) {
      const size_t count = std::min<size_t>((end - begin) / huge_page_bytes_, kPagesAtOnce);
      // It fails if the range is unmapped meanwhile. Then nothing of it has to be collapsed.
      if (mincore(At(begin), count * huge_page_bytes_, is_resident_.data()) == 0) {
        if (absl::Status status = CollapseFull(begin, count); !status.ok()) return status;
      }
      begin += count * huge_page_bytes_;
    }
    return absl::OkStatus();
  }

 private:
  // An address that came from the kernel as a number.
  static void* At(uintptr_t address) {
    return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
  }

  bool IsFull(size_t huge_page) const {
    const auto first = is_resident_.begin() + static_cast<std::ptrdiff_t>(huge_page * pages_);
    const auto resident =
        std::count_if(first, first + static_cast<std::ptrdiff_t>(pages_), [](unsigned char each) { return each & 1; });
    return static_cast<size_t>(resident) >= pages_ - pages_ / kMostMissing;
  }

  // Collapses each run of neighbours that are full.
  absl::Status CollapseFull(uintptr_t begin, size_t count) {
    size_t first = 0;
    while (first < count) {
      size_t last = first;
      while (last < count && IsFull(last)) ++last;
      if (last > first) {
        if (absl::Status status = CollapseRun(begin + first * huge_page_bytes_, (last - first) * huge_page_bytes_);
            !status.ok()) {
          return status;
        }
      }
      first = last + 1;
    }
    return absl::OkStatus();
  }

  absl::Status CollapseRun(uintptr_t begin, size_t size_bytes) {
    if (madvise(At(begin), size_bytes, kMadvCollapse) == 0) {
      collapsed_bytes_ += size_bytes;
      is_known_ = true;
      return absl::OkStatus();
    }
    if (errno == ENOMEM) return absl::ResourceExhaustedError("no memory for huge pages");
    if (errno == EINVAL && !is_known_) {
      // Either the kernel does not know the advice, or this mapping is exempt from huge pages.
      ++refused_;
      if (refused_ >= kRefusalsToGiveUp) return absl::FailedPreconditionError("the kernel cannot collapse pages");
    }
    // Pages that a device uses, or that change at this moment, stay where they are.
    return absl::OkStatus();
  }

  static constexpr int kRefusalsToGiveUp = 8;

  size_t huge_page_bytes_;
  // In one huge page.
  size_t pages_;
  std::vector<unsigned char> is_resident_;
  size_t collapsed_bytes_ = 0;
  // Whether the kernel has accepted the advice.
  bool is_known_ = false;
  int refused_ = 0;
};

}  // namespace

absl::StatusOr<size_t> HugePageBytes(const std::string& settings) {
  std::string enabled;
  std::getline(std::ifstream(settings + "/enabled"), enabled);
  if (enabled.empty()) return absl::FailedPreconditionError("the kernel has no transparent huge pages");
  if (enabled.find("[never]") != std::string::npos) {
    return absl::FailedPreconditionError("transparent huge pages are switched off");
  }
  if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1) {
    return absl::FailedPreconditionError("transparent huge pages are switched off for this process");
  }
  size_t size_bytes = 0;
  std::ifstream(settings + "/hpage_pmd_size") >> size_bytes;
  if (size_bytes == 0 || size_bytes > kLargestHugePageBytes || (size_bytes & (size_bytes - 1)) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("huge pages of ", size_bytes, " bytes are not used"));
  }
  return size_bytes;
}

absl::StatusOr<size_t> CollapseIntoHugePages(const std::string& settings) {
  const absl::StatusOr<size_t> huge_page_bytes = HugePageBytes(settings);
  if (!huge_page_bytes.ok()) return huge_page_bytes.status();
  const absl::StatusOr<std::vector<Range>> ranges = AnonymousRanges();
  if (!ranges.ok()) return ranges.status();
  Collapser collapser(*huge_page_bytes);
  for (const Range& range : *ranges) {
    if (absl::Status status = collapser.Collapse(range); !status.ok()) return status;
  }
  return collapser.collapsed_bytes();
}

}  // namespace mantaray
