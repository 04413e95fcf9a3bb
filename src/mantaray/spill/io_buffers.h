// Buffers for unbuffered reads and writes, used again and again.
//
// A fresh buffer costs a page fault for every page, which on many machines takes longer than the transfer itself. The
// pool keeps buffers that were used lately and gives the others back, so that an idle worker holds none. Thread-safe;
// a buffer itself belongs to one thread at a time and must not outlive the file system.

#ifndef MANTARAY_SPILL_IO_BUFFERS_H_
#define MANTARAY_SPILL_IO_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "mantaray/common/mutex.h"
#include "mantaray/spill/file_system.h"

namespace mantaray::spill {

class IoBuffers {
 public:
  static constexpr uint64_t kBufferBytes = 4 << 20;

  // Goes back to its pool when it goes out of scope, or to the kernel when the pool has ended.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();

    // kBufferBytes bytes, or null when there was no memory.
    char* data() const { return data_; }

   private:
    friend class IoBuffers;
    struct Shelf;
    Lease(std::shared_ptr<Shelf> shelf, char* data) : shelf_(std::move(shelf)), data_(data) {}

    std::shared_ptr<Shelf> shelf_;
    char* data_ = nullptr;
  };

  explicit IoBuffers(FileSystem* fs);
  ~IoBuffers();
  IoBuffers(const IoBuffers&) = delete;
  IoBuffers& operator=(const IoBuffers&) = delete;

  Lease Take();

  // Gives back the buffers that nobody has used since the last call.
  void Trim();
  size_t idle_buffers() const;

 private:
  std::shared_ptr<Lease::Shelf> shelf_;
};

// What leases and their pool share.
struct IoBuffers::Lease::Shelf {
  explicit Shelf(FileSystem* file_system) : fs(file_system) {}

  FileSystem* const fs;
  Mutex mutex;
  std::vector<char*> idle ABSL_GUARDED_BY(mutex);
  size_t fewest_idle ABSL_GUARDED_BY(mutex) = 0;  // since the last trim
  bool ended ABSL_GUARDED_BY(mutex) = false;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_IO_BUFFERS_H_
