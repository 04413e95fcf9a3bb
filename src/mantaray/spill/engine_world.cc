// Actions, faults, judgement.

#include "mantaray/spill/engine_world.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "mantaray/spill/engine.h"
#include "mantaray/spill/memory_file_system.h"

namespace mantaray::spill {
namespace {

constexpr char kState[] = "/state/books";
constexpr char kNode[] = "node";
constexpr int64_t kGraceMs = 2000;
constexpr int kWorkerLimit = 3;

struct Object {
  ObjectId id{};
  std::string address;
  std::string payload;
  std::string former_payload;  // before it was rebuilt
  enum { kInMemory, kSpilled, kDeleted } state = kInMemory;
  std::string url;
  std::string path;      // of the URL
  bool damaged = false;  // by the world; it may be reported as lost, and rebuilt
  bool busy = false;     // an action is under way on it
  bool refused = false;  // its worker died before the disk had taken its bytes
  int64_t deleted_ms = -1;
};

struct Worker {
  Worker(FileSystem* real, Bug bug) : fs(real, bug) {}

  BuggyFileSystem fs;
  std::unique_ptr<Engine> engine;
  ProcessId self;
  bool busy = false;
  bool killed = false;
  int64_t crash_in = -1;  // operations
};

// A restore under way. The raylet reads without a lock, past our readers.
struct Reader {
  size_t object = 0;
  std::optional<ObjectReader> ours;
  std::optional<OwnedFile> raylets;
  std::string payload;
  bool doubtful = false;  // it may see damage
  bool earlier = false;   // it was opened before other things happened
};

class World {
 public:
  World(uint64_t seed, Bug bug, bool trace) : random_(seed), bug_(bug), trace_(trace), host_(bug) { Choose(); }

  WorldOutcome Run() {
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

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }
  bool Chance(uint32_t permille) { return Below(1000) < permille; }
  template <typename... Parts>
  void Trace(const Parts&... parts) {
    if (trace_)
      std::printf("%6lld %*s%s\n", static_cast<long long>(clock_.NowMs()), 2 * depth_, "",
                  absl::StrCat(parts...).c_str());
  }
  template <typename... Parts>
  void Violated(const Parts&... parts) {
    if (violation_.empty()) violation_ = absl::StrCat(parts...);
    Trace("VIOLATION ", violation_);
  }
  static std::string Hex(const ObjectId& id) { return absl::BytesToHexString({id.data(), id.size()}); }

  void Choose() {
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
    // Bytes that the disk refused are lost with the worker that was to write them again.
    if (crash_permille_ > 0) fault_permille_[static_cast<size_t>(Operation::kWriteback)] = 0;
    unmounts_ = Chance(200);
    damages_ = per_object_ && Chance(300);
    const uint64_t workers = 1 + Below(kWorkerLimit);
    for (uint64_t i = 0; i < workers; ++i) workers_.push_back(MakeWorker());
  }

  using Operation = FaultyFileSystem::Operation;

