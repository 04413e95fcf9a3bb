// Bindings of src/mantaray/interpose: the guards of Ray's reference counter, and single slots for tests and diagnosis.

#include "mantaray/python/interpose_bindings.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mantaray/common/ids.h"
#include "mantaray/interpose/elf_library.h"
#include "mantaray/interpose/interposition.h"
#include "mantaray/interpose/nesting_guard.h"
#include "mantaray/interpose/refcount_guard.h"
#include "mantaray/interpose/scope_watch.h"
#include "mantaray/interpose/slot.h"

namespace py = pybind11;

namespace mantaray::python {
namespace {

void RaiseUnless(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

template <typename T>
T ValueOf(absl::StatusOr<T> result) {
  RaiseUnless(result.status());
  return *std::move(result);
}

uintptr_t Held(const std::string& library_path, const std::string& mangled) {
  const interpose::ElfLibrary library = ValueOf(interpose::ElfLibrary::FindLoaded(library_path));
  return interpose::ReadSlot(ValueOf(library.SlotOf(mangled)));
}

uintptr_t Definition(const std::string& library_path, const std::string& mangled) {
  return ValueOf(ValueOf(interpose::ElfLibrary::FindLoaded(library_path)).DefinitionOf(mangled));
}

void Replace(const std::string& library_path, const std::string& mangled, uintptr_t expected, uintptr_t desired) {
  const interpose::ElfLibrary library = ValueOf(interpose::ElfLibrary::FindLoaded(library_path));
  RaiseUnless(interpose::ExchangeSlot(ValueOf(library.SlotOf(mangled)), expected, desired));
}

py::dict Counts() {
  const interpose::RefcountGuardCounts counts = interpose::RefcountGuardCountsOfNow();
  py::dict result;
  result["attached"] = counts.attached;
  result["waiting"] = counts.waiting;
  result["first_notices"] = counts.first_notices;
  result["repeated_ref_removed"] = counts.repeated_ref_removed;
  result["repeated_publisher_failed"] = counts.repeated_publisher_failed;
  result["merged_late"] = counts.merged_late;
  return result;
}

py::dict NestingCounts() {
  const interpose::NestingGuardCounts counts = interpose::NestingGuardCountsOfNow();
  py::dict result;
  result["attached"] = counts.attached;
  result["kept_outer_objects"] = counts.kept_outer_objects;
  result["repeated_releases"] = counts.repeated_releases;
  return result;
}

ObjectId IdOf(const py::bytes& binary) {
  const absl::StatusOr<ObjectId> object_id = ObjectId::FromBinary(std::string_view(binary));
  if (!object_id.ok()) throw py::value_error(std::string(object_id.status().message()));
  return *object_id;
}

void Capture(interpose::ScopeWatch& watch, const py::function& ask) {
  std::optional<py::error_already_set> raised;
  absl::Status status;
  {
    // Another thread may wait for the watch's lock while it holds the interpreter's lock.
    const py::gil_scoped_release unlocked;
    status = watch.Capture([&] {
      const py::gil_scoped_acquire locked;
      // An exception of `ask` is rethrown only when the slot holds Ray's own function again.
      try {
        ask();
      } catch (py::error_already_set& error) {
        raised.emplace(error);
      }
    });
  }
  if (raised) throw py::error_already_set(*raised);
  RaiseUnless(status);
}

py::list Take(interpose::ScopeWatch& watch) {
  py::list gone;
  for (const ObjectId& object_id : watch.Take()) gone.append(py::bytes(std::string(object_id.Binary())));
  return gone;
}

// The next two functions take the lock of Ray's counter, and a holder of that lock may wait for the interpreter's lock.

bool Add(interpose::ScopeWatch& watch, const py::bytes& binary) {
  const ObjectId object_id = IdOf(binary);
  const py::gil_scoped_release unlocked;
  return watch.Add(object_id);
}

bool IsFreed(const interpose::ScopeWatch& watch, const py::bytes& binary) {
  const ObjectId object_id = IdOf(binary);
  const py::gil_scoped_release unlocked;
  return watch.IsFreed(object_id);
}

}  // namespace

void BindInterpose(py::module_& module) {
  py::module_ interpose = module.def_submodule("interpose", "Functions of Mantaray in the slots of a loaded library.");
  interpose.def("held", &Held, py::arg("library_path"), py::arg("mangled"),
                "Returns the address that the slot of a function holds.");
  interpose.def("definition", &Definition, py::arg("library_path"), py::arg("mangled"),
                "Returns the address of a function that a loaded library defines.");
  interpose.def("replace", &Replace, py::arg("library_path"), py::arg("mangled"), py::arg("expected"),
                py::arg("desired"), "Replaces the address that the slot of a function holds.");
  interpose.def(
      "attach_refcount_guard", [](const std::string& path) { RaiseUnless(interpose::AttachRefcountGuard(path)); },
      py::arg("library_path"), "Attaches the guard to Ray's loaded library.");
  interpose.def(
      "detach_refcount_guard", [] { RaiseUnless(interpose::DetachRefcountGuard()); }, "Takes the guard back.");
  interpose.def(
      "attach_nesting_guard", [](const std::string& path) { RaiseUnless(interpose::AttachNestingGuard(path)); },
      py::arg("library_path"), "Attaches the guard for outer objects to Ray's loaded library.");
  interpose.def(
      "detach_nesting_guard", [] { RaiseUnless(interpose::DetachNestingGuard()); }, "Takes that guard back.");
  interpose.def("nesting_guard_counts", &NestingCounts, "Returns what that guard has counted in this process.");
  py::class_<interpose::ScopeWatch, std::unique_ptr<interpose::ScopeWatch, py::nodelete>>(
      interpose, "ScopeWatch", "Reports when objects of this process go out of scope.")
      .def_property_readonly("descriptor", &interpose::ScopeWatch::descriptor)
      .def("capture", &Capture, py::arg("ask"), "Finds the counter through a call of `ask`.")
      .def("add", &Add, py::arg("object_id"), "Asks Ray for a callback; False if the object is gone or freed.")
      .def("is_freed", &IsFreed, py::arg("object_id"), "Whether the object's value was freed.")
      .def("take", &Take, "Returns the ids of the objects that went out of scope since the last call.");
  interpose.def(
      "scope_watch", [](const std::string& path) { return ValueOf(interpose::ScopeWatch::Of(path)); },
      py::arg("library_path"), py::return_value_policy::reference, py::call_guard<py::gil_scoped_release>(),
      "Returns the watch of this process.");
  interpose.def("refcount_guard_counts", &Counts, "Returns what the guard has counted in this process.");
}

}  // namespace mantaray::python
