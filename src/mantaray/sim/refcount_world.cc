// See refcount_world.h.

#include "mantaray/sim/refcount_world.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "mantaray/common/clock.h"
#include "mantaray/common/ids.h"
#include "mantaray/refcount/reference_counter.h"
#include "mantaray/sim/faulty_counter.h"
#include "mantaray/sim/network.h"
#include "mantaray/sim/random.h"
#include "mantaray/sim/virtual_clock.h"

namespace mantaray::sim {
namespace {

using refcount::Address;
using refcount::LineageReconstructionEligibility;
using refcount::ReferenceTable;
using refcount::RefRemovedMessage;
using refcount::RefRemovedSubscription;

using ProcessNumber = uint32_t;
using ObjectNumber = uint32_t;
using TaskNumber = uint32_t;
// A set of processes, one bit each.
using Processes = uint64_t;

constexpr uint64_t kMostEvents = 50000;
// A task whose workers die so often has failed.
constexpr uint32_t kMostFailures = 3;

Address AddressOf(ProcessNumber process) { return {WorkerId::FromNumber(process), NodeId::FromNumber(process), "", 0}; }
ProcessNumber ProcessOf(const Address& address) { return static_cast<ProcessNumber>(address.worker_id.Number()); }
ObjectId IdOf(ObjectNumber object) { return ObjectId::FromNumber(object); }
ObjectNumber NumberOf(const ObjectId& id) { return static_cast<ObjectNumber>(id.Number()); }
Processes Bit(ProcessNumber process) { return Processes{1} << process; }
// On the way of a reference whose object was gone when it came; never intact.
constexpr Processes kLost = Processes{1} << kMaxProcesses;

std::vector<ObjectId> IdsOf(const std::vector<ObjectNumber>& objects) {
  std::vector<ObjectId> ids;
  ids.reserve(objects.size());
  for (const ObjectNumber object : objects) ids.push_back(IdOf(object));
  return ids;
}

std::string Names(const std::vector<ObjectNumber>& objects) {
  return absl::StrJoin(objects, ", ", [](std::string* out, ObjectNumber object) { absl::StrAppend(out, "x", object); });
}

// Something found in a value.
struct Content {
  ObjectNumber object;
  // The run of the task that put it there; 0 in values that were put.
  uint32_t attempt = 0;
  // Whether the reference counter of the outer object's owner knows. Otherwise, who on the way to it has the word.
  bool known = true;
  Processes path = 0;
};

// The truth about an object.
struct Object {
  ProcessNumber owner = 0;
  uint64_t key = 0;
  // The value is there. Return values come with their task's end.
  bool available = false;
  bool freed = false;
  bool freed_by_hand = false;
  // Out-of-scope callbacks that were registered and have not been called.
  int callbacks = 0;
  std::vector<Content> contents;
  std::optional<TaskNumber> task;
};

// The truth about one process's use of one object.
struct Use {
  // References in its variables, and arguments of tasks that it submitted.
  int direct = 0;
  // Values of its own that contain the object.
  int contained = 0;
  // How it came to the process, since it last had no use of it: the processes on the way that the owner relies on.
  std::vector<Processes> paths;
  // The owner got its own object back when it was gone, from one that had died meanwhile.
  bool dangling = false;

  int total() const { return direct + contained; }
};

struct Task {
  ProcessNumber caller = 0;
  ProcessNumber callee = 0;
  std::vector<ObjectNumber> arguments;
  ObjectNumber result = 0;
  std::vector<Script> scripts;
  uint64_t key = 0;
  uint32_t attempt = 0;
  uint32_t failures = 0;
  bool pending = false;
  // It has finished and may run again.
  bool retained = false;
  // Its result's entry is gone for good; one that a late task makes for the same id is none of the owner's.
  bool released = false;
};

// A task that runs.
struct Running {
  TaskNumber task;
  uint32_t attempt;
  // References in the function's variables, besides the arguments.
  std::vector<ObjectNumber> found;
  std::vector<ObjectNumber> locals;
};

enum class MessageKind : uint8_t { kStep, kPush, kFinish, kReply, kTaskFailed, kSubscribe, kRefRemoved, kFailed };

struct Reply {
  ReferenceTable table;
  std::vector<ObjectNumber> returned;
};

struct Message {
  MessageKind kind;
  // Of a step or a task.
  uint32_t number = 0;
  uint32_t attempt = 0;
  ObjectNumber object = 0;
  std::shared_ptr<const Reply> reply = nullptr;
  std::shared_ptr<const RefRemovedSubscription> subscription = nullptr;
  std::shared_ptr<const RefRemovedMessage> removed = nullptr;
};

// The counter is a ReferenceCounter or a FaultyCounter; `make` makes one of its dependencies and options.
template <typename Counter>
class World {
 public:
  using Make = std::function<std::unique_ptr<Counter>(refcount::Dependencies, refcount::Options)>;

  World(const Program& program, const Make& make, Trace* trace)
      : program_(program),
        trace_(trace),
        network_(&clock_, FaultSchedule(Mix(program.seed, 0xfa), program.faults)),
        processes_(program.processes) {
    for (ProcessNumber p = 0; p < program.processes; ++p) {
      Process& process = processes_[p];
      process.wire = std::make_unique<Wire>(this, p);
      process.counter = make({process.wire.get(), process.wire.get(), &clock_, nullptr, nullptr},
                             {AddressOf(p), /*lineage_pinning=*/true});
      process.counter->SetReleaseLineageCallback(
          [this](const ObjectId& id) { return OnLineageReleased(NumberOf(id)); });
    }
  }

