// Bindings of the search for garbage; see gc_bindings.cc.
#pragma once

#include <pybind11/pybind11.h>

namespace mantaray::python {

// Adds the submodule `gc`.
void BindGc(pybind11::module_& module);

}  // namespace mantaray::python
