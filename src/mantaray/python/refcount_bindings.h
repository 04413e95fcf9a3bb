// Bindings of src/mantaray/refcount.

#ifndef MANTARAY_PYTHON_REFCOUNT_BINDINGS_H_
#define MANTARAY_PYTHON_REFCOUNT_BINDINGS_H_

#include <pybind11/pybind11.h>

namespace mantaray::python {

// Adds the submodule `refcount` to `module`.
void BindRefcount(pybind11::module_& module);

// Adds the messages that reference counters exchange; part of BindRefcount.
void BindRefcountMessages(pybind11::module_& module);

}  // namespace mantaray::python

#endif  // MANTARAY_PYTHON_REFCOUNT_BINDINGS_H_