  Outcome Run() {
    int64_t end_ms = 0;
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      const Step& step = program_.steps[i];
      Message message{MessageKind::kStep};
      message.number = static_cast<uint32_t>(i);
      network_.SendAfter(step.process, step.process, step.at_ms, std::move(message));
      end_ms = std::max(end_ms, step.at_ms);
    }
    Drain();
    if (Ok()) ComeToRest();
    return std::move(outcome_);
  }

 private:
  // A process's way to the network.
  class Wire : public refcount::Publisher, public refcount::Subscriber {
   public:
    Wire(World* world, ProcessNumber process) : world_(world), process_(process) {}
    void PublishRefRemoved(const Address& owner, const RefRemovedMessage& message) override {
      world_->SendRefRemoved(process_, ProcessOf(owner), message);
    }
    void PublishObjectLocations(const refcount::ObjectLocations&) override {}
    void PublishFailure(const ObjectId&) override {}
    void SubscribeRefRemoved(const Address& borrower, const RefRemovedSubscription& subscription) override {
      world_->SendSubscription(process_, ProcessOf(borrower), subscription);
    }
    void UnsubscribeRefRemoved(const Address& borrower, const ObjectId& object_id) override {
      world_->Unsubscribed(process_, ProcessOf(borrower), NumberOf(object_id));
    }

   private:
    World* const world_;
    const ProcessNumber process_;
  };

  // Who asked for what: the borrower, and whether the owner still waits.
  struct Subscription {
    ProcessNumber borrower;
    ObjectNumber object;
    bool waiting;
  };

  struct Process {
    bool alive = true;
    std::unique_ptr<Wire> wire;
    std::unique_ptr<Counter> counter;
    // References in its state, oldest first.
    std::vector<ObjectNumber> variables;
    std::vector<Running> running;
    absl::flat_hash_set<std::pair<TaskNumber, uint32_t>> seen;
    std::vector<Subscription> subscriptions;
    std::vector<Use> uses;
  };

  // --- Bookkeeping of the run

  bool Ok() const { return outcome_.violation == Violation::kNone; }

  void Violate(Violation violation, std::string what) {
    if (!Ok()) return;
    outcome_.violation = violation;
    outcome_.what = std::move(what);
  }

  void Expect(const absl::Status& status) {
    if (!status.ok()) Violate(Violation::kFailure, std::string(status.message()));
  }

  template <typename... Parts>
  void Note(ProcessNumber process, const Parts&... parts) {
    if (trace_ != nullptr) trace_->Note(clock_.NowMs(), process, absl::StrCat(parts...));
  }

  template <typename... Parts>
  void Arrow(const Delivery<Message>& delivery, const Parts&... parts) {
    if (trace_ == nullptr) return;
    trace_->Arrow(clock_.NowMs(), delivery.from, delivery.to, absl::StrCat(parts..., delivery.again ? " (again)" : ""));
  }

  void Stir(uint64_t value) { outcome_.fingerprint = Mix(outcome_.fingerprint, value); }

  bool Alive(ProcessNumber process) const { return processes_[process].alive; }
  Counter& CounterOf(ProcessNumber process) { return *processes_[process].counter; }

  Use& UseOf(ProcessNumber process, ObjectNumber object) {
    std::vector<Use>& uses = processes_[process].uses;
    if (uses.size() <= object) uses.resize(objects_.size());
    return uses[object];
  }

  // --- The truth about references

  bool Intact(Processes path) const { return (path & dead_) == 0; }

  // The best way that an object came to a process, as a word to pass on.
  Processes BestPath(ProcessNumber process, ObjectNumber object) {
    if (objects_[object].owner == process) return UseOf(process, object).dangling ? kLost : 0;
    const std::vector<Processes>& paths = UseOf(process, object).paths;
    for (const Processes path : paths) {
      if (Intact(path)) return path;
    }
    return paths.empty() ? Bit(process) : paths.front();
  }

  void AddPath(ProcessNumber process, ObjectNumber object, Processes path) {
    if (objects_[object].owner == process) return;
    // The owner knows, and the process itself is alive as long as anything depends on it.
    path &= ~(Bit(objects_[object].owner) | Bit(process));
    std::vector<Processes>& paths = UseOf(process, object).paths;
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
  }

  void Forget(Use* use) {
    if (use->total() > 0) return;
    use->paths.clear();
    use->dangling = false;
  }

  void AddDirect(ProcessNumber process, ObjectNumber object) { ++UseOf(process, object).direct; }

  void RemoveDirect(ProcessNumber process, ObjectNumber object) {
    Use& use = UseOf(process, object);
    --use.direct;
    // A value of its own of which its reference counter does not know what is in it is no use that anybody was told of.
    if (use.direct == 0 && !KnowsOfContent(process, object)) use.paths.clear();
    Forget(&use);
  }

  bool KnowsOfContent(ProcessNumber process, ObjectNumber object) const {
    return std::any_of(objects_.begin(), objects_.end(), [&](const Object& outer) {
      return outer.owner == process &&
             std::any_of(outer.contents.begin(), outer.contents.end(),
                         [&](const Content& content) { return content.object == object && content.known; });
    });
  }

  void AddContent(ObjectNumber outer, const Content& content) {
    objects_[outer].contents.push_back(content);
    ++UseOf(objects_[outer].owner, content.object).contained;
  }

  bool Protects(ObjectNumber outer, const Content& content) {
    return content.known ? Protected(objects_[outer].owner, content.object) : Intact(content.path);
  }

