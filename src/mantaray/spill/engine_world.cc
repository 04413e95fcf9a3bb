// How a world begins, its workers, the faults that they meet, and what happens next.

#include <algorithm>

#include "mantaray/spill/engine_world_parts.h"

namespace mantaray::spill::world {
namespace {

constexpr char kState[] = "/state/books";
constexpr char kNode[] = "node";
constexpr int kWorkerLimit = 3;

}  // namespace

WorldOutcome World::Run() {
  for (int i = 0; i < actions_ && violation_.empty(); ++i) Act();
  Quiesce();
  JudgeLive();
  DeleteAll();
  Quiesce();
  JudgeEmpty();
  for (auto& worker : workers_) worker->engine.reset();
  outcome_.violation = violation_;
  return outcome_;
}

void World::Choose() {
  options_.state_directory = kState;
  options_.cache_mode = static_cast<CacheMode>(Below(3));
  options_.max_segment_bytes = Chance(500) ? uint64_t{24} << 10 : uint64_t{1} << 20;
  options_.max_fused_bytes = 16 << 10;
  options_.reserve_bytes = 0;
  options_.read_ahead_bytes = Chance(300) ? 0 : IoBuffers::kBufferBytes;
  options_.reclaimer.punch_delay_ms = bug_ == Bug::kNoGraceTime ? 0 : kGraceMs;
  options_.reclaimer.max_pending_files = Chance(300) ? Below(3) : 128;
  options_.reclaimer.max_pending_ranges = Chance(200) ? 1 + Below(4) : 1000;
  real_.AddDisk("/state", uint64_t{1} << 30);
  const uint64_t directories = 1 + Below(2);
  for (uint64_t i = 0; i < directories; ++i) {
    const std::string disk = absl::StrCat("/", i);
    disks_.push_back(real_.AddDisk(disk, Chance(300) ? (40 + Below(100)) << 10 : uint64_t{1} << 30));
    options_.node_directories.push_back(Join(disk, kNode));
    options_.devices.push_back(disks_.back()->device);
    real_.MakeDirectory(options_.node_directories.back()).IgnoreError();
  }
  per_object_ = !Chance(100);
  unnamed_files_ = !Chance(250);
  range_locks_ = !Chance(150);
  fences_ = !Chance(300);
  raylet_is_seen_ = !Chance(400);
  torn_writes_ = Chance(500);
  large_objects_ = Chance(250);
  actions_ = 10 + static_cast<int>(Below(50));
  // Most faults are rare or absent in a world, so that those that are there have consequences of their own.
  const auto rate = [this] {
    return Chance(600) ? 0 : Chance(700) ? 5u + uint32_t(Below(20)) : 50u + uint32_t(Below(200));
  };
  for (uint32_t& permille : fault_permille_) permille = rate();
  overtaking_permille_ = rate();
  crash_permille_ = per_object_ && Chance(600) ? 100 + static_cast<uint32_t>(Below(400)) : 0;
  // Bytes that the disk refused are lost with the worker that was to write them again, so no worker ends there.
  if (crash_permille_ > 0) fault_permille_[static_cast<size_t>(Operation::kWriteback)] = 0;
  unmounts_ = Chance(200);
  damages_ = per_object_ && Chance(300);
  host_.files_of_raylet = [this] { return FilesOfRaylet(); };
  const uint64_t workers = 1 + Below(kWorkerLimit);
  for (uint64_t i = 0; i < workers; ++i) workers_.push_back(MakeWorker());
}

std::unique_ptr<Worker> World::MakeWorker() {
  auto worker = std::make_unique<Worker>(&real_, bug_);
  Worker* const self = worker.get();
  self->self = {next_pid_++, 1};
  self->fs.own_name = WorkerDirectoryName(self->self);
  self->fs.device_of = [this](const std::string& path) { return uint64_t(path[1] - '0') + 3; };
  self->fs.unnamed_files = unnamed_files_;
  self->fs.holes = per_object_;
  self->fs.range_locks = range_locks_;
  self->fs.fences = fences_;
  self->fs.torn_writes = torn_writes_;
  SetMounts(self);
  self->fs.on_writeback_failure = [this, self](int fd, uint64_t offset, uint64_t size_bytes) {
    if (!self->killed) real_.FailWriteback(fd, offset, size_bytes);
  };
  self->fs.before = [this, self](Operation operation, const std::string& path) {
    return Before(self, operation, path);
  };
  EngineOptions options = options_;
  options.self = self->self;
  self->engine = std::make_unique<Engine>(&self->fs, &clock_, &host_, &parallel_, options);
  Trace("worker ", self->self.pid);
  return worker;
}

absl::Status World::Before(Worker* worker, Operation operation, const std::string& path) {
  if (worker->killed) return absl::UnavailableError("killed");
  ++outcome_.operations;
  if (worker->crash_in >= 0 && worker->crash_in-- == 0) {
    worker->killed = true;
    Trace("killed at operation ", static_cast<int>(operation), " ", path);
    return absl::UnavailableError("killed");
  }
  if (quiet_) return absl::OkStatus();
  if (depth_ == 1 && real_.held_directory_locks() == 0 && real_.held_fences() == 0 && Chance(overtaking_permille_))
    Overtake();
  if (path.starts_with("/state") || !Chance(fault_permille_[static_cast<size_t>(operation)])) {
    return absl::OkStatus();
  }
  ++outcome_.faults;
  Trace("fault at operation ", static_cast<int>(operation), " ", path);
  return absl::UnavailableError("Input/output error");
}

void World::Overtake() {
  ++outcome_.overtakings;
  Act();
}

Worker* World::IdleWorker() {
  std::vector<Worker*> idle;
  for (const auto& worker : workers_) {
    if (!worker->busy) idle.push_back(worker.get());
  }
  return idle.empty() ? nullptr : idle[Below(idle.size())];
}

void World::Act() {
  const uint64_t choice = Below(100);
  if (choice < 10) {
    clock_.AdvanceMs(depth_ == 0 ? static_cast<int64_t>(Below(3000)) : 0);
  } else if (choice < 20) {
    StepReader();
  } else if (choice < 23 && damages_) {
    DamageOne();
  } else if (choice < 26 && unmounts_ && depth_ == 0) {
    Unmount();
  } else if (choice < 30) {
    OpenAsRaylet();
  } else if (Worker* const worker = IdleWorker(); worker != nullptr) {
    WorkerActs(worker, choice);
  }
}

void World::WorkerActs(Worker* worker, uint64_t choice) {
  worker->busy = true;
  if (Chance(crash_permille_)) worker->crash_in = static_cast<int64_t>(Below(Chance(500) ? 12 : 60));
  ++depth_;
  if (choice < 50) {
    Spill(worker);
  } else if (choice < 65) {
    Restore(worker);
  } else if (choice < 80) {
    Delete(worker);
  } else if (choice < 88) {
    Rebuild(worker);
  } else if (choice < 97 || depth_ > 1 || fault_permille_[static_cast<size_t>(Operation::kWriteback)] > 0) {
    Trace(worker->self.pid, " tick");
    worker->engine->Tick();
  } else {
    Close(worker);
  }
  --depth_;
  worker->crash_in = -1;
  worker->busy = false;
  if (worker->killed) Replace(worker);
}

}  // namespace mantaray::spill::world

namespace mantaray::spill {

WorldOutcome RunWorld(uint64_t seed, Bug bug, bool trace) { return world::World(seed, bug, trace).Run(); }

}  // namespace mantaray::spill
