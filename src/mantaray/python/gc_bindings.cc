// Bindings for mantaray.gc: counting the objects that a collection would look at, the search in a forked child, and the
// huge pages that make its fork short.
//
// Status becomes exception as follows: FailedPrecondition -> NotImplementedError, everything else -> OSError.

#include "mantaray/python/gc_bindings.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "mantaray/common/collapse_pages.h"
#include "mantaray/python/heap_lists.h"
#include "mantaray/python/heap_scan.h"

namespace py = pybind11;

namespace mantaray::python {
namespace {

[[noreturn]] void Raise(const absl::Status& status) {
  PyObject* const type =
      status.code() == absl::StatusCode::kFailedPrecondition ? PyExc_NotImplementedError : PyExc_OSError;
  PyErr_SetString(type, std::string(status.message()).c_str());
  throw py::error_already_set();
}

HeapLists FindLists() {
  absl::StatusOr<HeapLists> lists = HeapLists::Find();
  if (!lists.ok()) Raise(lists.status());
  return *std::move(lists);
}

std::unique_ptr<HeapScan> StartScan() {
  auto scan = std::make_unique<HeapScan>(FindLists());
  if (const absl::Status status = scan->Start(); !status.ok()) Raise(status);
  return scan;
}

py::object Progress(HeapScan& scan) {
  switch (scan.Poll()) {
    case HeapScan::State::kRunning:
      return py::none();
    case HeapScan::State::kDone:
      return py::bool_(true);
    case HeapScan::State::kFailed:
      return py::bool_(false);
  }
  return py::bool_(false);
}

size_t CollapsePages() {
  absl::StatusOr<size_t> collapsed_bytes = size_t{0};
  {
    const py::gil_scoped_release released;
    collapsed_bytes = CollapseIntoHugePages();
  }
  if (!collapsed_bytes.ok()) Raise(collapsed_bytes.status());
  return *collapsed_bytes;
}

}  // namespace

void BindGc(py::module_& module) {
  py::module_ gc = module.def_submodule("gc", "Lists of Python's garbage collector.");
  gc.def(
      "count_objects",
      [](int youngest, int oldest, size_t limit) {
        if (youngest < 0 || oldest > 3 || youngest > oldest) throw py::value_error("generations are 0 to 3");
        return FindLists().Count(youngest, oldest, limit);
      },
      py::arg("youngest"), py::arg("oldest"), py::arg("limit"));
  gc.def("collapse_pages", &CollapsePages);
  py::class_<HeapScan>(gc, "HeapScan")
      .def(py::init(&StartScan))
      .def("poll", &Progress)
      .def("stop", &HeapScan::Stop)
      .def("bring", &HeapScan::Bring, py::arg("limit"))
      .def_property_readonly("left", &HeapScan::left)
      .def_property_readonly("seen", &HeapScan::seen)
      .def_property_readonly("found", &HeapScan::found)
      .def_property_readonly("stale", &HeapScan::stale);
}

}  // namespace mantaray::python