  std::unique_ptr<Worker> MakeWorker() {
    auto worker = std::make_unique<Worker>(&real_, bug_);
    Worker* const self = worker.get();
    self->self = {next_pid_++, 1};
    self->fs.own_name = WorkerDirectoryName(self->self);
    self->fs.device_of = [this](const std::string& path) { return uint64_t(path[1] - '0') + 3; };
    self->fs.unnamed_files = unnamed_files_;
    self->fs.holes = per_object_;
    self->fs.range_locks = range_locks_;
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

  // Decides about one operation of a worker.
  absl::Status Before(Worker* worker, Operation operation, const std::string& path) {
    if (worker->killed) return absl::UnavailableError("killed");
    ++outcome_.operations;
    if (worker->crash_in >= 0 && worker->crash_in-- == 0) {
      worker->killed = true;
      Trace("killed at operation ", static_cast<int>(operation), " ", path);
      return absl::UnavailableError("killed");
    }
    if (quiet_) return absl::OkStatus();
    if (depth_ == 1 && real_.held_directory_locks() == 0 && Chance(overtaking_permille_)) Overtake();
    if (path.starts_with("/state") || !Chance(fault_permille_[static_cast<size_t>(operation)])) {
      return absl::OkStatus();
    }
    ++outcome_.faults;
    Trace("fault at operation ", static_cast<int>(operation), " ", path);
    return absl::UnavailableError("Input/output error");
  }

  void Overtake() {
    ++outcome_.overtakings;
    Act();
  }

  Worker* IdleWorker() {
    std::vector<Worker*> idle;
    for (const auto& worker : workers_) {
      if (!worker->busy) idle.push_back(worker.get());
    }
    return idle.empty() ? nullptr : idle[Below(idle.size())];
  }

  void Act() {
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

  // One call of a worker, in which it may die.
  void WorkerActs(Worker* worker, uint64_t choice) {
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
    } else if (choice < 97 || depth_ > 1) {
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

  // A new process takes the place of one that died or ended.
  void Replace(Worker* worker) {
    ++outcome_.crashes;
    // Our readers hold files and buffers of the engine.
    std::erase_if(readers_, [&](const Reader& reader) { return reader.ours.has_value(); });
    worker->engine.reset();
    host_.dead.insert(worker->self.pid);
    for (auto& place : workers_) {
      if (place.get() == worker) place = MakeWorker();
    }
  }

  void Close(Worker* worker) {
    Trace(worker->self.pid, " close");
    clock_.AdvanceMs(worker->engine->CloseDelayMs());
    worker->engine->Close();
    worker->killed = true;
  }

  std::vector<size_t> Known(int state) const {
    std::vector<size_t> found;
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (objects_[i].state == state && !objects_[i].busy) found.push_back(i);
    }
    return found;
  }
  std::optional<size_t> OneOf(const std::vector<size_t>& choices) {
    if (choices.empty()) return std::nullopt;
    return choices[Below(choices.size())];
  }

  std::string MakePayload() {
    const bool large = large_objects_ && Chance(200);
    std::string payload(large ? 66000 + Below(60000) : Below(Chance(700) ? 3500 : 12000), '\0');
    uint64_t word = random_();
    for (char& byte : payload)
      byte = static_cast<char>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
    return payload;
  }

  void Spill(Worker* worker) {
    std::vector<size_t> chosen;
    const uint64_t count = 1 + Below(8);
    for (size_t waiting : Known(Object::kInMemory)) {
      if (chosen.size() < count && Chance(700)) chosen.push_back(waiting);
    }
    while (chosen.size() < count) {
      Object object;
      for (char& byte : object.id) byte = static_cast<char>(random_());
      object.address = absl::StrCat("owner-", Below(3));
      object.payload = MakePayload();
      chosen.push_back(objects_.size());
      objects_.push_back(std::move(object));
    }
    std::vector<ObjectToSpill> views;
    for (size_t i : chosen) {
      objects_[i].busy = true;
      views.push_back({objects_[i].id, objects_[i].address, "m", objects_[i].payload});
    }
    Trace(worker->self.pid, " spill ", chosen.size());
    const auto urls = worker->engine->Spill(views);
    // A worker that dies now has reported nothing.
    if (Chance(crash_permille_ / 10)) worker->killed = true;
    for (size_t i = 0; i < chosen.size(); ++i) {
      Object& object = objects_[chosen[i]];
      object.busy = false;
      if (worker->killed || !urls.ok() || i >= urls->size()) continue;
      object.state = Object::kSpilled;
      object.url = (*urls)[i];
      object.path = ParseUrl(object.url)->path;
      ++users_[object.path];
    }
    Trace("-> ", urls.ok() ? absl::StrCat(urls->size(), " urls") : urls.status().ToString());
  }

  // What an Open or a read may end with.
  void JudgeError(const Object& object, const absl::Status& status, absl::string_view what) {
    if (object.state != Object::kSpilled || object.damaged || object.refused) return;
    if (absl::IsDataLoss(status) || absl::IsNotFound(status)) {
      Violated(what, " of ", Hex(object.id).substr(0, 8), " which is alive and well: ", status.ToString());
    } else if (quiet_) {
      Violated(what, " of ", Hex(object.id).substr(0, 8), " fails without a fault: ", status.ToString());
    }
  }

  void JudgeBytes(const Object& object, absl::string_view payload, bool opened_earlier) {
    const bool former = object.damaged || (opened_earlier && !object.former_payload.empty());
    if (payload == object.payload || (former && payload == object.former_payload)) return;
    Violated("wrong bytes read of ", Hex(object.id).substr(0, 8));
  }

  void Restore(Worker* worker) {
    if (const auto chosen = OneOf(Known(Object::kSpilled))) Restore(worker, *chosen, Chance(500));
  }

  void Restore(Worker* worker, size_t number, bool at_once) {
    const Object before = objects_[number];
    Trace(worker->self.pid, " open ", Hex(before.id).substr(0, 8));
    auto reader = worker->engine->Open(before.url, before.id);
    const Object& object = objects_[number];
    const bool same = object.state == before.state && object.damaged == before.damaged;
    if (worker->killed) return;
    if (!reader.ok()) {
      Trace("-> ", reader.status().ToString());
      if (same) JudgeError(object, reader.status(), "opening");
      return;
    }
    Reader restore{number, std::move(*reader), std::nullopt, "", object.damaged || object.state != Object::kSpilled};
    if (at_once) {
      Finish(&restore);
    } else {
      restore.earlier = true;
      readers_.push_back(std::move(restore));
    }
  }

  void OpenAsRaylet() {
    const auto chosen = OneOf(Known(Object::kSpilled));
    if (!chosen || !vanished_.empty()) return;
    const Object& object = objects_[*chosen];
    auto file = real_.Open(object.path, /*writable=*/false);
    if (object.damaged || object.refused) return;
    if (!file.ok()) return Violated("the file of ", Hex(object.id).substr(0, 8), " is gone");
    readers_.push_back({*chosen, std::nullopt, std::move(*file), "", false});
  }

  void StepReader() {
    if (readers_.empty()) return;
    const size_t at = Below(readers_.size());
    Reader reader = std::move(readers_[at]);
    readers_.erase(readers_.begin() + static_cast<std::ptrdiff_t>(at));
    Finish(&reader);
  }

  void Finish(Reader* reader) {
    const Object& object = objects_[reader->object];
    if (reader->raylets) return FinishRaylets(reader);
    std::string payload(reader->ours->payload_bytes(), '\0');
    const bool quiet = std::exchange(quiet_, true);  // the reads of a reader are tried again by its caller
    const absl::Status status = reader->ours->ReadPayload(payload, &parallel_);
    quiet_ = quiet;
    if (status.ok()) return JudgeBytes(object, payload, reader->earlier);
    if (absl::IsUnavailable(status)) return;  // the worker died
    // Without locks a reader has the grace time.
    const bool late = !range_locks_ && object.state == Object::kDeleted;
    if (!reader->doubtful && !object.damaged && !object.refused && !late &&
        fault_permille_[size_t(Operation::kLockRange)] == 0) {
      Violated("reading ", Hex(object.id).substr(0, 8), " that was opened whole: ", status.ToString());
    }
  }

  void FinishRaylets(Reader* reader) {
    const Object& object = objects_[reader->object];
    if (object.damaged) return;
    if (object.state == Object::kDeleted && clock_.NowMs() >= object.deleted_ms + kGraceMs) return;
    const ParsedUrl url = *ParseUrl(object.url);
    const uint64_t header_bytes = kLengthsBytes + object.address.size() + 1;
    std::string payload(object.payload.size(), '\0');
    real_.Read(reader->raylets->fd(), payload.data(), payload.size(), url.offset + header_bytes).IgnoreError();
    if (payload != object.payload && object.former_payload.empty()) {
      Violated("the raylet reads wrong bytes of ", Hex(object.id).substr(0, 8), " within the grace time");
    }
  }

  void Delete(Worker* worker) {
    std::vector<size_t> chosen;
    for (size_t number : Known(Object::kSpilled)) {
      if (chosen.size() < 4 && Chance(400)) chosen.push_back(number);
    }
    Delete(worker, chosen);
  }

  void Delete(Worker* worker, const std::vector<size_t>& chosen) {
    std::vector<std::string> urls = std::exchange(undeleted_, {});
    for (size_t number : chosen) {
      Object& object = objects_[number];
      object.state = Object::kDeleted;
      object.deleted_ms = clock_.NowMs();
      // The raylet asks for a file when none of its objects is left.
      if (--users_[object.path] == 0) urls.push_back(object.url);
    }
    Trace(worker->self.pid, " delete ", urls.size());
    const absl::Status status = worker->engine->Delete(urls);
    Trace("-> ", status.ToString());
    // The raylet asks the next worker when this one died.
    if (worker->killed || !status.ok()) undeleted_.insert(undeleted_.end(), urls.begin(), urls.end());
  }

  void DamageOne() {
    const auto chosen = OneOf(Known(Object::kSpilled));
    if (!chosen || objects_[*chosen].damaged || !vanished_.empty()) return;
    Object& object = objects_[*chosen];
    object.damaged = true;
    Trace("damage ", Hex(object.id).substr(0, 8));
    if (Chance(300)) {
      real_.Unlink(object.path).IgnoreError();
      return;
    }
    const auto file = real_.Open(object.path, /*writable=*/true);
    if (!file.ok()) return;
    const uint64_t at =
        ParseUrl(object.url)->offset + Below(kLengthsBytes + object.address.size() + object.payload.size());
    char byte = 0;
    real_.Read(file->fd(), &byte, 1, at).IgnoreError();
    byte = static_cast<char>(byte ^ 0x10);
    std::vector<iovec> vectors{{&byte, 1}};
    real_.SetDirect(file->fd()).IgnoreError();
    real_.Write(file->fd(), &vectors, at).IgnoreError();
  }

  // Ray has made a damaged object again, perhaps with another size.
  void Rebuild(Worker* worker) {
    std::vector<size_t> damaged;
    for (size_t number : Known(Object::kSpilled)) {
      if (objects_[number].damaged) damaged.push_back(number);
    }
    if (const auto chosen = OneOf(damaged)) Rebuild(worker, *chosen);
  }

  void Rebuild(Worker* worker, size_t number) {
    Object& object = objects_[number];
    if (object.former_payload.empty()) {
      object.former_payload = object.payload;
      if (Chance(300)) object.payload = MakePayload();
    }
    object.busy = true;
    Trace(worker->self.pid, " rebuild ", Hex(object.id).substr(0, 8), " ", object.payload.size());
    const ObjectId id = object.id;
    const std::string address = object.address, payload = object.payload, url = object.url;
    const absl::Status status = worker->engine->Replace(url, {id, address, "m", payload});
    objects_[number].busy = false;
    Trace("-> ", status.ToString());
    if (status.ok() && !worker->killed) objects_[number].damaged = false;
  }

  void Unmount() {
    vanished_ = vanished_.empty() ? absl::StrCat("/", Below(disks_.size()), "/") : "";
    Trace("unmounted: ", vanished_);
    for (const auto& worker : workers_) SetMounts(worker.get());
  }

  // Where a disk was unmounted, another one appears.
  void SetMounts(Worker* worker) {
    worker->fs.vanished = vanished_;
    worker->fs.devices.clear();
    if (!vanished_.empty()) worker->fs.devices[vanished_.substr(0, vanished_.size() - 1)] = 99;
  }

  // Faults end, disks are back and have room, and time passes.
  void Quiesce() {
    quiet_ = true;
    vanished_.clear();
    for (MemoryFileSystem::Disk* disk : disks_) disk->capacity_blocks = 1 << 18;
    for (const auto& worker : workers_) SetMounts(worker.get());
    while (!readers_.empty()) StepReader();
    ++depth_;
    if (!undeleted_.empty()) Delete(workers_.front().get(), {});
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (objects_[i].state == Object::kSpilled && objects_[i].damaged) Rebuild(workers_.front().get(), i);
    }
    for (int i = 0; i < 26; ++i) {
      clock_.AdvanceMs(5000);
      for (const auto& worker : workers_) worker->engine->Tick();
    }
    --depth_;
  }

  // Whether a file that no live object names is one of the allowed leaks.
  bool MayStay(const LinkName& link) const {
    // A sweep may have failed for as long as the worker lived that spilled the object again.
    const bool unswept = crash_permille_ > 0 && (unmounts_ || fault_permille_[size_t(Operation::kList)] > 0 ||
                                                 fault_permille_[size_t(Operation::kOpen)] > 0);
    return std::any_of(objects_.begin(), objects_.end(), [&](const Object& object) {
      return object.id == link.object_id && (unswept || object.state == Object::kInMemory);
    });
  }

  void JudgeLive() {
    if (!violation_.empty()) return;
    real_.EvictAll();
    std::map<std::pair<uint64_t, uint64_t>, uint64_t> live_bytes;
    std::map<std::pair<uint64_t, uint64_t>, uint64_t> allocated_bytes;
    std::map<std::string, const Object*> live;
    for (const Object& object : objects_) {
      if (object.state == Object::kSpilled) live[object.path] = &object;
    }
    for (const std::string& node : options_.node_directories) {
      for (const MemoryFileSystem::Name& name : real_.Tree(node)) {
        if (name.is_directory) continue;
        const auto found = live.find(name.path);
        const auto link = ParseLinkName(FileOf(name.path));
        if (found == live.end() && !(link && MayStay(*link))) Violated("a file that no object needs: ", name.path);
        const std::pair key(name.info.device, name.info.inode);
        allocated_bytes[key] = name.info.allocated_bytes;
        uint64_t object_bytes = link ? link->object_bytes : 0;
        if (found != live.end()) {
          object_bytes = kLengthsBytes + found->second->address.size() + 1 + found->second->payload.size();
        }
        live_bytes[key] += link ? RecordBytes(object_bytes) : name.info.allocated_bytes;
      }
    }
    for (const auto& [key, bytes] : allocated_bytes) {
      if (bytes > live_bytes[key]) {
        Violated("inode ", key.second, " holds ", bytes, " bytes for ", live_bytes[key], " of live objects");
      }
    }
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (objects_[i].state == Object::kSpilled) Restore(workers_[i % workers_.size()].get(), i, true);
    }
  }