  // The owner of the outer object knows now (`known`), or the owner of the inner one, which will tell it.
  void ContentTold(ObjectNumber outer, ObjectNumber inner, bool known) {
    // What is gone is not kept by anybody's knowing of it.
    if (objects_[inner].freed) return;
    for (Content& content : objects_[outer].contents) {
      if (content.object != inner) continue;
      content.known |= known;
      content.path = 0;
    }
  }

  // Takes contents out of a value: those of one attempt, or all.
  void RemoveContents(ObjectNumber outer, std::optional<uint32_t> attempt) {
    std::erase_if(objects_[outer].contents, [&](const Content& content) {
      if (attempt && content.attempt != *attempt) return false;
      Use& use = UseOf(objects_[outer].owner, content.object);
      if (use.contained > 0) --use.contained;
      Forget(&use);
      return true;
    });
  }

  // Somebody was told who uses objects. Once the owner knows, nobody else's word is needed.
  void Told(ProcessNumber listener, ProcessNumber teller, const ReferenceTable& table) {
    for (const refcount::ObjectReferenceCount& told : table) {
      const ObjectNumber object = NumberOf(told.object_id);
      for (const auto& [outer, outer_owner] : told.stored_in_objects) {
        const bool known = ProcessOf(outer_owner) == listener;
        if (known || objects_[object].owner == listener) ContentTold(NumberOf(outer), object, known);
      }
      if (objects_[object].owner != listener) continue;
      if (told.has_local_ref) Vouched(teller, object);
      for (const Address& borrower : told.borrowers) Vouched(ProcessOf(borrower), object);
      for (const auto& [outer, outer_owner] : told.stored_in_objects) Vouched(ProcessOf(outer_owner), object);
    }
  }

  void Vouched(ProcessNumber process, ObjectNumber object) {
    if (objects_[object].freed) return;
    Use& use = UseOf(process, object);
    if (use.direct > 0 || KnowsOfContent(process, object)) use.paths.assign(1, 0);
  }

  // Whether a process's reference is one that the protocol has to honour.
  bool Protected(ProcessNumber process, ObjectNumber object) {
    if (objects_[object].owner == process) return !UseOf(process, object).dangling;
    const std::vector<Processes>& paths = UseOf(process, object).paths;
    return std::any_of(paths.begin(), paths.end(), [&](Processes path) { return Intact(path); });
  }

  // Whether a live process can reach the object, its owner being alive.
  bool Reachable(ObjectNumber object) {
    std::vector<ObjectNumber> to_visit = {object};
    absl::flat_hash_set<ObjectNumber> seen = {object};
    while (!to_visit.empty()) {
      const ObjectNumber current = to_visit.back();
      to_visit.pop_back();
      if (!Alive(objects_[current].owner)) continue;
      for (ProcessNumber p = 0; p < processes_.size(); ++p) {
        if (Alive(p) && UseOf(p, current).direct > 0 && Protected(p, current)) return true;
      }
      // Through a value that contains it, if that one is reachable itself.
      for (ObjectNumber outer = 0; outer < objects_.size(); ++outer) {
        const Object& candidate = objects_[outer];
        if (candidate.freed || candidate.contents.empty() || seen.contains(outer)) continue;
        const bool contains =
            Alive(candidate.owner) &&
            std::any_of(candidate.contents.begin(), candidate.contents.end(),
                        [&](const Content& content) { return content.object == current && Protects(outer, content); });
        if (contains) {
          seen.insert(outer);
          to_visit.push_back(outer);
        }
      }
    }
    return false;
  }

  void CheckSafe(ObjectNumber object) {
    const Object& checked = objects_[object];
    if (!checked.freed || checked.freed_by_hand || !Alive(checked.owner)) return;
    if (Reachable(object)) {
      Violate(Violation::kUnsafe,
              absl::StrCat("x", object, " of P", checked.owner, " was freed, and ", Holders(object)));
    }
  }

  std::string Holders(ObjectNumber object) {
    std::vector<std::string> holders;
    for (ProcessNumber p = 0; p < processes_.size(); ++p) {
      if (Alive(p) && UseOf(p, object).direct > 0) holders.push_back(absl::StrCat("P", p));
    }
    return holders.empty() ? "it can be reached through a value"
                           : absl::StrCat(absl::StrJoin(holders, ", "), " uses it");
  }

  // --- Objects

  ObjectNumber NewObject(ProcessNumber owner, uint64_t key) {
    objects_.emplace_back();
    objects_.back().owner = owner;
    objects_.back().key = key;
    return static_cast<ObjectNumber>(objects_.size() - 1);
  }

  void Watch(ObjectNumber object) {
    ++objects_[object].callbacks;
    const bool watched =
        CounterOf(objects_[object].owner).AddObjectOutOfScopeOrFreedCallback(IdOf(object), [this](const ObjectId& id) {
          OnOutOfScopeOrFreed(NumberOf(id));
        });
    if (!watched) Violate(Violation::kCallback, absl::StrCat("no callback could be set for x", object));
  }

  void OnOutOfScopeOrFreed(ObjectNumber number) {
    Object& object = objects_[number];
    Note(object.owner, "frees x", number);
    Stir(number);
    if (--object.callbacks < 0) {
      Violate(Violation::kCallback, absl::StrCat("x", number, " went out of scope twice"));
      return;
    }
    object.freed = true;
    freed_.push_back(number);
    CheckSafe(number);
    // What is freed by hand keeps its contents as long as its entry is there.
    if (!object.freed_by_hand) RemoveContents(number, std::nullopt);
  }

