// Bindings of src/mantaray/sim: explores worlds of reference counters, and replays one. This releases the GIL.

#include "mantaray/python/sim_bindings.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>

#include "mantaray/sim/refcount_explorer.h"
#include "mantaray/sim/refcount_program.h"
#include "mantaray/sim/refcount_world.h"
#include "mantaray/sim/seeded_faults.h"
#include "mantaray/sim/trace.h"

namespace py = pybind11;

namespace mantaray::python {
namespace {

sim::Fault BugOf(const std::string& name) {
  const std::optional<sim::Fault> fault = sim::FaultOf(name);
  if (!fault) throw py::value_error("no bug is named '" + name + "'");
  return *fault;
}

sim::ProgramOptions OptionsOf(uint32_t processes, uint32_t steps) {
  if (processes < 2 || processes > sim::kMaxProcesses) {
    throw py::value_error("processes: " + std::to_string(processes) + " is not between 2 and " +
                          std::to_string(sim::kMaxProcesses));
  }
  return {processes, steps};
}

void Report(const sim::Outcome& outcome, py::dict* result) {
  (*result)["violation"] = outcome.violation == sim::Violation::kNone
                               ? py::object(py::none())
                               : py::object(py::str(std::string(NameOf(outcome.violation))));
  (*result)["what"] = outcome.what;
  (*result)["fingerprint"] = outcome.fingerprint;
}

py::dict Explore(uint64_t first_seed, uint64_t seeds, uint32_t processes, uint32_t steps, const std::string& bug,
                 uint32_t threads, const py::object& on_progress) {
  sim::ExploreOptions options;
  options.program = OptionsOf(processes, steps);
  options.first_seed = first_seed;
  options.seeds = seeds;
  options.fault = BugOf(bug);
  options.threads = threads;
  std::optional<py::error_already_set> interrupted;
  const auto keep_going = [&](uint64_t worlds) {
    const py::gil_scoped_acquire locked;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      return on_progress.is_none() || on_progress(worlds).cast<bool>();
    } catch (py::error_already_set& error) {
      // It is rethrown to the caller when the threads have ended.
      if (!interrupted) interrupted.emplace(error);
      return false;
    }
  };
  sim::Explored explored;
  {
    const py::gil_scoped_release unlocked;
    explored = sim::Explore(options, keep_going);
  }
  if (interrupted) throw py::error_already_set(*interrupted);
  py::dict result;
  result["worlds"] = explored.worlds;
  result["events"] = explored.events;
  result["stopped"] = explored.stopped;
  result["failing_seed"] =
      explored.failing_seed ? py::object(py::int_(*explored.failing_seed)) : py::object(py::none());
  Report(explored.outcome, &result);
  return result;
}

py::dict Replay(uint64_t seed, uint32_t processes, uint32_t steps, const std::string& bug, bool shrink) {
  const sim::Fault fault = BugOf(bug);
  sim::Program program = sim::GenerateProgram(seed, OptionsOf(processes, steps));
  sim::Outcome outcome;
  sim::Trace trace;
  {
    const py::gil_scoped_release unlocked;
    outcome = sim::RunProgram(program, fault);
    if (shrink && outcome.violation != sim::Violation::kNone) {
      program = sim::Shrink(program, fault, outcome.violation);
    }
    outcome = sim::RunProgram(program, fault, &trace);
  }
  py::dict result;
  Report(outcome, &result);
  result["events"] = outcome.events;
  result["steps"] = program.steps.size();
  result["processes"] = program.processes;
  result["trace"] = trace.ToText();
  result["diagram"] = trace.ToMermaid();
  return result;
}

}  // namespace

void BindSim(py::module_& module) {
  py::module_ sim_module = module.def_submodule("sim", "Simulated worlds: see docs/reference-counting.md.");
  py::dict bugs;
  for (const sim::SeededFault& seeded : sim::kSeededFaults) {
    bugs[py::str(std::string(seeded.name))] = std::string(seeded.summary);
  }
  sim_module.attr("BUGS") = bugs;
  sim_module.attr("MAX_PROCESSES") = sim::kMaxProcesses;
  sim_module.def("explore", &Explore, py::kw_only(), py::arg("first_seed"), py::arg("seeds"), py::arg("processes"),
                 py::arg("steps"), py::arg("bug") = "none", py::arg("threads") = 1, py::arg("on_progress") = py::none(),
                 "Runs the worlds of consecutive seeds until one is violated. `on_progress(worlds)` is called twice a "
                 "second; false ends it.");
  sim_module.def("replay", &Replay, py::arg("seed"), py::kw_only(), py::arg("processes"), py::arg("steps"),
                 py::arg("bug") = "none", py::arg("shrink") = true,
                 "Runs one world again. A violated world is shrunk first. The trace is that of the last run.");
}

}  // namespace mantaray::python
