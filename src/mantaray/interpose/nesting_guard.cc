// See nesting_guard.h.

#include "mantaray/interpose/nesting_guard.h"

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "mantaray/common/ids.h"
#include "mantaray/common/mutex.h"
#include "mantaray/common/steady_clock.h"
#include "mantaray/interpose/elf_library.h"
#include "mantaray/interpose/interposition.h"
#include "mantaray/interpose/ray_abi.h"
#include "mantaray/interpose/replacements.h"
#include "mantaray/interpose/stderr_line.h"

namespace mantaray::interpose {
namespace {

struct Originals {
  DeleteReference delete_reference;
  EraseReference erase_reference;
  FindReference find;
  AddBorrowedObject add_borrowed_object;
  AddNestedObjectIds add_nested_object_ids;
  // Where the code of DeleteReferenceInternal begins in memory.
  uintptr_t delete_begins;
  uintptr_t delete_ends;
};

// One call of DeleteReferenceInternal that visits inner objects. The method calls itself for each of them, directly and
// not through the slot. So nested calls are distinguished by their frames on the stack.
struct Loop {
  uintptr_t frame;
  ObjectId outer;
  // The inner object that the loop found last. Ray calls the method again for it.
  ObjectId last;
  std::vector<ObjectId> released;
};

// A call of DeleteReferenceInternal through the slot.
class Deletion {
 public:
  explicit Deletion(const ObjectId& object_id);
  ~Deletion();
  Deletion(const Deletion&) = delete;
  Deletion& operator=(const Deletion&) = delete;

  // Returns the loop with this frame. Loops that were deeper have ended.
  Loop& At(uintptr_t frame, RayTable* table);

 private:
  void EndLoop();

  Deletion* const enclosing_;
  const ObjectId object_id_;
  RayTable* table_ = nullptr;
  // The outermost loop comes first.
  std::vector<Loop> loops_;
};

thread_local Deletion* t_deletion = nullptr;

// The process has one guard. It is never destroyed, because Ray's threads may call a replacement until the very end.
struct Guard {
  Mutex attaching ABSL_ACQUIRED_BEFORE(mutex);
  // The slots in the order of attaching. They are restored in the reverse order.
  std::vector<Interposition> slots ABSL_GUARDED_BY(attaching);
  // The originals of all attaches, because a call may be in progress when the guard is taken back.
  std::vector<std::unique_ptr<const Originals>> kept ABSL_GUARDED_BY(attaching);

  // Set before a replacement is attached, and never unset.
  std::atomic<const Originals*> originals{nullptr};
  // How many outer objects `released` has, so that a process without any takes no lock.
  std::atomic<size_t> outer_objects{0};