  ObjectNumber Put(ProcessNumber p, const std::vector<ObjectNumber>& contents, uint64_t key) {
    const ObjectNumber number = NewObject(p, key);
    objects_[number].available = true;
    AddDirect(p, number);
    for (const ObjectNumber inner : contents) AddContent(number, {inner});
    refcount::OwnedObject owned;
    owned.object_id = IdOf(number);
    owned.contained_ids = IdsOf(contents);
    owned.lineage_eligibility = LineageReconstructionEligibility::kIneligiblePut;
    owned.add_local_ref = true;
    owned.pinned_at_node_id = NodeId::FromNumber(p);
    Expect(CounterOf(p).AddOwnedObject(owned));
    Watch(number);
    return number;
  }

  // A reference in a variable of the process.
  void Hold(ProcessNumber p, ObjectNumber object, std::optional<ObjectNumber> outer) {
    AddDirect(p, object);
    if (objects_[object].owner == p && objects_[object].freed) UseOf(p, object).dangling = true;
    Expect(CounterOf(p).AddLocalReference(IdOf(object)));
    if (objects_[object].owner == p && !outer) return;
    Expect(CounterOf(p).AddBorrowedObject(IdOf(object), outer ? IdOf(*outer) : ObjectId(),
                                          AddressOf(objects_[object].owner)));
  }

  void Release(ProcessNumber p, ObjectNumber object) {
    RemoveDirect(p, object);
    Expect(CounterOf(p).RemoveLocalReference(IdOf(object)));
  }

  // Takes references to what is in a value that the process holds; the value has to be there.
  std::vector<ObjectNumber> Look(ProcessNumber p, ObjectNumber outer) {
    const Object& object = objects_[outer];
    if (!object.available || object.freed || !Alive(object.owner)) return {};
    std::vector<Content> contents;
    for (const Content& content : object.contents) {
      const bool seen = std::any_of(contents.begin(), contents.end(),
                                    [&](const Content& other) { return other.object == content.object; });
      if (!seen) contents.push_back(content);
    }
    const ProcessNumber outer_owner = object.owner;
    std::vector<ObjectNumber> found;
    for (const Content& content : contents) {
      const ObjectNumber inner = content.object;
      const Processes word = content.known ? BestPath(outer_owner, inner) : content.path;
      AddPath(p, inner, BestPath(p, outer) | word | Bit(outer_owner));
      Hold(p, inner, outer);
      found.push_back(inner);
    }
    return found;
  }

  // --- Tasks

  // Submits a task; the reference to its return value is in the caller's hands.
  ObjectNumber Submit(ProcessNumber caller, ProcessNumber callee, const std::vector<ObjectNumber>& arguments,
                      std::vector<Script> scripts, uint64_t key) {
    const ObjectNumber result = NewObject(caller, key);
    const auto number = static_cast<TaskNumber>(tasks_.size());
    objects_[result].task = number;
    tasks_.push_back({caller, callee, arguments, result, std::move(scripts), key});
    tasks_[number].pending = true;
    Note(caller, "calls P", callee, " with ", arguments.empty() ? "nothing" : Names(arguments), ", gets x", result,
         "; P", callee, " ", tasks_[number].scripts.front().ToString());
    AddDirect(caller, result);
    refcount::OwnedObject owned;
    owned.object_id = IdOf(result);
    owned.lineage_eligibility = tasks_[number].scripts.front().retry
                                    ? LineageReconstructionEligibility::kEligible
                                    : LineageReconstructionEligibility::kIneligibleNoRetries;
    owned.add_local_ref = true;
    Expect(CounterOf(caller).AddOwnedObject(owned));
    Watch(result);
    for (const ObjectNumber argument : arguments) AddDirect(caller, argument);
    Expect(CounterOf(caller).UpdateSubmittedTaskReferences({IdOf(result)}, IdsOf(arguments)));
    Push(number);
    return result;
  }

  void Push(TaskNumber number) {
    const Task& task = tasks_[number];
    Message message{MessageKind::kPush, number, task.attempt};
    network_.Send(task.caller, task.callee, Mix(1, task.key, task.attempt), std::move(message));
    // Whoever calls a dead process learns that it is dead.
    if (!Alive(task.callee)) TellTaskFailed(number, task.callee);
  }

  void TellTaskFailed(TaskNumber number, ProcessNumber callee) {
    const Task& task = tasks_[number];
    Message message{MessageKind::kTaskFailed, number, task.attempt};
    network_.Send(callee, task.caller, Mix(2, task.key, task.attempt), std::move(message));
  }

  void OnPush(const Delivery<Message>& delivery) {
    const ProcessNumber p = delivery.to;
    const Task& task = tasks_[delivery.message.number];
    if (!processes_[p].seen.insert({delivery.message.number, delivery.message.attempt}).second) return;
    Arrow(delivery, "task for x", task.result);
    Running running{delivery.message.number, delivery.message.attempt, {}, {}};
    const std::vector<ObjectNumber> arguments = task.arguments;
    const Script script = task.scripts.front();
    const std::vector<Script> rest(task.scripts.begin() + 1, task.scripts.end());
    const uint64_t key = task.key;
    for (const ObjectNumber argument : arguments) {
      AddPath(p, argument, BestPath(delivery.from, argument) | Bit(delivery.from));
      Hold(p, argument, std::nullopt);
    }
    if (script.look) {
      for (const ObjectNumber argument : arguments) {
        for (const ObjectNumber inner : Look(p, argument)) running.found.push_back(inner);
      }
      if (!running.found.empty()) Note(p, "finds ", Names(running.found));
    }
    if (script.pass_on && !rest.empty() && processes_.size() > 1) {
      const ProcessNumber next = Other(p, script.pick);
      std::vector<ObjectNumber> passed = running.found.empty() ? arguments : running.found;
      if (passed.size() > 2) passed.resize(2);
      running.locals.push_back(Submit(p, next, passed, rest, Mix(key, 77)));
    }
    processes_[p].running.push_back(std::move(running));
    Message finish{MessageKind::kFinish, delivery.message.number, delivery.message.attempt};
    network_.SendAfter(p, p, script.duration_ms, std::move(finish));
  }

