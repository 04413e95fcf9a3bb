// The lists in which CPython keeps the objects that its garbage collector knows: three generations and the frozen
// objects.
//
// CPython has no public way to enumerate frozen objects or to move a single object between generations. This file finds
// the list heads from an object that was just created and verifies every assumption about their layout against values
// that the module `gc` reports. It serves CPython 3.10 to 3.13 with a GIL. On any other interpreter, or if one check
// fails, `Find` returns FailedPrecondition and nothing is ever touched.
//
// Source of the layout: CPython's Include/internal/pycore_gc.h, read for facts.
//
// Every function needs the GIL.
#pragma once

#include <Python.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace mantaray::python {

// The header in front of each object that the collector tracks. The low bits of `prev` are flags of the collector.
struct HeapLink {
  uintptr_t next;
  uintptr_t prev;
};

inline constexpr uintptr_t kHeapLinkFlags = 3;

inline HeapLink* LinkAt(uintptr_t address) {
  // CPython keeps flags in the low bits of these addresses, so they are numbers until they are used.
  return reinterpret_cast<HeapLink*>(address & ~kHeapLinkFlags);  // NOLINT(performance-no-int-to-ptr)
}
inline HeapLink* NextOf(const HeapLink* link) { return LinkAt(link->next); }
inline HeapLink* PreviousOf(const HeapLink* link) { return LinkAt(link->prev); }
inline PyObject* ObjectOf(HeapLink* link) { return reinterpret_cast<PyObject*>(link + 1); }
inline HeapLink* LinkOf(PyObject* object) { return reinterpret_cast<HeapLink*>(object) - 1; }

class HeapLists {
 public:
  // Finds the lists of this interpreter.
  static absl::StatusOr<HeapLists> Find();

  // Heads of the three generations, youngest first, and of the frozen objects.
  const std::array<HeapLink*, 4>& heads() const { return heads_; }

  // Returns how many objects the generations `youngest`..`oldest` hold, counting no further than `limit`.
  size_t Count(int youngest, int oldest, size_t limit) const;

  // Moves an object from the list it is in to the youngest generation. The object must be tracked.
  void MakeYoung(HeapLink* link) const;

 private:
  explicit HeapLists(const std::array<HeapLink*, 4>& heads) : heads_(heads) {}

  std::array<HeapLink*, 4> heads_;
};

}  // namespace mantaray::python
