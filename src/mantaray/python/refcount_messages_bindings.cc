// Bindings of the messages between reference counters; see refcount_bindings.h.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/common/ids.h"
#include "mantaray/python/refcount_bindings.h"
#include "mantaray/python/refcount_conversions.h"
#include "mantaray/refcount/messages.h"
#include "mantaray/refcount/reference_counter.h"

namespace mantaray::python {

using refcount::Address;
using refcount::LineageReconstructionEligibility;
using refcount::ObjectLocations;
using refcount::ObjectReferenceCount;
using refcount::ReferenceTable;
using refcount::RefRemovedMessage;
using refcount::RefRemovedSubscription;

void BindRefcountMessages(py::module_& module) {
  py::class_<Address>(module, "Address", "The address of a worker process. Equal worker ids are the same process.")
      .def(py::init([](const py::bytes& worker_id, const std::optional<py::bytes>& node_id, std::string ip_address,
                       int32_t port) {
             return Address{IdOf<WorkerId>(worker_id), node_id ? IdOf<NodeId>(*node_id) : NodeId(),
                            std::move(ip_address), port};
           }),
           py::arg("worker_id"), py::arg("node_id") = py::none(), py::arg("ip_address") = "", py::arg("port") = 0)
      .def_property_readonly("worker_id", [](const Address& self) { return BytesOf(self.worker_id); })
      .def_property_readonly("node_id", [](const Address& self) { return BytesOrNone(self.node_id); })
      .def_readonly("ip_address", &Address::ip_address)
      .def_readonly("port", &Address::port)
      .def("__eq__", [](const Address& self, const Address& other) { return self == other; })
      .def("__hash__", [](const Address& self) { return py::hash(BytesOf(self.worker_id)); })
      .def("__repr__", [](const Address& self) { return "Address(" + self.worker_id.Hex() + ")"; });

  py::class_<ObjectReferenceCount>(module, "ObjectReferenceCount",
                                   "What a process knows about an object that it does not own.")
      .def(py::init([](const py::bytes& object_id, const std::optional<Address>& owner_address, bool has_local_ref,
                       const std::vector<Address>& borrowers,
                       const std::vector<std::pair<py::bytes, Address>>& stored_in_objects,
                       const Ids& contained_in_borrowed_ids, const Ids& contains) {
             ObjectReferenceCount result;
             result.object_id = IdOf<ObjectId>(object_id);
             if (owner_address) result.owner_address = *owner_address;
             result.has_local_ref = has_local_ref;
             result.borrowers = borrowers;
             for (const auto& [id, owner] : stored_in_objects) {
               result.stored_in_objects.emplace_back(IdOf<ObjectId>(id), owner);
             }
             result.contained_in_borrowed_ids = IdsOf<ObjectId>(contained_in_borrowed_ids);
             result.contains = IdsOf<ObjectId>(contains);
             return result;
           }),
           py::arg("object_id"), py::arg("owner_address") = py::none(), py::arg("has_local_ref") = false,
           py::arg("borrowers") = std::vector<Address>(),
           py::arg("stored_in_objects") = std::vector<std::pair<py::bytes, Address>>(),
           py::arg("contained_in_borrowed_ids") = Ids(), py::arg("contains") = Ids())
      .def_property_readonly("object_id", [](const ObjectReferenceCount& self) { return BytesOf(self.object_id); })
      .def_property_readonly("owner_address",
                             [](const ObjectReferenceCount& self) -> std::optional<Address> {
                               if (self.owner_address.worker_id.IsNil()) return std::nullopt;
                               return self.owner_address;
                             })
      .def_readonly("has_local_ref", &ObjectReferenceCount::has_local_ref)
      .def_readonly("borrowers", &ObjectReferenceCount::borrowers)
      .def_property_readonly("stored_in_objects",
                             [](const ObjectReferenceCount& self) {
                               std::vector<std::pair<py::bytes, Address>> result;
                               for (const auto& [id, owner] : self.stored_in_objects) {
                                 result.emplace_back(BytesOf(id), owner);
                               }
                               return result;
                             })
      .def_property_readonly(
          "contained_in_borrowed_ids",
          [](const ObjectReferenceCount& self) { return BytesOfAll(self.contained_in_borrowed_ids); })
      .def_property_readonly("contains", [](const ObjectReferenceCount& self) { return BytesOfAll(self.contains); });

  py::class_<RefRemovedSubscription>(module, "RefRemovedSubscription",
                                     "An owner asks a borrower to report when it no longer uses an object.")
      .def(py::init([](const py::bytes& object_id, const Address& owner_address, uint64_t number,
                       const std::optional<py::bytes>& contained_in_id) {
             return RefRemovedSubscription{IdOf<ObjectId>(object_id), IdOrNil(contained_in_id), owner_address, number};
           }),
           py::arg("object_id"), py::arg("owner_address"), py::arg("number"), py::arg("contained_in_id") = py::none())
      .def_property_readonly("object_id", [](const RefRemovedSubscription& self) { return BytesOf(self.object_id); })
      .def_property_readonly("contained_in_id",
                             [](const RefRemovedSubscription& self) { return BytesOrNone(self.contained_in_id); })
      .def_readonly("owner_address", &RefRemovedSubscription::owner_address)
      .def_readonly("number", &RefRemovedSubscription::number);

  py::class_<RefRemovedMessage>(module, "RefRemovedMessage",
                                "A borrower reports that it no longer uses an object, and what it knew about it.")
      .def(py::init([](const py::bytes& object_id, const std::vector<uint64_t>& numbers,
                       const ReferenceTable& borrowed_refs) {
             return RefRemovedMessage{IdOf<ObjectId>(object_id), numbers, borrowed_refs};
           }),
           py::arg("object_id"), py::arg("numbers"), py::arg("borrowed_refs") = ReferenceTable())
      .def_property_readonly("object_id", [](const RefRemovedMessage& self) { return BytesOf(self.object_id); })
      .def_readonly("numbers", &RefRemovedMessage::numbers)
      .def_readonly("borrowed_refs", &RefRemovedMessage::borrowed_refs);

  py::class_<ObjectLocations>(module, "ObjectLocations", "Where an object is, as its owner knows it.")
      .def_property_readonly("object_id", [](const ObjectLocations& self) { return BytesOf(self.object_id); })
      .def_property_readonly("node_ids", [](const ObjectLocations& self) { return BytesOfAll(self.node_ids); })
      .def_readonly("object_size_bytes", &ObjectLocations::object_size_bytes)
      .def_readonly("spilled_url", &ObjectLocations::spilled_url)
      .def_property_readonly("spilled_node_id",
                             [](const ObjectLocations& self) { return BytesOrNone(self.spilled_node_id); })
      .def_property_readonly(
          "primary_node_id",
          [](const ObjectLocations& self) { return BytesOrNone(self.primary_node_id.value_or(NodeId())); })
      .def_readonly("pending_creation", &ObjectLocations::pending_creation)
      .def_readonly("did_spill", &ObjectLocations::did_spill)
      .def_readonly("ref_removed", &ObjectLocations::ref_removed);

  py::enum_<LineageReconstructionEligibility>(module, "LineageReconstructionEligibility")
      .value("ELIGIBLE", LineageReconstructionEligibility::kEligible)
      .value("INELIGIBLE_PUT", LineageReconstructionEligibility::kIneligiblePut)
      .value("INELIGIBLE_NO_RETRIES", LineageReconstructionEligibility::kIneligibleNoRetries)
      .value("INELIGIBLE_LINEAGE_EVICTED", LineageReconstructionEligibility::kIneligibleLineageEvicted)
      .value("INELIGIBLE_LINEAGE_DISABLED", LineageReconstructionEligibility::kIneligibleLineageDisabled)
      .value("INELIGIBLE_REF_NOT_FOUND", LineageReconstructionEligibility::kIneligibleRefNotFound);
}

}  // namespace mantaray::python