  void OnFinish(const Delivery<Message>& delivery) {
    const ProcessNumber p = delivery.to;
    std::vector<Running>& all = processes_[p].running;
    const auto it = std::find_if(all.begin(), all.end(), [&](const Running& running) {
      return running.task == delivery.message.number && running.attempt == delivery.message.attempt;
    });
    Running running = std::move(*it);
    all.erase(it);
    const Task task = tasks_[running.task];
    const Script& script = task.scripts.front();
    std::vector<ObjectNumber> returned;
    const auto add = [&](ObjectNumber object) {
      if (!Contains(object, task.result)) returned.push_back(object);
    };
    if (!task.arguments.empty() && script.return_arg) add(task.arguments.front());
    if (!running.found.empty() && script.return_inner) add(running.found.front());
    const std::vector<ObjectNumber>& variables = processes_[p].variables;
    if (!variables.empty() && script.return_held) add(variables[script.pick % variables.size()]);
    if (!task.arguments.empty() && script.return_new) {
      running.locals.push_back(Put(p, {task.arguments.front()}, Mix(task.key, 78, running.attempt)));
      add(running.locals.back());
    }
    Return(p, task, running.attempt, returned);
    Keep(p, task, script, &running);
    for (const ObjectNumber object : running.found) Release(p, object);
    for (const ObjectNumber object : running.locals) Release(p, object);
    for (const ObjectNumber argument : task.arguments) RemoveDirect(p, argument);
    absl::StatusOr<ReferenceTable> table = CounterOf(p).PopAndClearLocalBorrowers(IdsOf(task.arguments));
    Expect(table.status());
    if (!table.ok()) return;
    Message message{MessageKind::kReply, running.task, running.attempt};
    message.reply = std::make_shared<const Reply>(Reply{*std::move(table), returned});
    network_.Send(p, task.caller, Mix(3, task.key, running.attempt), std::move(message));
  }

  // Whether an object is the other or has it inside: values that contain each other would keep each other for ever, as
  // in everything that counts references.
  bool Contains(ObjectNumber outer, ObjectNumber inner) const {
    std::vector<ObjectNumber> to_visit = {outer};
    absl::flat_hash_set<ObjectNumber> seen = {outer};
    while (!to_visit.empty()) {
      const ObjectNumber current = to_visit.back();
      to_visit.pop_back();
      if (current == inner) return true;
      for (const Content& content : objects_[current].contents) {
        if (seen.insert(content.object).second) to_visit.push_back(content.object);
      }
      if (!objects_[current].task) continue;
      for (const ObjectNumber argument : tasks_[*objects_[current].task].arguments) {
        if (seen.insert(argument).second) to_visit.push_back(argument);
      }
    }
    return false;
  }

  // What goes into the return value: from now on whoever can reach that can reach this.
  void Return(ProcessNumber p, const Task& task, uint32_t attempt, const std::vector<ObjectNumber>& returned) {
    const Task& now = tasks_[*objects_[task.result].task];
    const bool expected = now.pending && now.attempt == attempt && Alive(task.caller) &&
                          (!objects_[task.result].freed || objects_[task.result].freed_by_hand);
    for (const ObjectNumber inner : returned) {
      if (expected) {
        // The owner itself knows what it returns.
        const Processes path = BestPath(p, inner) | Bit(p);
        AddContent(task.result, {inner, attempt + 1, false, path & ~Bit(objects_[inner].owner)});
        AddPath(task.caller, inner, path);
      }
    }
    if (returned.empty()) return;
    Note(p, "returns ", Names(returned), " in x", task.result);
    Expect(CounterOf(p).AddNestedObjectIds(IdOf(task.result), IdsOf(returned), AddressOf(task.caller)));
  }

  void Keep(ProcessNumber p, const Task& task, const Script& script, Running* running) {
    if (resting_) return;
    if (script.keep && !task.arguments.empty()) {
      const ObjectNumber kept = task.arguments.front();
      AddDirect(p, kept);
      Expect(CounterOf(p).AddLocalReference(IdOf(kept)));
      processes_[p].variables.push_back(kept);
    }
    if (script.keep_inner) {
      for (const ObjectNumber kept : running->found) processes_[p].variables.push_back(kept);
      running->found.clear();
    }
  }

  void OnReply(const Delivery<Message>& delivery) {
    Task& task = tasks_[delivery.message.number];
    const ReferenceTable& table = delivery.message.reply->table;
    if (!task.pending || task.attempt != delivery.message.attempt) return;
    Arrow(delivery, "finished x", task.result, Describe(table));
    Told(delivery.to, delivery.from, table);
    Finish(&task, delivery.from, table, /*failed=*/false);
  }

  void OnTaskFailed(const Delivery<Message>& delivery) {
    const TaskNumber number = delivery.message.number;
    Task& task = tasks_[number];
    if (!task.pending || task.attempt != delivery.message.attempt) return;
    Arrow(delivery, "(dead) task for x", task.result, " failed");
    RemoveContents(task.result, task.attempt + 1);
    if (!task.scripts.front().retry || resting_ || ++task.failures > kMostFailures) {
      Finish(&task, delivery.from, {}, /*failed=*/true);
      return;
    }
    ++task.attempt;
    task.callee = Other(task.caller, task.scripts.front().pick + task.attempt);
    Note(task.caller, "tries x", task.result, " again at P", task.callee);
    Push(number);
  }

