// The inside of engine_world.h: what a world consists of, what happens in it and how it is judged.

#ifndef MANTARAY_SPILL_ENGINE_WORLD_PARTS_H_
#define MANTARAY_SPILL_ENGINE_WORLD_PARTS_H_

#include <array>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mantaray/spill/engine.h"
#include "mantaray/spill/engine_bugs.h"
#include "mantaray/spill/engine_world.h"
#include "mantaray/spill/memory_file_system.h"

namespace mantaray::spill::world {

// How long a raylet that has opened a file may read it after the object's deletion.
inline constexpr int64_t kGraceMs = 2000;

struct Object {
  ObjectId id;
  std::string address;
  std::string payload;
  std::string former_payload;  // before it was rebuilt
  enum { kInMemory, kSpilled, kDeleted } state = kInMemory;
  std::string url;
  std::string path;      // of the URL
  bool damaged = false;  // by the world; it may be reported as lost, and rebuilt
  int damages = 0;       // how often it was damaged
  bool busy = false;     // an action is under way on it
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

  WorldOutcome Run();

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
  static std::string Hex(const ObjectId& id) { return id.Hex(); }

  void Choose();

  using Operation = FaultyFileSystem::Operation;
  std::unique_ptr<Worker> MakeWorker();

  // Decides about one operation of a worker.
  absl::Status Before(Worker* worker, Operation operation, const std::string& path);
  void Overtake();
  Worker* IdleWorker();
  void Act();

  // One call of a worker, in which it may die.
  void WorkerActs(Worker* worker, uint64_t choice);

  // A new process takes the place of one that died or ended.
  void Replace(Worker* worker);
  void Close(Worker* worker);
  std::vector<size_t> Known(int state) const;
  std::optional<size_t> OneOf(const std::vector<size_t>& choices);
  std::string MakePayload();
  void Spill(Worker* worker);

  // What an Open or a read may end with.
  void JudgeError(const Object& object, const absl::Status& status, absl::string_view what);
  void JudgeBytes(const Object& object, absl::string_view payload, bool opened_earlier);
  void Restore(Worker* worker);
  void Restore(Worker* worker, size_t number, bool at_once);
  void OpenAsRaylet();
  absl::StatusOr<OpenFiles> FilesOfRaylet();
  void StepReader();
  void Finish(Reader* reader);
  void FinishRaylets(Reader* reader);
  void Delete(Worker* worker);
  void Delete(Worker* worker, const std::vector<size_t>& chosen);
  void DamageOne();

  // Ray has made a damaged object again, perhaps with another size.
  void Rebuild(Worker* worker);
  void Rebuild(Worker* worker, size_t number);
  void Unmount();

  // Where a disk was unmounted, another one appears.
  void SetMounts(Worker* worker);

  // Faults end, disks are back and have room, and time passes.
  void Quiesce();

  // Whether a file that no live object names is one of the allowed leaks.
  bool MayStay(const LinkName& link) const;
  void JudgeLive();
  void DeleteAll();
  void JudgeEmpty();

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
  bool fences_ = true;
  bool raylet_is_seen_ = true;
  bool torn_writes_ = false;
  bool large_objects_ = false;
  bool unmounts_ = false;
  bool damages_ = false;
  int actions_ = 0;
  std::array<uint32_t, 18> fault_permille_{};
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

}  // namespace mantaray::spill::world

#endif  // MANTARAY_SPILL_ENGINE_WORLD_PARTS_H_
