// Measures how fast the reference counter is, and how much memory a reference takes.
//
//   bazel run //src/mantaray/refcount:reference_counter_bench
//
// Claims: at least 3 million pairs of AddLocalReference and RemoveLocalReference per second on one thread, and less
// than 350 bytes for an owned object that is not nested, borrowed or located, both at 10 to 10 million live references.

#include <benchmark/benchmark.h>
#include <malloc.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "mantaray/common/clock.h"
#include "mantaray/refcount/reference_counter.h"

namespace mantaray::refcount {
namespace {

class Nowhere : public Publisher, public Subscriber {
 public:
  void PublishRefRemoved(const Address&, const RefRemovedMessage&) override {}
  void PublishObjectLocations(const ObjectLocations&) override {}
  void PublishFailure(const ObjectId&) override {}
  void SubscribeRefRemoved(const Address&, const RefRemovedSubscription&) override {}
  void UnsubscribeRefRemoved(const Address&, const ObjectId&) override {}
};

Address AddressNumber(uint64_t number) { return {WorkerId::FromNumber(number), NodeId(), "10.0.0.1", 1000}; }

uint64_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// A reference counter with many owned objects, one local reference each.
class Full {
 public:
  explicit Full(uint64_t objects) : counter_({&nowhere_, &nowhere_, &clock_, nullptr, nullptr}, {AddressNumber(1)}) {
    const uint64_t before = HeapBytes();
    OwnedObject object;
    object.object_size_bytes = 1;
    object.add_local_ref = true;
    for (uint64_t number = 0; number < objects; ++number) {
      object.object_id = ObjectId::FromNumber(number);
      benchmark::DoNotOptimize(counter_.AddOwnedObject(object));
    }
    bytes_each_ = static_cast<double>(HeapBytes() - before) / static_cast<double>(objects);
  }

  ReferenceCounter& counter() { return counter_; }
  double bytes_each() const { return bytes_each_; }

 private:
  Nowhere nowhere_;
  VirtualClock clock_;
  ReferenceCounter counter_;
  double bytes_each_ = 0;
};

// Returns objects in an order that no cache can predict.
uint64_t Scattered(uint64_t step, uint64_t objects) { return step * 0x9e3779b97f4a7c15 % objects; }

std::unique_ptr<Full> full;

void Prepare(const benchmark::State& state) { full = std::make_unique<Full>(static_cast<uint64_t>(state.range(0))); }
void Clear(const benchmark::State&) { full.reset(); }

void AddAndRemoveLocalReference(benchmark::State& state) {
  const auto objects = static_cast<uint64_t>(state.range(0));
  uint64_t step = static_cast<uint64_t>(state.thread_index()) << 40;
  for (auto _ : state) {
    const ObjectId id = ObjectId::FromNumber(Scattered(step++, objects));
    benchmark::DoNotOptimize(full->counter().AddLocalReference(id));
    benchmark::DoNotOptimize(full->counter().RemoveLocalReference(id));
  }
  state.SetItemsProcessed(state.iterations());
  if (state.thread_index() == 0) state.counters["bytes_each"] = full->bytes_each();
}
BENCHMARK(AddAndRemoveLocalReference)->RangeMultiplier(10)->Range(10, 10'000'000)->Setup(Prepare)->Teardown(Clear);
BENCHMARK(AddAndRemoveLocalReference)->Arg(1'000'000)->Threads(2)->UseRealTime()->Setup(Prepare)->Teardown(Clear);
BENCHMARK(AddAndRemoveLocalReference)->Arg(1'000'000)->Threads(4)->UseRealTime()->Setup(Prepare)->Teardown(Clear);

void PutAndDrop(benchmark::State& state) {
  OwnedObject object;
  object.add_local_ref = true;
  uint64_t number = uint64_t{1} << 40;
  for (auto _ : state) {
    object.object_id = ObjectId::FromNumber(++number);
    benchmark::DoNotOptimize(full->counter().AddOwnedObject(object));
    benchmark::DoNotOptimize(full->counter().RemoveLocalReference(object.object_id));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(PutAndDrop)->Arg(10)->Arg(1'000'000)->Setup(Prepare)->Teardown(Clear);

// Items are arguments. The time for each must not grow with their number.
void SubmitAndFinishTask(benchmark::State& state) {
  const auto arguments = static_cast<uint64_t>(state.range(1));
  std::vector<ObjectId> ids(arguments);
  const Address worker = AddressNumber(2);
  uint64_t step = 0;
  for (auto _ : state) {
    for (ObjectId& id : ids) id = ObjectId::FromNumber(Scattered(step++, static_cast<uint64_t>(state.range(0))));
    benchmark::DoNotOptimize(full->counter().UpdateSubmittedTaskReferences({}, ids));
    benchmark::DoNotOptimize(full->counter().UpdateFinishedTaskReferences({}, ids, true, worker, {}));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(arguments));
}
BENCHMARK(SubmitAndFinishTask)
    ->ArgsProduct({{10, 1'000'000}, {1, 10, 100, 1000, 10'000}})
    ->Setup(Prepare)
    ->Teardown(Clear);

// Items are borrowers: reported by one worker, merged, and cleaned up one by one.
void MergeAndCleanUpBorrowers(benchmark::State& state) {
  const auto borrowers = static_cast<uint64_t>(state.range(1));
  const ObjectId id = ObjectId::FromNumber(1);
  ObjectReferenceCount report;
  report.object_id = id;
  for (uint64_t number = 0; number < borrowers; ++number) report.borrowers.push_back(AddressNumber(100 + number));
  const Address worker = AddressNumber(2);
  for (auto _ : state) {
    benchmark::DoNotOptimize(full->counter().UpdateSubmittedTaskReferences({}, {id}));
    benchmark::DoNotOptimize(full->counter().UpdateFinishedTaskReferences({}, {id}, true, worker, {report}));
    for (const Address& borrower : report.borrowers) {
      benchmark::DoNotOptimize(full->counter().HandlePublisherFailed(borrower, id));
    }
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(borrowers));
}
BENCHMARK(MergeAndCleanUpBorrowers)
    ->ArgsProduct({{10, 1'000'000}, {1, 10, 100, 1000, 10'000}})
    ->Setup(Prepare)
    ->Teardown(Clear);

}  // namespace
}  // namespace mantaray::refcount

BENCHMARK_MAIN();
