// An allocator that asks the kernel for huge pages for large blocks. With small pages, random reads of a table of a
// hundred megabytes would translate an address for nearly every entry. If the kernel provides no huge pages, this is a
// plain allocator. It throws nothing except std::bad_alloc, and is thread-safe.

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
  // Every allocator can free the memory of any other.
  template <typename U>
  HugePageAllocator(const HugePageAllocator<U>&) {}  // NOLINT(google-explicit-constructor): allocators convert

  T* allocate(size_t count) {
    const size_t size_bytes = count * sizeof(T);
    if (size_bytes < kLargeBytes) return static_cast<T*>(::operator new(size_bytes, std::align_val_t(alignof(T))));
    void* const memory = ::operator new(size_bytes, std::align_val_t(kHugePageBytes));
    // Only whole pages are passed, because memory behind the last whole page may belong to others.
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
  // From this size on, at most a quarter of a block lies in its last page.
  static constexpr size_t kLargeBytes = 4 * kHugePageBytes;
};

}  // namespace mantaray

#endif  // MANTARAY_COMMON_HUGE_PAGES_H_
