// Bindings of src/mantaray/refcount: the ReferenceCounter for tools and tests, with callables for transport and clock.
//
// The GIL is held throughout. Operations are short. Callbacks may switch threads, but they run without the reference
// counter's lock, so no thread waits for one lock while it holds the other. An exception in a callback, or a result of
// the wrong type, is reported as unraisable and not raised, because the operation that caused the callback was done.
//
// Status becomes exception as follows: NotFound -> UnknownObjectError, InvalidArgument -> ValueError, everything else
// -> ReferenceCountError.

#include "mantaray/python/refcount_bindings.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "mantaray/common/ids.h"
#include "mantaray/python/refcount_callbacks.h"
#include "mantaray/python/refcount_conversions.h"
#include "mantaray/refcount/messages.h"
#include "mantaray/refcount/reference_counter.h"

namespace mantaray::python {
namespace {

using refcount::Address;
using refcount::LineageReconstructionEligibility;
using refcount::ReferenceTable;
using refcount::RefRemovedMessage;
using refcount::RefRemovedSubscription;

struct Exceptions {
  py::object error;
  py::object unknown;
};

// Lives as long as the interpreter. The module holds the same objects.
Exceptions* exceptions = nullptr;

void RaiseUnlessOk(const absl::Status& status) {
  if (status.ok()) return;
  PyObject* type = exceptions->error.ptr();
  if (status.code() == absl::StatusCode::kNotFound) type = exceptions->unknown.ptr();
  if (status.code() == absl::StatusCode::kInvalidArgument) type = PyExc_ValueError;
  PyErr_SetString(type, std::string(status.message()).c_str());
  throw py::error_already_set();
}

refcount::ObjectCallback ObjectCallbackOf(py::function callback) {
  return [callback = std::move(callback)](const ObjectId& object_id) { CallIfGiven(callback, BytesOf(object_id)); };
}

void AddOwnedObject(PyReferenceCounter& self, const py::bytes& object_id, const Ids& contained_ids,
                    const std::string& call_site, int64_t object_size_bytes,
                    LineageReconstructionEligibility eligibility, bool add_local_ref,
                    const std::optional<py::bytes>& pinned_at_node_id) {
  refcount::OwnedObject object;
  object.object_id = IdOf<ObjectId>(object_id);
  object.contained_ids = IdsOf<ObjectId>(contained_ids);
  object.call_site = call_site;
  object.object_size_bytes = object_size_bytes;
  object.lineage_eligibility = eligibility;
  object.add_local_ref = add_local_ref;
  if (pinned_at_node_id) object.pinned_at_node_id = IdOf<NodeId>(*pinned_at_node_id);
  RaiseUnlessOk(self->AddOwnedObject(object));
}

void SetReleaseLineageCallback(PyReferenceCounter& self, py::function callback) {
  self->SetReleaseLineageCallback([callback = std::move(callback)](const ObjectId& object_id) {
    refcount::ReleasedLineage released;
    ReportWhatItRaises([&] {
      const auto result = callback(BytesOf(object_id)).cast<std::pair<Ids, int64_t>>();
      released.argument_ids = IdsOf<ObjectId>(result.first);
      released.bytes = result.second;
    });
    return released;
  });
}

py::dict StatsOf(const PyReferenceCounter& self) {
  const refcount::Stats stats = self->GetStats();
  py::dict result;
  result["repeated_ref_removed"] = stats.repeated_ref_removed;
  result["repeated_publisher_failed"] = stats.repeated_publisher_failed;
  result["repeated_subscriptions"] = stats.repeated_subscriptions;
  result["reports_too_late"] = stats.reports_too_late;
  result["broken_invariants"] = stats.broken_invariants;
  return result;
}

py::dict CountsOf(const PyReferenceCounter& self) {
  py::dict result;
  for (const auto& [object_id, counts] : self->GetAllReferenceCounts()) {
    result[BytesOf(object_id)] = py::make_tuple(counts.local, counts.submitted);
  }
  return result;
}

using Self = PyReferenceCounter;
using Deleted = std::vector<ObjectId>;

void BindReferences(py::class_<Self>& counter) {
  counter
      .def(
          "add_local_reference",
          [](Self& self, const py::bytes& object_id, const std::string& call_site) {
            RaiseUnlessOk(self->AddLocalReference(IdOf<ObjectId>(object_id), call_site));
          },
          py::arg("object_id"), py::arg("call_site") = "", "Adds a use of the object by this process.")
      .def(
          "remove_local_reference",
          [](Self& self, const py::bytes& object_id) {
            Deleted deleted;
            RaiseUnlessOk(self->RemoveLocalReference(IdOf<ObjectId>(object_id), &deleted));
            return BytesOfAll(deleted);
          },
          py::arg("object_id"), "Removes a use. Returns the ids of objects that no process needs any more.")
      .def(
          "try_release_local_refs",
          [](Self& self, const Ids& object_ids) {
            Deleted deleted;
            self->TryReleaseLocalRefs(IdsOf<ObjectId>(object_ids), &deleted);
            return BytesOfAll(deleted);
          },
          py::arg("object_ids"), "Removes a use of each object that has one.")
      .def(
          "release_all_local_references", [](Self& self) { self->ReleaseAllLocalReferences(); },
          "Removes all local references.")
      .def("add_owned_object", &AddOwnedObject, py::arg("object_id"), py::kw_only(), py::arg("contained_ids") = Ids(),
           py::arg("call_site") = "", py::arg("object_size_bytes") = -1,
           py::arg("lineage_eligibility") = LineageReconstructionEligibility::kEligible,
           py::arg("add_local_ref") = false, py::arg("pinned_at_node_id") = py::none(),
           "Adds a new object of this process.")
      .def(
          "add_dynamic_return",
          [](Self& self, const py::bytes& object_id, const py::bytes& generator_id) {
            RaiseUnlessOk(self->AddDynamicReturn(IdOf<ObjectId>(object_id), IdOf<ObjectId>(generator_id)));
          },
          py::arg("object_id"), py::arg("generator_id"), "Adds a return value that became known when the task ran.")
      .def(
          "own_dynamic_streaming_task_return_ref",
          [](Self& self, const py::bytes& object_id, const py::bytes& generator_id) {
            RaiseUnlessOk(
                self->OwnDynamicStreamingTaskReturnRef(IdOf<ObjectId>(object_id), IdOf<ObjectId>(generator_id)));
          },
          py::arg("object_id"), py::arg("generator_id"), "The same for a streaming generator, with a local reference.")
      .def(
          "add_borrowed_object",
          [](Self& self, const py::bytes& object_id, const std::optional<py::bytes>& outer_id,
             const Address& owner_address, bool foreign_owner_already_monitoring) {
            RaiseUnlessOk(self->AddBorrowedObject(IdOf<ObjectId>(object_id), IdOrNil(outer_id), owner_address,
                                                  foreign_owner_already_monitoring));
          },
          py::arg("object_id"), py::arg("outer_id"), py::arg("owner_address"),
          py::arg("foreign_owner_already_monitoring") = false,
          "Adds an object of another process, found in the value of `outer_id` or of none.")
      .def(
          "add_nested_object_ids",
          [](Self& self, const py::bytes& object_id, const Ids& inner_ids, const Address& owner_address) {
            RaiseUnlessOk(
                self->AddNestedObjectIds(IdOf<ObjectId>(object_id), IdsOf<ObjectId>(inner_ids), owner_address));
          },
          py::arg("object_id"), py::arg("inner_ids"), py::arg("owner_address"),
          "Records that the value of `object_id`, which belongs to `owner_address`, contains `inner_ids`.")
      .def(
          "add_borrower_address",
          [](Self& self, const py::bytes& object_id, const Address& borrower) {
            RaiseUnlessOk(self->AddBorrowerAddress(IdOf<ObjectId>(object_id), borrower));
          },
          py::arg("object_id"), py::arg("borrower"),
          "Adds a process that is known to borrow an object of this process.");
}

void BindTasks(py::class_<Self>& counter) {
  counter
      .def(
          "update_submitted_task_references",
          [](Self& self, const Ids& return_ids, const Ids& to_add, const Ids& to_remove) {
            Deleted deleted;
            RaiseUnlessOk(self->UpdateSubmittedTaskReferences(IdsOf<ObjectId>(return_ids), IdsOf<ObjectId>(to_add),
                                                              IdsOf<ObjectId>(to_remove), &deleted));
            return BytesOfAll(deleted);
          },
          py::arg("return_ids"), py::arg("argument_ids_to_add"), py::arg("argument_ids_to_remove") = Ids(),
          "Records that a task with these arguments was submitted.")
      .def(
          "update_resubmitted_task_references",
          [](Self& self, const Ids& argument_ids) {
            RaiseUnlessOk(self->UpdateResubmittedTaskReferences(IdsOf<ObjectId>(argument_ids)));
          },
          py::arg("argument_ids"), "Records that a task with these arguments runs again.")
      .def(
          "update_finished_task_references",
          [](Self& self, const Ids& return_ids, const Ids& argument_ids, bool release_lineage, const Address& worker,
             const ReferenceTable& borrowed_refs) {
            Deleted deleted;
            RaiseUnlessOk(self->UpdateFinishedTaskReferences(IdsOf<ObjectId>(return_ids), IdsOf<ObjectId>(argument_ids),
                                                             release_lineage, worker, borrowed_refs, &deleted));
            return BytesOfAll(deleted);
          },
          py::arg("return_ids"), py::arg("argument_ids"), py::arg("release_lineage"), py::arg("worker"),
          py::arg("borrowed_refs") = ReferenceTable(),
          "Records that a task has finished at `worker`, which reported `borrowed_refs`.")
      .def(
          "pop_and_clear_local_borrowers",
          [](Self& self, const Ids& borrowed_ids) {
            Deleted deleted;
            absl::StatusOr<ReferenceTable> table =
                self->PopAndClearLocalBorrowers(IdsOf<ObjectId>(borrowed_ids), &deleted);
            RaiseUnlessOk(table.status());
            return std::make_pair(*std::move(table), BytesOfAll(deleted));
          },
          py::arg("borrowed_ids"),
          "The task that these arguments were held for has finished. Returns what its caller has to know, and the ids "
          "of objects that nobody here needs any more.")
      .def("set_release_lineage_callback", &SetReleaseLineageCallback, py::arg("callback"),
           "Calls `callback(return id) -> (argument ids, bytes)` when the lineage of a return value is not needed.")
      .def(
          "evict_lineage", [](Self& self, int64_t min_bytes) { return self->EvictLineage(min_bytes); },
          py::arg("min_bytes_to_evict"), "Drops the lineage of the oldest objects; returns how many bytes it freed.")
      .def(
          "get_lineage_reconstruction_eligibility",
          [](const Self& self, const py::bytes& object_id) {
            return self->GetLineageReconstructionEligibility(IdOf<ObjectId>(object_id));
          },
          py::arg("object_id"));
}

void BindProtocol(py::class_<Self>& counter) {
  counter
      .def(
          "subscribe_ref_removed",
          [](Self& self, const RefRemovedSubscription& subscription) {
            RaiseUnlessOk(self->SubscribeRefRemoved(subscription));
          },
          py::arg("subscription"), "At a borrower: an owner asks.")
      .def(
          "handle_ref_removed",
          [](Self& self, const Address& borrower, const RefRemovedMessage& message) {
            RaiseUnlessOk(self->HandleRefRemoved(borrower, message));
          },
          py::arg("borrower"), py::arg("message"), "At an owner: a borrower answers. May come any number of times.")
      .def(
          "handle_publisher_failed",
          [](Self& self, const Address& borrower, const py::bytes& object_id) {
            RaiseUnlessOk(self->HandlePublisherFailed(borrower, IdOf<ObjectId>(object_id)));
          },
          py::arg("borrower"), py::arg("object_id"),
          "At an owner: a borrower cannot answer any more. May come any number of times.");
}

void BindEnd(py::class_<Self>& counter) {
  counter
      .def(
          "add_object_out_of_scope_or_freed_callback",
          [](Self& self, const py::bytes& object_id, py::function callback) {
            return self->AddObjectOutOfScopeOrFreedCallback(IdOf<ObjectId>(object_id),
                                                            ObjectCallbackOf(std::move(callback)));
          },
          py::arg("object_id"), py::arg("callback"),
          "Calls back once, with the id. False if this has happened already.")
      .def(
          "add_object_ref_deleted_callback",
          [](Self& self, const py::bytes& object_id, py::function callback) {
            return self->AddObjectRefDeletedCallback(IdOf<ObjectId>(object_id), ObjectCallbackOf(std::move(callback)));
          },
          py::arg("object_id"), py::arg("callback"), "Calls back once, with the id, when the entry is deleted.")
      .def(
          "free_plasma_objects",
          [](Self& self, const Ids& object_ids) { self->FreePlasmaObjects(IdsOf<ObjectId>(object_ids)); },
          py::arg("object_ids"), "Frees values although they are in use.")
      .def(
          "is_plasma_object_freed",
          [](const Self& self, const py::bytes& id) { return self->IsPlasmaObjectFreed(IdOf<ObjectId>(id)); },
          py::arg("object_id"))
      .def(
          "try_mark_freed_object_in_use_again",
          [](Self& self, const py::bytes& id) { return self->TryMarkFreedObjectInUseAgain(IdOf<ObjectId>(id)); },
          py::arg("object_id"))
      .def(
          "drain_and_shutdown",
          [](Self& self, py::function shutdown) {
            self->DrainAndShutdown([shutdown = std::move(shutdown)] { CallIfGiven(shutdown); });
          },
          py::arg("shutdown"), "Calls back once, when the table is empty.");
}

void BindLocations(py::class_<Self>& counter) {
  counter
      .def(
          "add_object_location",
          [](Self& self, const py::bytes& object_id, const py::bytes& node_id) {
            return self->AddObjectLocation(IdOf<ObjectId>(object_id), IdOf<NodeId>(node_id));
          },
          py::arg("object_id"), py::arg("node_id"))
      .def(
          "remove_object_location",
          [](Self& self, const py::bytes& object_id, const py::bytes& node_id) {
            return self->RemoveObjectLocation(IdOf<ObjectId>(object_id), IdOf<NodeId>(node_id));
          },
          py::arg("object_id"), py::arg("node_id"))
      .def(
          "get_object_locations",
          [](const Self& self, const py::bytes& object_id) -> std::optional<Ids> {
            const auto nodes = self->GetObjectLocations(IdOf<ObjectId>(object_id));
            if (!nodes) return std::nullopt;
            return BytesOfAll(*nodes);
          },
          py::arg("object_id"))
      .def(
          "update_object_size",
          [](Self& self, const py::bytes& id, int64_t bytes) { self->UpdateObjectSize(IdOf<ObjectId>(id), bytes); },
          py::arg("object_id"), py::arg("object_size_bytes"))
      .def(
          "update_object_pinned_at_raylet",
          [](Self& self, const py::bytes& object_id, const py::bytes& node_id) {
            RaiseUnlessOk(self->UpdateObjectPinnedAtRaylet(IdOf<ObjectId>(object_id), IdOf<NodeId>(node_id)));
          },
          py::arg("object_id"), py::arg("node_id"))
      .def(
          "is_plasma_object_pinned_or_spilled",
          [](const Self& self, const py::bytes& id) -> std::optional<std::tuple<bool, std::optional<py::bytes>, bool>> {
            const auto found = self->IsPlasmaObjectPinnedOrSpilled(IdOf<ObjectId>(id));
            if (!found) return std::nullopt;
            return std::make_tuple(found->owned_by_us, BytesOrNone(found->pinned_at.value_or(NodeId())),
                                   found->spilled);
          },
          py::arg("object_id"),
          "(owned by this process, node of the primary copy or None, spilled), or None when unknown.")
      .def(
          "handle_object_spilled",
          [](Self& self, const py::bytes& id, const std::string& url, const std::optional<py::bytes>& node_id) {
            return self->HandleObjectSpilled(IdOf<ObjectId>(id), url, node_id ? IdOf<NodeId>(*node_id) : NodeId());
          },
          py::arg("object_id"), py::arg("spilled_url"), py::arg("spilled_node_id") = py::none())
      .def(
          "reset_objects_on_removed_node",
          [](Self& self, const py::bytes& node_id) { self->ResetObjectsOnRemovedNode(IdOf<NodeId>(node_id)); },
          py::arg("node_id"))
      .def("flush_objects_to_recover", [](Self& self) { return BytesOfAll(self->FlushObjectsToRecover()); })
      .def(
          "get_locality_data",
          [](const Self& self, const py::bytes& id) -> std::optional<std::pair<int64_t, Ids>> {
            const auto data = self->GetLocalityData(IdOf<ObjectId>(id));
            if (!data) return std::nullopt;
            return std::make_pair(data->object_size_bytes, BytesOfAll(data->nodes));
          },
          py::arg("object_id"), "(size in bytes, nodes), or None when not known.")
      .def(
          "report_locality_data",
          [](Self& self, const py::bytes& id, const Ids& locations, int64_t bytes) {
            const absl::StatusOr<bool> known =
                self->ReportLocalityData(IdOf<ObjectId>(id), IdsOf<NodeId>(locations), bytes);
            RaiseUnlessOk(known.status());
            return *known;
          },
          py::arg("object_id"), py::arg("locations"), py::arg("object_size_bytes"))
      .def(
          "update_object_pending_creation",
          [](Self& self, const py::bytes& id, bool pending) {
            self->UpdateObjectPendingCreation(IdOf<ObjectId>(id), pending);
          },
          py::arg("object_id"), py::arg("pending_creation"))
      .def(
          "is_object_pending_creation",
          [](const Self& self, const py::bytes& id) { return self->IsObjectPendingCreation(IdOf<ObjectId>(id)); },
          py::arg("object_id"))
      .def(
          "publish_object_location_snapshot",
          [](Self& self, const py::bytes& id) { self->PublishObjectLocationSnapshot(IdOf<ObjectId>(id)); },
          py::arg("object_id"))
      .def(
          "fill_object_information",
          [](const Self& self, const py::bytes& id) { return self->FillObjectInformation(IdOf<ObjectId>(id)); },
          py::arg("object_id"));
}

void BindQuestions(py::class_<Self>& counter) {
  counter.def("__len__", [](const Self& self) { return self->Size(); })
      .def("num_objects_owned_by_us", [](const Self& self) { return self->NumObjectsOwnedByUs(); })
      .def(
          "has_reference", [](const Self& self, const py::bytes& id) { return self->HasReference(IdOf<ObjectId>(id)); },
          py::arg("object_id"))
      .def(
          "owned_by_us", [](const Self& self, const py::bytes& id) { return self->OwnedByUs(IdOf<ObjectId>(id)); },
          py::arg("object_id"))
      .def(
          "get_owner", [](const Self& self, const py::bytes& id) { return self->GetOwner(IdOf<ObjectId>(id)); },
          py::arg("object_id"), "The owner's address, or None when it is not known.")
      .def("get_all_in_scope_object_ids",
           [](const Self& self) { return py::set(py::cast(BytesOfAll(self->GetAllInScopeObjectIDs()))); })
      .def("get_all_reference_counts", &CountsOf,
           "(local references, submitted task references) of every object in the table.")
      .def("get_stats", &StatsOf, "Counters; see Stats in src/mantaray/refcount/reference_counter.h.")
      .def(
          "debug_string", [](const Self& self, const py::bytes& id) { return self->DebugString(IdOf<ObjectId>(id)); },
          py::arg("object_id"), "One object in words.")
      .def(
          "check_invariants", [](const Self& self) { RaiseUnlessOk(self->CheckInvariants()); },
          "Raises ReferenceCountError if the table is not consistent.");
}

}  // namespace

void BindRefcount(py::module_& module) {
  py::module_ refcount_module = module.def_submodule("refcount", "Reference counting: see docs/reference-counting.md.");
  const py::exception<void> error(refcount_module, "ReferenceCountError", PyExc_RuntimeError);
  exceptions = new Exceptions{error, py::exception<void>(refcount_module, "UnknownObjectError", error.ptr())};
  BindRefcountMessages(refcount_module);
  py::class_<PyReferenceCounter> counter(
      refcount_module, "ReferenceCounter",
      "Tracks the objects that a process uses and owns, and their other users. Ids are 28 bytes. Thread-safe.");
  counter.def(
      py::init<Address, bool, py::object, py::object, py::object, py::object, py::object, py::object, py::object>(),
      py::arg("address"), py::kw_only(), py::arg("lineage_pinning") = false,
      py::arg("publish_ref_removed") = py::none(), py::arg("subscribe_ref_removed") = py::none(),
      py::arg("unsubscribe_ref_removed") = py::none(), py::arg("publish_object_locations") = py::none(),
      py::arg("publish_failure") = py::none(), py::arg("is_node_dead") = py::none(), py::arg("log") = py::none());
  BindReferences(counter);
  BindTasks(counter);
  BindProtocol(counter);
  BindEnd(counter);
  BindLocations(counter);
  BindQuestions(counter);
}

}  // namespace mantaray::python