  Mutex mutex;
  // For each outer object that is out of scope, the inner objects that it has released.
  absl::flat_hash_map<ObjectId, absl::flat_hash_set<ObjectId>> released ABSL_GUARDED_BY(mutex);
  uint64_t repeated ABSL_GUARDED_BY(mutex) = 0;
  BoundedRate lines ABSL_GUARDED_BY(mutex);
};

Guard& TheGuard() {
  static auto* const guard = new Guard;
  return *guard;
}

const Originals& OriginalsOfNow() { return *TheGuard().originals.load(std::memory_order_acquire); }

bool WasReleased(const ObjectId& outer, const ObjectId& inner) {
  Guard& guard = TheGuard();
  if (guard.outer_objects.load(std::memory_order_relaxed) == 0) return false;
  const MutexLock lock(&guard.mutex);
  const auto found = guard.released.find(outer);
  if (found == guard.released.end() || !found->second.contains(inner)) return false;
  ++guard.repeated;
  if (guard.lines.Allows(SteadyNowMs())) {
    WriteStderrLine(absl::StrCat("refcount: Object ", outer.Hex(), " went out of scope again; object ", inner.Hex(),
                                 ", which it contains, was released before. Nothing is left to release."));
  }
  return true;
}

void Linked(const ObjectId& outer, const ObjectId& inner) {
  Guard& guard = TheGuard();
  const MutexLock lock(&guard.mutex);
  const auto found = guard.released.find(outer);
  if (found == guard.released.end() || found->second.erase(inner) == 0 || !found->second.empty()) return;
  guard.released.erase(found);
  guard.outer_objects.store(guard.released.size(), std::memory_order_relaxed);
}

void Forget(const ObjectId& outer) {
  Guard& guard = TheGuard();
  const MutexLock lock(&guard.mutex);
  guard.released.erase(outer);
  guard.outer_objects.store(guard.released.size(), std::memory_order_relaxed);
}

// Remembers the inner objects that an outer object has released, if Ray keeps its entry.
void Remember(RayTable* table, const Loop& loop) {
  Guard& guard = TheGuard();
  const RayObjectId id = RayObjectId::Of(loop.outer);
  if (loop.released.empty() || OriginalsOfNow().find(table, &id).control == nullptr) return;
  const MutexLock lock(&guard.mutex);
  guard.released[loop.outer].insert(loop.released.begin(), loop.released.end());
  guard.outer_objects.store(guard.released.size(), std::memory_order_relaxed);
}

Deletion::Deletion(const ObjectId& object_id) : enclosing_(t_deletion), object_id_(object_id) { t_deletion = this; }

Deletion::~Deletion() {
  while (!loops_.empty()) EndLoop();
  t_deletion = enclosing_;
}

void Deletion::EndLoop() {
  Remember(table_, loops_.back());
  loops_.pop_back();
}

Loop& Deletion::At(uintptr_t frame, RayTable* table) {
  table_ = table;
  // The stack grows downwards.
  while (!loops_.empty() && loops_.back().frame < frame) EndLoop();
  if (loops_.empty()) {
    loops_.push_back(Loop{frame, object_id_, ObjectId(), {}});
  } else if (loops_.back().frame > frame) {
    const ObjectId outer = loops_.back().last;
    loops_.push_back(Loop{frame, outer, ObjectId(), {}});
  }
  return loops_.back();
}

void OnDelete(RayCounter* counter, RayTablePosition position, void* deleted) {
  const Deletion deletion(position.entry->Read());
  OriginalsOfNow().delete_reference(counter, position, deleted);
}

void OnErase(RayCounter* counter, RayTablePosition position) {
  if (TheGuard().outer_objects.load(std::memory_order_relaxed) != 0) Forget(position.entry->Read());
  OriginalsOfNow().erase_reference(counter, position);
}

RayTablePosition OnFind(RayTable* table, const RayObjectId* object_id) {
  const Originals& originals = OriginalsOfNow();
  Deletion* const deletion = t_deletion;
  if (deletion == nullptr) return originals.find(table, object_id);
  // Other methods that DeleteReferenceInternal calls also look up objects. Only its own loop asks for inner objects.
  const auto caller = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  if (caller < originals.delete_begins || caller >= originals.delete_ends) return originals.find(table, object_id);
  Loop& loop = deletion->At(reinterpret_cast<uintptr_t>(__builtin_frame_address(0)), table);
  const ObjectId inner = object_id->Read();
  if (WasReleased(loop.outer, inner)) return RayTablePosition{nullptr, nullptr};
  const RayTablePosition position = originals.find(table, object_id);
  if (position.control != nullptr) {
    loop.last = inner;
    loop.released.push_back(inner);
  }
  return position;
}

uintptr_t OnAddBorrowedObject(RayCounter* counter, const RayObjectId* object_id, const RayObjectId* outer_id,
                              const RayAddress* owner, uintptr_t foreign_owner) {
  if (TheGuard().outer_objects.load(std::memory_order_relaxed) != 0) Linked(outer_id->Read(), object_id->Read());
  return OriginalsOfNow().add_borrowed_object(counter, object_id, outer_id, owner, foreign_owner);
}

void OnAddNestedObjectIds(RayCounter* counter, const RayObjectId* outer_id, const RayObjectIds* inner_ids,
                          const RayAddress* owner) {
  if (TheGuard().outer_objects.load(std::memory_order_relaxed) != 0) {
    for (const RayObjectId* inner = inner_ids->begin; inner != inner_ids->end; ++inner) {
      Linked(outer_id->Read(), inner->Read());
    }
  }
  OriginalsOfNow().add_nested_object_ids(counter, outer_id, inner_ids, owner);
}

}  // namespace

absl::Status AttachNestingGuard(const std::string& library_path) {
  Guard& guard = TheGuard();
  const MutexLock lock(&guard.attaching);
  if (!guard.slots.empty()) return absl::OkStatus();
  const absl::StatusOr<ElfLibrary> library = ElfLibrary::FindLoaded(library_path);
  if (!library.ok()) return library.status();
  const RayMethod add_borrowed =
      library->DefinitionOf(kAddBorrowedObject.mangled).ok() ? kAddBorrowedObject : kAddBorrowedObjectWithFlag;
  // In the order of attaching: the guard must see links before it sees the first released object.
  const std::vector<Replacement> replacements = {{add_borrowed, AddressOf(&OnAddBorrowedObject)},
                                                 {kAddNestedObjectIds, AddressOf(&OnAddNestedObjectIds)},
                                                 {kEraseReference, AddressOf(&OnErase)},
                                                 {kFindReference, AddressOf(&OnFind)},
                                                 {kDeleteReference, AddressOf(&OnDelete)}};
  const absl::StatusOr<std::vector<Interposition>> slots = PrepareAll(*library, replacements);
  if (!slots.ok()) return slots.status();
  const absl::StatusOr<size_t> delete_bytes = library->BytesOf(kDeleteReference.mangled);
  if (!delete_bytes.ok()) return delete_bytes.status();
  const absl::StatusOr<RayFunctions> ray = RayFunctions::Resolve(*library);
  if (!ray.ok()) return ray.status();
  absl::Status status = ray->SelfCheck();
  if (status.ok()) status = ray->CheckObjectIds();
  if (!status.ok()) return status;
  {
    const MutexLock state(&guard.mutex);
    guard.released.clear();
    guard.outer_objects.store(0, std::memory_order_relaxed);
  }
  guard.kept.push_back(std::make_unique<const Originals>(Originals{
      (*slots)[4].OriginalAs<DeleteReference>(), (*slots)[2].OriginalAs<EraseReference>(),
      (*slots)[3].OriginalAs<FindReference>(), (*slots)[0].OriginalAs<AddBorrowedObject>(),
      (*slots)[1].OriginalAs<AddNestedObjectIds>(), (*slots)[4].original(), (*slots)[4].original() + *delete_bytes}));
  guard.originals.store(guard.kept.back().get(), std::memory_order_release);
  return AttachAll(replacements, *slots, &guard.slots);
}

absl::Status DetachNestingGuard() {
  Guard& guard = TheGuard();
  const MutexLock lock(&guard.attaching);
  return DetachAll(&guard.slots);
}

NestingGuardCounts NestingGuardCountsOfNow() {
  Guard& guard = TheGuard();
  NestingGuardCounts counts;
  {
    const MutexLock lock(&guard.attaching);
    counts.attached = !guard.slots.empty();
  }
  const MutexLock lock(&guard.mutex);
  counts.kept_outer_objects = guard.released.size();
  counts.repeated_releases = guard.repeated;
  return counts;
}

}  // namespace mantaray::interpose
