// An allocator that asks the kernel for huge pages under what is large, so that a table of a hundred megabytes that is
// read in no order does not look up a page's address for every entry. Where the kernel gives none, or is set to give
// none, it is a plain allocator. Never throws anything but std::bad_alloc; thread-safe.

#ifndef MANTARAY_COMMON_HUGE_PAGES_H_
#define MANTARAY_COMMON_HUGE_PAGES_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

namespace mantaray {

template <typename T>
class HugePageAllocator {
 public:
  using value_type = T;

  HugePageAllocator() = default;
  // Every allocator frees what any other made.
  template <typename U>
  HugePageAllocator(const HugePageAllocator<U>&) {}  // NOLINT(google-explicit-constructor): allocators convert

  T* allocate(size_t count) {
    const size_t size_bytes = count * sizeof(T);
    if (size_bytes < kLargeBytes) return static_cast<T*>(::operator new(size_bytes, std::align_val_t(alignof(T))));
    void* const memory = ::operator new(size_bytes, std::align_val_t(kHugePageBytes));
    // Whole pages only: what lies beyond the last may belong to others.
    madvise(memory, size_bytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t count) {
    const size_t size_bytes = count * sizeof(T);
    ::operator delete(memory, std::align_val_t(size_bytes < kLargeBytes ? alignof(T) : kHugePageBytes));
  }

  template <typename U>
  bool operator==(const HugePageAllocator<U>&) const {
    return true;
  }

 private:
  static constexpr size_t kHugePageBytes = size_t{2} << 20;
  // From here on at most a quarter of what is asked for goes into the last page.
  static constexpr size_t kLargeBytes = 4 * kHugePageBytes;
};

}  // namespace mantaray

#endif  // MANTARAY_COMMON_HUGE_PAGES_H_