  void Finish(Task* task, ProcessNumber worker, const ReferenceTable& table, bool failed) {
    task->pending = false;
    Object& result = objects_[task->result];
    result.available = !failed && !result.freed;
    const bool wanted = CounterOf(task->caller).HasReference(IdOf(task->result));
    task->retained = !failed && wanted && !task->released && task->scripts.front().retry;
    for (const ObjectNumber argument : task->arguments) RemoveDirect(task->caller, argument);
    Expect(CounterOf(task->caller)
               .UpdateFinishedTaskReferences({IdOf(task->result)}, IdsOf(task->arguments),
                                             /*release_lineage=*/!task->retained, AddressOf(worker), table));
  }

  refcount::ReleasedLineage OnLineageReleased(ObjectNumber object) {
    if (!objects_[object].task) return {};
    Task& task = tasks_[*objects_[object].task];
    task.released = true;
    // While it runs, its end gives the lineage back.
    if (!task.retained) return {};
    task.retained = false;
    if (task.pending) return {};
    return {IdsOf(task.arguments), 1};
  }

  // --- Messages of the protocol

  std::string Describe(const ReferenceTable& table) {
    if (trace_ == nullptr || table.empty()) return "";
    std::vector<std::string> parts;
    for (const refcount::ObjectReferenceCount& told : table) {
      std::string part = absl::StrCat("x", NumberOf(told.object_id), told.has_local_ref ? " in use" : " not in use");
      for (const Address& borrower : told.borrowers) absl::StrAppend(&part, ", P", ProcessOf(borrower), " borrows it");
      for (const auto& [outer, owner] : told.stored_in_objects)
        absl::StrAppend(&part, ", stored in x", NumberOf(outer));
      parts.push_back(std::move(part));
    }
    return absl::StrCat(" [", absl::StrJoin(parts, " | "), "]");
  }

  void SendSubscription(ProcessNumber owner, ProcessNumber borrower, const RefRemovedSubscription& subscription) {
    const ObjectNumber object = NumberOf(subscription.object_id);
    std::vector<Subscription>& subscriptions = processes_[owner].subscriptions;
    const auto known = std::find_if(subscriptions.begin(), subscriptions.end(), [&](const Subscription& other) {
      return other.borrower == borrower && other.object == object;
    });
    if (known == subscriptions.end()) {
      subscriptions.push_back({borrower, object, true});
    } else {
      known->waiting = true;
    }
    Message message{MessageKind::kSubscribe};
    message.object = object;
    message.subscription = std::make_shared<const RefRemovedSubscription>(subscription);
    network_.Send(owner, borrower, Mix(4, objects_[object].key, subscription.number), std::move(message));
    if (!Alive(borrower)) TellFailed(owner, borrower, object);
  }

  void Unsubscribed(ProcessNumber owner, ProcessNumber borrower, ObjectNumber object) {
    for (Subscription& subscription : processes_[owner].subscriptions) {
      if (subscription.borrower == borrower && subscription.object == object) subscription.waiting = false;
    }
  }

  void SendRefRemoved(ProcessNumber borrower, ProcessNumber owner, const RefRemovedMessage& removed) {
    const ObjectNumber object = NumberOf(removed.object_id);
    Message message{MessageKind::kRefRemoved};
    message.object = object;
    message.removed = std::make_shared<const RefRemovedMessage>(removed);
    const uint64_t number = removed.numbers.empty() ? 0 : removed.numbers.front();
    network_.SendInOrder(borrower, owner, Mix(5, objects_[object].key, number), std::move(message));
  }

  void TellFailed(ProcessNumber owner, ProcessNumber borrower, ObjectNumber object) {
    Message message{MessageKind::kFailed};
    message.object = object;
    network_.Send(borrower, owner, Mix(6, objects_[object].key, borrower), std::move(message));
  }

  void OnSubscribe(const Delivery<Message>& delivery) {
    const RefRemovedSubscription& subscription = *delivery.message.subscription;
    Arrow(delivery, "question ", subscription.number, ": tell when x", delivery.message.object, " is unused",
          subscription.contained_in_id.IsNil() ? std::string()
                                               : absl::StrCat(", it is in x", NumberOf(subscription.contained_in_id)));
    // One that arrives again may have been answered long ago.
    if (!subscription.contained_in_id.IsNil() && !delivery.again) {
      ContentTold(NumberOf(subscription.contained_in_id), delivery.message.object, /*known=*/true);
      Vouched(delivery.to, delivery.message.object);
    }
    Expect(CounterOf(delivery.to).SubscribeRefRemoved(subscription));
  }

  void OnRefRemoved(const Delivery<Message>& delivery) {
    const RefRemovedMessage& removed = *delivery.message.removed;
    Arrow(delivery, removed.numbers.empty() ? "unasked" : absl::StrCat("answer ", absl::StrJoin(removed.numbers, ", ")),
          ": x", delivery.message.object, " is unused", Describe(removed.borrowed_refs));
    if (!delivery.again) Told(delivery.to, delivery.from, removed.borrowed_refs);
    Expect(CounterOf(delivery.to).HandleRefRemoved(AddressOf(delivery.from), removed));
  }

  void OnFailed(const Delivery<Message>& delivery) {
    Arrow(delivery, "(dead) publisher failed for x", delivery.message.object);
    Expect(CounterOf(delivery.to).HandlePublisherFailed(AddressOf(delivery.from), IdOf(delivery.message.object)));
  }

