// See scope_watch.h.

#include "mantaray/interpose/scope_watch.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace mantaray::interpose {
namespace {

// std::function<void(const ObjectID&)> of libstdc++: two words for the target, one function that copies and destroys
// the target, and one that calls it. The mangled name of the method that takes it shows that it has this type.
struct RayFunction {
  uintptr_t target[2];
  bool (*manage)(void* to, const void* from, int operation);
  void (*call)(const void* target, const RayObjectId*);
};

// The operations of `manage`. The target is a number and a pointer to an object that is never destroyed, so copying it
// copies its words, and there is nothing to destroy.
constexpr int kGetTarget = 1;
constexpr int kClone = 2;

bool Manage(void* to, const void* from, int operation) {
  if (operation == kGetTarget) std::memcpy(to, &from, sizeof(from));
  if (operation == kClone) std::memcpy(to, from, sizeof(RayFunction::target));
  return false;
}

// Where a call through the slot of GetOwnerInternal stores its counter, on the thread that asks.
struct Capturing {
  const RayCounter* counter = nullptr;
};
thread_local Capturing* t_capturing = nullptr;
std::atomic<GetOwnerInternal> g_original{nullptr};

bool OnGetOwnerInternal(const RayCounter* counter, const RayObjectId* object_id, RayAddress* owner) {
  if (t_capturing != nullptr) t_capturing->counter = counter;
  return g_original.load(std::memory_order_acquire)(counter, object_id, owner);
}

std::atomic<ScopeWatch*> g_watch{nullptr};
Mutex g_making;

}  // namespace

absl::StatusOr<ScopeWatch*> ScopeWatch::Of(const std::string& library_path) {
  const MutexLock lock(&g_making);
  if (ScopeWatch* watch = g_watch.load(std::memory_order_acquire)) return watch;
  const absl::StatusOr<ElfLibrary> library = ElfLibrary::FindLoaded(library_path);
  if (!library.ok()) return library.status();
  absl::StatusOr<Interposition> owner_lookup = Interposition::Prepare(*library, kGetOwnerInternal.mangled);
  if (!owner_lookup.ok()) return owner_lookup.status();
  const absl::StatusOr<RayFunctions> ray = RayFunctions::Resolve(*library);
  if (!ray.ok()) return ray.status();
  const absl::Status checked = ray->SelfCheck();
  if (!checked.ok()) return checked;
  const int descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (descriptor < 0) return absl::InternalError(absl::StrCat("eventfd: ", strerror(errno)));
  g_original.store(owner_lookup->OriginalAs<GetOwnerInternal>(), std::memory_order_release);
  auto* watch = new ScopeWatch(*ray, *std::move(owner_lookup), descriptor);
  g_watch.store(watch, std::memory_order_release);
  return watch;
}

absl::Status ScopeWatch::Capture(const std::function<void()>& ask) {
  const MutexLock lock(&g_making);
  Capturing capturing;
  absl::Status status = owner_lookup_.Attach(reinterpret_cast<uintptr_t>(&OnGetOwnerInternal));
  if (!status.ok()) return status;
  t_capturing = &capturing;
  ask();
  t_capturing = nullptr;
  status = owner_lookup_.Detach();
  if (!status.ok()) return status;
  if (capturing.counter == nullptr) return absl::NotFoundError("Ray did not look up the owner through its slot");
  // The method that found the counter is const, but the counter is not.
  counter_ = const_cast<RayCounter*>(capturing.counter);
  ++generation_;
  return absl::OkStatus();
}

bool ScopeWatch::Add(const ObjectId& object_id) {
  const RayObjectId id = RayObjectId::Of(object_id);
  RayFunction function{{reinterpret_cast<uintptr_t>(this), generation_}, &Manage, &OnOutOfScope};
  return ray_.add_out_of_scope_callback(counter_, &id, &function);
}

bool ScopeWatch::IsFreed(const ObjectId& object_id) const {
  const RayObjectId id = RayObjectId::Of(object_id);
  return ray_.is_freed(counter_, &id);
}

std::vector<ObjectId> ScopeWatch::Take() {
  uint64_t count = 0;
  // Read the descriptor before taking the list, so that every later callback makes it readable again.
  [[maybe_unused]] const ssize_t bytes = read(descriptor_, &count, sizeof(count));
  std::vector<std::pair<uintptr_t, ObjectId>> taken;
  {
    const MutexLock lock(&mutex_);
    taken.swap(gone_);
  }
  std::vector<ObjectId> gone;
  gone.reserve(taken.size());
  for (const auto& [generation, object_id] : taken) {
    if (generation == generation_) gone.push_back(object_id);
  }
  return gone;
}

void ScopeWatch::OnOutOfScope(const void* functor, const RayObjectId* object_id) {
  uintptr_t target[2];
  std::memcpy(target, functor, sizeof(target));
  auto* watch = reinterpret_cast<ScopeWatch*>(target[0]);  // NOLINT
  bool was_empty = false;
  {
    const MutexLock lock(&watch->mutex_);
    was_empty = watch->gone_.empty();
    watch->gone_.emplace_back(target[1], object_id->Read());
  }
  if (!was_empty) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t bytes = write(watch->descriptor_, &one, sizeof(one));
}

}  // namespace mantaray::interpose
