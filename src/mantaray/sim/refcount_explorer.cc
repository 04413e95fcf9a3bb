// See refcount_explorer.h.

#include "mantaray/sim/refcount_explorer.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace mantaray::sim {
namespace {

// What the threads of one exploration share.
struct Shared {
  explicit Shared(const ExploreOptions& explore_options)
      : options(explore_options), next_seed(options.first_seed), end_seed(options.first_seed + options.seeds) {}

  const ExploreOptions options;
  std::atomic<uint64_t> next_seed;
  // Seeds from here on need not be tried. Falls to a seed that failed, so that all lower ones are tried first.
  std::atomic<uint64_t> end_seed;
  std::atomic<uint64_t> worlds{0};
  std::atomic<uint64_t> events{0};
  std::atomic<bool> stopped{false};

  std::mutex mutex;
  std::condition_variable done;
  uint32_t running = 0;
  std::optional<uint64_t> failing_seed;
  Outcome outcome;
};

void ExploreSeeds(Shared* shared) {
  while (!shared->stopped.load(std::memory_order_relaxed)) {
    const uint64_t seed = shared->next_seed.fetch_add(1, std::memory_order_relaxed);
    if (seed >= shared->end_seed.load(std::memory_order_relaxed)) break;
    Outcome outcome = RunProgram(GenerateProgram(seed, shared->options.program), shared->options.fault);
    shared->worlds.fetch_add(1, std::memory_order_relaxed);
    shared->events.fetch_add(outcome.events, std::memory_order_relaxed);
    if (outcome.violation == Violation::kNone) continue;
    const std::lock_guard<std::mutex> lock(shared->mutex);
    if (shared->failing_seed && *shared->failing_seed < seed) continue;
    shared->failing_seed = seed;
    shared->outcome = std::move(outcome);
    shared->end_seed.store(seed, std::memory_order_relaxed);
  }
  const std::lock_guard<std::mutex> lock(shared->mutex);
  --shared->running;
  shared->done.notify_all();
}

class Shrinker {
 public:
  Shrinker(Program program, Fault fault, Violation violation, uint32_t max_runs)
      : best_(std::move(program)), fault_(fault), violation_(violation), runs_left_(max_runs) {}

  Program Run() {
    bool shorter = true;
    while (shorter && runs_left_ > 0) {
      shorter = RemoveSteps();
      shorter |= Simplify();
    }
    return best_;
  }

 private:
  // Takes the candidate if it still fails the same way.
  bool Try(Program candidate) {
    if (runs_left_ == 0) return false;
    --runs_left_;
    if (RunProgram(candidate, fault_).violation != violation_) return false;
    best_ = std::move(candidate);
    return true;
  }

  bool RemoveSteps() {
    bool removed = false;
    for (size_t chunk = std::max<size_t>(1, best_.steps.size() / 2); chunk > 0; chunk /= 2) {
      for (size_t start = 0; start < best_.steps.size() && runs_left_ > 0;) {
        Program candidate = best_;
        const auto from = candidate.steps.begin() + static_cast<ptrdiff_t>(start);
        candidate.steps.erase(from, from + static_cast<ptrdiff_t>(std::min(chunk, candidate.steps.size() - start)));
        if (Try(std::move(candidate))) {
          removed = true;
        } else {
          start += chunk;
        }
      }
    }
    return removed;
  }

  bool Simplify() {
    bool simpler = false;
    for (size_t i = 0; i < best_.steps.size(); ++i) {
      simpler |= TryChange(&Step::nest, i);
      while (best_.steps[i].scripts.size() > 1) {
        Program candidate = best_;
        candidate.steps[i].scripts.pop_back();
        if (!Try(std::move(candidate))) break;
        simpler = true;
      }
      for (size_t depth = 0; depth < best_.steps[i].scripts.size(); ++depth) {
        for (int flag = 0; flag < Script::kFlags; ++flag) {
          Program candidate = best_;
          bool* const value = candidate.steps[i].scripts[depth].Flag(flag);
          if (!std::exchange(*value, false)) continue;
          simpler |= Try(std::move(candidate));
        }
      }
    }
    for (uint32_t FaultOptions::*kind :
         {&FaultOptions::cut_permille, &FaultOptions::double_permille, &FaultOptions::slow_permille}) {
      Program candidate = best_;
      if (std::exchange(candidate.faults.*kind, 0) != 0) simpler |= Try(std::move(candidate));
    }
    const bool last_process_idle =
        best_.processes > 2 && std::none_of(best_.steps.begin(), best_.steps.end(),
                                            [&](const Step& step) { return step.process + 1 == best_.processes; });
    if (last_process_idle) {
      Program candidate = best_;
      --candidate.processes;
      simpler |= Try(std::move(candidate));
    }
    return simpler;
  }

  bool TryChange(bool Step::*flag, size_t i) {
    Program candidate = best_;
    return std::exchange(candidate.steps[i].*flag, false) && Try(std::move(candidate));
  }

  Program best_;
  const Fault fault_;
  const Violation violation_;
  uint32_t runs_left_;
};

}  // namespace

Explored Explore(const ExploreOptions& options, const std::function<bool(uint64_t)>& keep_going) {
  Shared shared(options);
  shared.running = std::max<uint32_t>(1, options.threads);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < std::max<uint32_t>(1, options.threads); ++i) threads.emplace_back(ExploreSeeds, &shared);
  {
    std::unique_lock<std::mutex> lock(shared.mutex);
    const auto interval = std::chrono::milliseconds(options.progress_interval_ms);
    while (!shared.done.wait_for(lock, interval, [&] { return shared.running == 0; })) {
      lock.unlock();
      if (!keep_going(shared.worlds.load(std::memory_order_relaxed))) shared.stopped = true;
      lock.lock();
    }
  }
  for (std::thread& thread : threads) thread.join();
  Explored explored;
  explored.worlds = shared.worlds;
  explored.events = shared.events;
  explored.failing_seed = shared.failing_seed;
  explored.outcome = std::move(shared.outcome);
  explored.stopped = shared.stopped;
  return explored;
}

Program Shrink(const Program& program, Fault fault, Violation violation, uint32_t max_runs) {
  return Shrinker(program, fault, violation, max_runs).Run();
}

}  // namespace mantaray::sim
