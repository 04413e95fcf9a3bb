// Measures how much more a call costs if it goes through a function of Mantaray in a slot. Run it with
// `bazel run -c opt //src/mantaray/interpose:interpose_bench`.
//
// Each pair of benchmarks does the same with the library as it was loaded and with the replacement attached. The label
// of a pair says how many replaced calls an iteration makes.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "mantaray/interpose/elf_library.h"
#include "mantaray/interpose/interposition.h"
#include "mantaray/interpose/nesting_guard.h"
#include "mantaray/interpose/ray_abi.h"
#include "mantaray/interpose/refcount_guard.h"
#include "mantaray/interpose/testing/fake_raylet.h"

namespace mantaray::interpose {
namespace {

FakeRaylet& Fake() {
  static auto* const fake = new FakeRaylet;
  return *fake;
}

void ExitUnless(bool ok) {
  if (!ok) std::abort();
}

GetOwnerInternal g_original = nullptr;

bool PassOn(const RayCounter* counter, const RayObjectId* id, RayAddress* owner) {
  return g_original(counter, id, owner);
}

// A replacement that only calls the original. This shows the cost of the detour itself.
void Detour(benchmark::State& state) {
  auto interposition = *Interposition::Prepare(*ElfLibrary::FindLoaded(Fake().path()), kGetOwnerInternal.mangled);
  g_original = interposition.OriginalAs<GetOwnerInternal>();
  const bool replaced = state.range(0) != 0;
  if (replaced) ExitUnless(interposition.Attach(reinterpret_cast<uintptr_t>(&PassOn)).ok());
  for (auto unused : state) benchmark::DoNotOptimize(Fake().look_up_owner(Fake().counter, 1));
  ExitUnless(interposition.Detach().ok());
  state.SetLabel("1 call");
}

// An object without contents comes and goes: DeleteReferenceInternal and EraseReference.
void ObjectComesAndGoes(benchmark::State& state) {
  const bool replaced = state.range(0) != 0;
  if (replaced) ExitUnless(AttachNestingGuard(Fake().path()).ok());
  for (auto unused : state) {
    Fake().own(Fake().counter, 1);
    Fake().drop(Fake().counter, 1);
  }
  ExitUnless(DetachNestingGuard().ok());
  state.SetLabel("2 calls");
}

// A borrower is added and fails: WaitForRefRemoved and CleanupBorrowersOnRefRemoved.
void BorrowerComesAndGoes(benchmark::State& state) {
  const bool replaced = state.range(0) != 0;
  Fake().own(Fake().counter, 1);
  if (replaced) ExitUnless(AttachRefcountGuard(Fake().path()).ok());
  for (auto unused : state) {
    Fake().Borrow(1, 'a');
    Fake().Failed(1, 'a');
  }
  ExitUnless(DetachRefcountGuard().ok());
  Fake().drop(Fake().counter, 1);
  state.SetLabel("2 calls");
}

BENCHMARK(Detour)->ArgName("replaced")->Arg(0)->Arg(1);
BENCHMARK(ObjectComesAndGoes)->ArgName("replaced")->Arg(0)->Arg(1);
BENCHMARK(BorrowerComesAndGoes)->ArgName("replaced")->Arg(0)->Arg(1);

}  // namespace
}  // namespace mantaray::interpose

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
