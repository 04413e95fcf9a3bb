// Finds garbage in a heap of any size without stopping the process for the search.
//
// `Start` forks a child that shares the heap copy-on-write. The child decides which objects are unreachable, by the
// rule of CPython's collector: an object is reachable if something outside the tracked objects refers to it, or a
// reachable object does. The child only reads objects, so hardly a page is copied. It reports groups of unreachable
// objects that refer to one another. Garbage stays garbage, so the parent can act on the report later: `Bring` moves
// whole groups to the youngest generation, and a collection of that generation alone then decides about them once more
// and frees them, with finalizers and weak references as always. The stall of the parent is the fork and these short
// collections.
//
// The child is made with the raw system call. Handlers registered for fork (gRPC, OpenBLAS) do not run, descriptors are
// shared instead of duplicated, and no SIGCHLD is sent. In the child nothing allocates from malloc, because another
// thread of the parent may have held its lock at that moment.
//
// Faults this survives: a child that is killed, crashes or exceeds its deadline (the scan fails, nothing is lost),
// memory that is freed or reused between the fork and `Bring` (each object is looked at without trusting its address,
// and its whole group is passed over unless all of it is as reported).
//
// Every function needs the GIL.
#pragma once

#include <Python.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "mantaray/python/heap_lists.h"

namespace mantaray::python {

class HeapScan {
 public:
  enum class State { kRunning, kDone, kFailed };

  // At most this many unreachable objects are reported by one scan.
  static constexpr size_t kMaxFound = size_t{1} << 21;

  explicit HeapScan(const HeapLists& lists) : lists_(lists) {}
  HeapScan(const HeapScan&) = delete;
  HeapScan& operator=(const HeapScan&) = delete;
  ~HeapScan();

  // Forks the child. Returns ResourceExhausted if the system refuses. Each HeapScan is started once.
  absl::Status Start();

  // Returns the state of the child, without waiting.
  State Poll();

  // Ends the child if it still runs. The scan then has failed.
  void Stop();

  // Moves the next groups of unreachable objects to the youngest generation, as many whole groups as have `limit`
  // objects together, but at least one. Returns how many objects were moved. Call only when done, until `left()` is 0.
  size_t Bring(size_t limit);

  // How many reported objects have not been brought or passed over yet.
  size_t left() const;
  // How many objects were seen and found unreachable.
  size_t seen() const;
  size_t found() const;
  // How many reported objects were passed over because their group had changed since.
  size_t stale() const { return stale_; }

 private:
  struct Report;

  [[noreturn]] void RunChild();
  bool IsAsReported(size_t begin, size_t end) const;

  HeapLists lists_;
  Report* report_ = nullptr;
  pid_t child_ = 0;
  State state_ = State::kFailed;
  size_t next_ = 0;
  size_t stale_ = 0;
};

}  // namespace mantaray::python
