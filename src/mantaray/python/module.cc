// The extension module mantaray._native. It has one submodule for each subsystem, and no logic of its own.

#include <pybind11/pybind11.h>

#include "mantaray/python/gc_bindings.h"
#include "mantaray/python/interpose_bindings.h"
#include "mantaray/python/refcount_bindings.h"
#include "mantaray/python/sim_bindings.h"
#include "mantaray/python/spill_bindings.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "Mantaray's native parts. Use the Python packages (mantaray.spill, ...), not this module.";
  mantaray::python::BindGc(module);
  mantaray::python::BindInterpose(module);
  mantaray::python::BindRefcount(module);
  mantaray::python::BindSim(module);
  mantaray::python::BindSpill(module);
}