  // --- Steps

  ProcessNumber Other(ProcessNumber process, uint64_t pick) const {
    const auto offset = 1 + Mix(pick) % (processes_.size() - 1);
    return static_cast<ProcessNumber>((process + offset) % processes_.size());
  }

  std::optional<ObjectNumber> Variable(ProcessNumber p, uint64_t pick) const {
    const std::vector<ObjectNumber>& variables = processes_[p].variables;
    if (variables.empty()) return std::nullopt;
    return variables[pick % variables.size()];
  }

  void OnStep(const Step& step) {
    const ProcessNumber p = step.process;
    switch (step.kind) {
      case StepKind::kPut:
        return StepPut(step);
      case StepKind::kCall:
        return StepCall(step);
      case StepKind::kDrop:
        if (const auto object = Variable(p, step.pick)) Drop(p, step.pick % processes_[p].variables.size());
        return;
      case StepKind::kLook:
        if (const auto object = Variable(p, step.pick)) {
          const std::vector<ObjectNumber> found = Look(p, *object);
          if (!found.empty()) Note(p, "looks into x", *object, ", finds ", Names(found));
          processes_[p].variables.insert(processes_[p].variables.end(), found.begin(), found.end());
        }
        return;
      case StepKind::kFree:
        if (const auto object = Variable(p, step.pick); object && objects_[*object].owner == p) {
          Note(p, "frees x", *object, " by hand");
          objects_[*object].freed_by_hand = true;
          CounterOf(p).AddObjectRefDeletedCallback(
              IdOf(*object), [this](const ObjectId& id) { RemoveContents(NumberOf(id), std::nullopt); });
          CounterOf(p).FreePlasmaObjects({IdOf(*object)});
        }
        return;
      case StepKind::kKill:
        return Kill(p);
      case StepKind::kRebuild:
        return StepRebuild(step);
      case StepKind::kEvict:
        if (CounterOf(p).EvictLineage(1) > 0) Note(p, "gives up the oldest lineage");
        return;
    }
  }

  void StepPut(const Step& step) {
    const ProcessNumber p = step.process;
    std::vector<ObjectNumber> contents;
    if (step.nest) {
      for (const uint64_t pick : {step.pick, step.other}) {
        const auto inner = Variable(p, pick);
        if (inner && std::find(contents.begin(), contents.end(), *inner) == contents.end()) contents.push_back(*inner);
      }
    }
    const ObjectNumber object = Put(p, contents, Mix(program_.seed, step.number));
    processes_[p].variables.push_back(object);
    Note(p, "puts x", object, contents.empty() ? "" : absl::StrCat(", which contains ", Names(contents)));
  }

  void StepCall(const Step& step) {
    const ProcessNumber p = step.process;
    if (processes_.size() < 2) return;
    std::vector<ObjectNumber> arguments;
    if (const auto first = Variable(p, step.pick)) arguments.push_back(*first);
    if (const auto second = Variable(p, step.other); second && step.nest) arguments.push_back(*second);
    const ObjectNumber result =
        Submit(p, Other(p, step.other), arguments, step.scripts, Mix(program_.seed, step.number));
    processes_[p].variables.push_back(result);
  }

  void Drop(ProcessNumber p, size_t index) {
    std::vector<ObjectNumber>& variables = processes_[p].variables;
    const ObjectNumber object = variables[index];
    variables.erase(variables.begin() + static_cast<ptrdiff_t>(index));
    Note(p, "drops x", object);
    Release(p, object);
  }

  void Kill(ProcessNumber p) {
    Note(p, "dies");
    Process& process = processes_[p];
    process.alive = false;
    dead_ |= Bit(p);
    network_.Kill(p);
    process.counter.reset();
    process.variables.clear();
    process.running.clear();
    process.uses.clear();
    for (TaskNumber number = 0; number < tasks_.size(); ++number) {
      const Task& task = tasks_[number];
      if (task.pending && task.callee == p && Alive(task.caller)) TellTaskFailed(number, p);
    }
    for (ProcessNumber owner = 0; owner < processes_.size(); ++owner) {
      if (!Alive(owner)) continue;
      for (const Subscription& subscription : processes_[owner].subscriptions) {
        // Also some that have ended: the notice may have been on its way before.
        const bool late = Mix(program_.seed, owner, subscription.object) % 4 == 0;
        if (subscription.borrower == p && (subscription.waiting || late)) TellFailed(owner, p, subscription.object);
      }
    }
  }

  void StepRebuild(const Step& step) {
    const ProcessNumber p = step.process;
    std::vector<TaskNumber> candidates;
    for (TaskNumber number = 0; number < tasks_.size(); ++number) {
      if (tasks_[number].caller == p && !objects_[tasks_[number].result].freed && CanRebuild(number)) {
        candidates.push_back(number);
      }
    }
    if (!candidates.empty()) Rebuild(candidates[step.pick % candidates.size()]);
  }

  bool CanRebuild(TaskNumber number) {
    const Task& task = tasks_[number];
    const Object& result = objects_[task.result];
    if (!task.retained || task.pending || result.freed_by_hand || processes_.size() < 2) return false;
    return std::all_of(task.arguments.begin(), task.arguments.end(), [&](ObjectNumber argument) {
      const Object& object = objects_[argument];
      if (object.owner != task.caller) return UseOf(task.caller, argument).total() > 0;
      if (!object.freed) return true;
      return object.task && CanRebuild(*object.task);
    });
  }

