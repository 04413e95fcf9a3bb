// A reference counter with clock, transport and callbacks in Python, for the bindings of src/mantaray/refcount.

#ifndef MANTARAY_PYTHON_REFCOUNT_CALLBACKS_H_
#define MANTARAY_PYTHON_REFCOUNT_CALLBACKS_H_

#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "mantaray/common/clock.h"
#include "mantaray/common/ids.h"
#include "mantaray/common/steady_clock.h"
#include "mantaray/python/refcount_conversions.h"
#include "mantaray/refcount/messages.h"
#include "mantaray/refcount/reference_counter.h"
#include "mantaray/refcount/transport.h"

namespace mantaray::python {

// Runs a function that calls a callback. An exception of the callback, or a result of the wrong type, is reported and
// not raised, because some callbacks run in destructors, where an exception would end the process.
template <typename F>
void ReportWhatItRaises(F&& call) {
  constexpr char kWhere[] = "a callback of mantaray.native.ReferenceCounter";
  const py::gil_scoped_acquire locked;
  try {
    call();
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable(kWhere);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
    py::error_already_set().discard_as_unraisable(kWhere);
  }
}

// Calls an optional callback.
template <typename... Arguments>
void CallIfGiven(const py::object& callable, const Arguments&... arguments) {
  if (callable.is_none()) return;
  ReportWhatItRaises([&] { callable(arguments...); });
}

class PyTransport : public refcount::Publisher, public refcount::Subscriber {
 public:
  py::object publish_ref_removed;
  py::object publish_object_locations;
  py::object publish_failure;
  py::object subscribe_ref_removed;
  py::object unsubscribe_ref_removed;

  void PublishRefRemoved(const refcount::Address& owner, const refcount::RefRemovedMessage& message) override {
    CallIfGiven(publish_ref_removed, owner, message);
  }
  void PublishObjectLocations(const refcount::ObjectLocations& locations) override {
    CallIfGiven(publish_object_locations, locations);
  }
  void PublishFailure(const ObjectId& object_id) override { CallIfGiven(publish_failure, BytesOf(object_id)); }
  void SubscribeRefRemoved(const refcount::Address& borrower,
                           const refcount::RefRemovedSubscription& subscription) override {
    CallIfGiven(subscribe_ref_removed, borrower, subscription);
  }
  void UnsubscribeRefRemoved(const refcount::Address& borrower, const ObjectId& object_id) override {
    CallIfGiven(unsubscribe_ref_removed, borrower, BytesOf(object_id));
  }
};

// Everything that the caller provides, and the reference counter itself.
class PyReferenceCounter {
 public:
  PyReferenceCounter(refcount::Address address, bool lineage_pinning, py::object publish_ref_removed,
                     py::object subscribe_ref_removed, py::object unsubscribe_ref_removed,
                     py::object publish_object_locations, py::object publish_failure, const py::object& is_node_dead,
                     const py::object& log) {
    transport_.publish_ref_removed = std::move(publish_ref_removed);
    transport_.subscribe_ref_removed = std::move(subscribe_ref_removed);
    transport_.unsubscribe_ref_removed = std::move(unsubscribe_ref_removed);
    transport_.publish_object_locations = std::move(publish_object_locations);
    transport_.publish_failure = std::move(publish_failure);
    refcount::Dependencies dependencies = {&transport_, &transport_, &clock_, nullptr, nullptr};
    if (!is_node_dead.is_none()) {
      dependencies.is_node_dead = [is_node_dead](const NodeId& node_id) {
        // A node of unknown state counts as alive.
        bool dead = false;
        ReportWhatItRaises([&] { dead = is_node_dead(BytesOf(node_id)).cast<bool>(); });
        return dead;
      };
    }
    if (!log.is_none()) dependencies.log = [log](const std::string& line) { CallIfGiven(log, line); };
    counter_ = std::make_unique<refcount::ReferenceCounter>(std::move(dependencies),
                                                            refcount::Options{std::move(address), lineage_pinning});
  }

  refcount::ReferenceCounter* operator->() const { return counter_.get(); }

 private:
  PyTransport transport_;
  SteadyClock clock_;
  std::unique_ptr<refcount::ReferenceCounter> counter_;
};

}  // namespace mantaray::python

#endif  // MANTARAY_PYTHON_REFCOUNT_CALLBACKS_H_
