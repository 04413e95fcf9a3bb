// Moves the memory of this process into huge pages, so that a fork has few pages to copy the entries of.
//
// The kernel copies a process's page tables in a fork, one entry for each page, while every thread that touches its
// memory waits. In pages of 4 KiB that is 15 ms for 1 GB; in huge pages it is a few hundred entries. The kernel may
// collapse pages by itself, in minutes; MADV_COLLAPSE (Linux 6.1, madvise(2)) does it now, for less than a millisecond
// of processor time a megabyte.
//
// A range is left alone unless nearly all of its pages are in memory (`kMostMissing`), because a huge page is whole.
// Nothing is moved where the administrator or the process has switched huge pages off, or where they are very large.
// Thread-safe. Other threads go on; one that needs the page table waits for one huge page, usually less than a
// millisecond.

#ifndef MANTARAY_COMMON_COLLAPSE_PAGES_H_
#define MANTARAY_COMMON_COLLAPSE_PAGES_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mantaray {

// What a collapse may add to the resident memory of the process: one part in this many.
inline constexpr size_t kMostMissing = 16;

// Where the kernel tells what it does with huge pages.
inline constexpr char kHugePageSettings[] = "/sys/kernel/mm/transparent_hugepage";

// The size of a huge page. FailedPrecondition if there are none for this process, with the reason.
absl::StatusOr<size_t> HugePageBytes(const std::string& settings = kHugePageSettings);

// Collapses the private anonymous memory of this process. Returns how many bytes are in huge pages that were not left
// alone, whether they were before or not.
//
// FailedPrecondition as above, or because the kernel cannot collapse pages. Unavailable if the process's mappings
// cannot be read. ResourceExhausted if memory is short; what was collapsed until then stays.
absl::StatusOr<size_t> CollapseIntoHugePages(const std::string& settings = kHugePageSettings);

}  // namespace mantaray

#endif  // MANTARAY_COMMON_COLLAPSE_PAGES_H_
