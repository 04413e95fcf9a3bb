// Bindings of src/mantaray/interpose.

#ifndef MANTARAY_PYTHON_INTERPOSE_BINDINGS_H_
#define MANTARAY_PYTHON_INTERPOSE_BINDINGS_H_

#include <pybind11/pybind11.h>

namespace mantaray::python {

// Adds the submodule `interpose` to `module`.
void BindInterpose(pybind11::module_& module);

}  // namespace mantaray::python

#endif  // MANTARAY_PYTHON_INTERPOSE_BINDINGS_H_
