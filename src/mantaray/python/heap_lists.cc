// Finds and verifies CPython's lists of tracked objects; see the header.

#include "mantaray/python/heap_lists.h"

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mantaray::python {
namespace {

// A generation in CPython's layout.
struct Generation {
  HeapLink head;
  int threshold;
  int count;
};

// The part of the collector's state that starts with the youngest generation.
struct State {
  Generation generations[3];
  HeapLink* youngest;
  Generation permanent;
};

struct Release {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Owned = std::unique_ptr<PyObject, Release>;

absl::Status Unusable(absl::string_view what) {
  PyErr_Clear();
  return absl::FailedPreconditionError(
      absl::StrCat("the garbage collector of this Python is not laid out as expected: ", what));
}

[[maybe_unused]] bool IsSound(const HeapLink* head) {
  return PreviousOf(NextOf(head)) == head && NextOf(PreviousOf(head)) == head;
}

// Compares the thresholds with those that the module `gc` reports.
[[maybe_unused]] bool HasReportedThresholds(const State& state) {
  const Owned module(PyImport_ImportModule("gc"));
  const Owned thresholds(module ? PyObject_CallMethod(module.get(), "get_threshold", nullptr) : nullptr);
  if (!thresholds || !PyTuple_Check(thresholds.get()) || PyTuple_GET_SIZE(thresholds.get()) != 3) return false;
  for (int i = 0; i < 3; ++i) {
    if (PyLong_AsLong(PyTuple_GET_ITEM(thresholds.get(), i)) != state.generations[i].threshold) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<HeapLists> HeapLists::Find() {
#if PY_VERSION_HEX < 0x030A0000 || PY_VERSION_HEX >= 0x030E0000 || defined(Py_GIL_DISABLED)
  return Unusable("only CPython 3.10 to 3.13 with a GIL is known");
#else
  static_assert(sizeof(Generation) == 24 && offsetof(State, youngest) == 72 && offsetof(State, permanent) == 80);
  // A new object is the last of the youngest generation, so its successor is the head of that list.
  const Owned fresh(PyList_New(0));
  if (!fresh) return Unusable("no list can be made");
  HeapLink* const head = NextOf(LinkOf(fresh.get()));
  if (head == nullptr || PreviousOf(head) != LinkOf(fresh.get()))
    return Unusable("a new object is not the last of its list");
  State* const state = reinterpret_cast<State*>(head);
  if (state->youngest != head) return Unusable("the pointer to the youngest generation is elsewhere");
  if (!HasReportedThresholds(*state))
    return Unusable("the thresholds differ from those that gc.get_threshold() reports");
  const std::array<HeapLink*, 4> heads = {head, &state->generations[1].head, &state->generations[2].head,
                                          &state->permanent.head};
  for (const HeapLink* each : heads) {
    if (!IsSound(each)) return Unusable("a list is not linked in a circle");
  }
  return HeapLists(heads);
#endif
}

size_t HeapLists::Count(int youngest, int oldest, size_t limit) const {
  size_t count = 0;
  for (int i = youngest; i <= oldest; ++i) {
    for (const HeapLink* link = NextOf(heads_[i]); link != heads_[i] && count < limit; link = NextOf(link)) ++count;
  }
  return count;
}

void HeapLists::MakeYoung(HeapLink* link) const {
  HeapLink* const before = PreviousOf(link);
  HeapLink* const after = NextOf(link);
  before->next = reinterpret_cast<uintptr_t>(after) | (before->next & kHeapLinkFlags);
  after->prev = reinterpret_cast<uintptr_t>(before) | (after->prev & kHeapLinkFlags);
  HeapLink* const head = heads_[0];
  HeapLink* const last = PreviousOf(head);
  link->next = reinterpret_cast<uintptr_t>(head) | (link->next & kHeapLinkFlags);
  link->prev = reinterpret_cast<uintptr_t>(last) | (link->prev & kHeapLinkFlags);
  last->next = reinterpret_cast<uintptr_t>(link) | (last->next & kHeapLinkFlags);
  head->prev = reinterpret_cast<uintptr_t>(link) | (head->prev & kHeapLinkFlags);
}

}  // namespace mantaray::python