  // The value of a task's result was lost, or was let go and is needed for another: the task runs again, after those
  // that make its arguments.
  void Rebuild(TaskNumber number) {
    ++tasks_[number].attempt;
    tasks_[number].pending = true;
    tasks_[number].retained = false;
    const Task task = tasks_[number];
    Note(task.caller, "makes x", task.result, " again at P", task.callee);
    for (const ObjectNumber argument : task.arguments) AddDirect(task.caller, argument);
    Expect(CounterOf(task.caller).UpdateResubmittedTaskReferences(IdsOf(task.arguments)));
    CounterOf(task.caller).UpdateObjectPendingCreation(IdOf(task.result), true);
    for (const ObjectNumber argument : task.arguments) {
      Object& object = objects_[argument];
      if (object.owner != task.caller || !object.freed) continue;
      object.freed = false;
      object.available = false;
      std::erase(freed_, argument);
      Watch(argument);
      if (object.task && !tasks_[*object.task].pending) Rebuild(*object.task);
    }
    Push(number);
  }

  // --- The run

  void Drain() {
    while (Ok()) {
      const std::optional<Delivery<Message>> delivery = network_.Next();
      if (!delivery) return;
      if (++outcome_.events > kMostEvents) return Violate(Violation::kRestless, "the messages do not come to an end");
      Stir(Mix(static_cast<uint64_t>(clock_.NowMs()), delivery->from, delivery->to,
               static_cast<uint64_t>(delivery->message.kind), delivery->message.number + delivery->message.object));
      Handle(*delivery);
      CheckAfter(delivery->to);
    }
  }

  void Handle(const Delivery<Message>& delivery) {
    switch (delivery.message.kind) {
      case MessageKind::kStep:
        return OnStep(program_.steps[delivery.message.number]);
      case MessageKind::kPush:
        return OnPush(delivery);
      case MessageKind::kFinish:
        return OnFinish(delivery);
      case MessageKind::kReply:
        return OnReply(delivery);
      case MessageKind::kTaskFailed:
        return OnTaskFailed(delivery);
      case MessageKind::kSubscribe:
        return OnSubscribe(delivery);
      case MessageKind::kRefRemoved:
        return OnRefRemoved(delivery);
      case MessageKind::kFailed:
        return OnFailed(delivery);
    }
  }

  void CheckAfter(ProcessNumber p) {
    for (const ObjectNumber object : freed_) CheckSafe(object);
    if (!Alive(p) || !Ok()) return;
    const absl::Status consistent = CounterOf(p).CheckInvariants();
    if (!consistent.ok()) Violate(Violation::kInconsistent, absl::StrCat("P", p, ": ", consistent.message()));
    if (CounterOf(p).GetStats().broken_invariants > 0) {
      Violate(Violation::kInconsistent, absl::StrCat("P", p, ": the reference counter found an invariant broken"));
    }
  }

  // Everybody lets go; then nothing may be left.
  void ComeToRest() {
    resting_ = true;
    for (ProcessNumber p = 0; p < processes_.size() && Ok(); ++p) {
      while (Alive(p) && !processes_[p].variables.empty() && Ok()) Drop(p, 0);
      CheckAfter(p);
    }
    Drain();
    for (ProcessNumber p = 0; p < processes_.size() && Ok(); ++p) {
      if (Alive(p) && CounterOf(p).Size() != 0) Violate(Violation::kLeak, Left(p));
    }
    for (ObjectNumber number = 0; number < objects_.size() && Ok(); ++number) {
      if (Alive(objects_[number].owner) && objects_[number].callbacks != 0) {
        Violate(Violation::kCallback, absl::StrCat("the callback of x", number, " was never called"));
      }
    }
  }

  std::string Left(ProcessNumber p) {
    std::vector<ObjectNumber> left;
    for (const ObjectId& id : CounterOf(p).GetAllInScopeObjectIDs()) left.push_back(NumberOf(id));
    std::sort(left.begin(), left.end());
    return absl::StrCat("P", p, " is left with ", Names(left), "; x", left.front(), " is ",
                        CounterOf(p).DebugString(IdOf(left.front())));
  }

  const Program& program_;
  Trace* const trace_;
  VirtualClock clock_;
  VirtualNetwork<Message> network_;
  std::vector<Process> processes_;
  std::vector<Object> objects_;
  std::vector<Task> tasks_;
  // Objects that were freed and not made again.
  std::vector<ObjectNumber> freed_;
  Processes dead_ = kLost;
  bool resting_ = false;
  Outcome outcome_;
};

}  // namespace

absl::string_view NameOf(Violation violation) {
  switch (violation) {
    case Violation::kNone:
      return "none";
    case Violation::kUnsafe:
      return "a reachable object was freed";
    case Violation::kLeak:
      return "something was left";
    case Violation::kFailure:
      return "an operation failed";
    case Violation::kCallback:
      return "a callback was not called exactly once";
    case Violation::kInconsistent:
      return "a table does not agree with itself";
    case Violation::kRestless:
      return "no rest";
  }
  return "unknown";
}

Outcome RunProgram(const Program& program, Fault fault, Trace* trace) {
  using refcount::Dependencies;
  using refcount::Options;
  using refcount::ReferenceCounter;
  if (fault == Fault::kNone) {
    const auto make = [](Dependencies dependencies, Options options) {
      return std::make_unique<ReferenceCounter>(std::move(dependencies), std::move(options));
    };
    return World<ReferenceCounter>(program, make, trace).Run();
  }
  const auto make = [fault](const Dependencies& dependencies, Options options) {
    return std::make_unique<FaultyCounter>(fault, dependencies, std::move(options));
  };
  return World<FaultyCounter>(program, make, trace).Run();
}

}  // namespace mantaray::sim
