// Bindings of src/mantaray/spill.

#ifndef MANTARAY_PYTHON_SPILL_BINDINGS_H_
#define MANTARAY_PYTHON_SPILL_BINDINGS_H_

#include <pybind11/pybind11.h>

namespace mantaray::python {

// Adds the submodule `spill` to `module`.
void BindSpill(pybind11::module_& module);

}  // namespace mantaray::python

#endif  // MANTARAY_PYTHON_SPILL_BINDINGS_H_