  void DeleteAll() {
    if (violation_.empty()) Delete(workers_.back().get(), Known(Object::kSpilled));
  }

  void JudgeEmpty() {
    if (!violation_.empty()) return;
    bool leaks = false;
    for (const std::string& node : options_.node_directories) {
      for (const MemoryFileSystem::Name& name : real_.Tree(node)) {
        const auto link = ParseLinkName(FileOf(name.path));
        if (!name.is_directory && link && MayStay(*link)) leaks = true;
      }
    }
    if (leaks) return;
    // An empty directory that could not be removed is tried again only if something else is done in it.
    const bool directories_may_stay = unmounts_ || fault_permille_[size_t(Operation::kMakeDirectory)] > 0 ||
                                      fault_permille_[size_t(Operation::kRemoveDirectory)] > 0 ||
                                      fault_permille_[size_t(Operation::kList)] > 0;
    for (const std::string& node : options_.node_directories) {
      for (const MemoryFileSystem::Name& name : real_.Tree(node)) {
        if (!name.is_directory || !directories_may_stay) Violated("left when all is deleted: ", name.path);
      }
    }
    for (const auto& worker : workers_) worker->engine->Close();
    for (const auto& worker : workers_) worker->engine.reset();
    for (size_t i = 0; i < disks_.size(); ++i) {
      if (disks_[i]->used_blocks != 0) Violated("disk ", i, " still has ", disks_[i]->used_blocks, " blocks in use");
    }
  }

  std::mt19937_64 random_;
  const Bug bug_;
  const bool trace_;
  BuggyHost host_;
  VirtualClock clock_;
  Sequential parallel_;
  MemoryFileSystem real_;
  std::vector<MemoryFileSystem::Disk*> disks_;
  EngineOptions options_;
  bool per_object_ = true;
  bool unnamed_files_ = true;
  bool range_locks_ = true;
  bool torn_writes_ = false;
  bool large_objects_ = false;
  bool unmounts_ = false;
  bool damages_ = false;
  int actions_ = 0;
  std::array<uint32_t, 17> fault_permille_{};
  uint32_t overtaking_permille_ = 0;
  uint32_t crash_permille_ = 0;

  int depth_ = 0;
  bool quiet_ = false;
  int64_t next_pid_ = 100;
  std::string vanished_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::deque<Object> objects_;  // calls under way hold views of these
  std::map<std::string, int> users_;
  std::vector<std::string> undeleted_;
  std::vector<Reader> readers_;
  std::string violation_;
  WorldOutcome outcome_;
};

}  // namespace

WorldOutcome RunWorld(uint64_t seed, Bug bug, bool trace) { return World(seed, bug, trace).Run(); }

}  // namespace mantaray::spill
