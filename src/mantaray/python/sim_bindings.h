// Bindings of src/mantaray/sim.

#ifndef MANTARAY_PYTHON_SIM_BINDINGS_H_
#define MANTARAY_PYTHON_SIM_BINDINGS_H_

#include <pybind11/pybind11.h>

namespace mantaray::python {

// Adds the submodule `sim` to `module`.
void BindSim(pybind11::module_& module);

}  // namespace mantaray::python

#endif  // MANTARAY_PYTHON_SIM_BINDINGS_H_
