// See refcount_guard.h.

#include "mantaray/interpose/refcount_guard.h"

#include <atomic>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "mantaray/common/ids.h"
#include "mantaray/common/mutex.h"
#include "mantaray/common/steady_clock.h"
#include "mantaray/interpose/borrower_ledger.h"
#include "mantaray/interpose/elf_library.h"
#include "mantaray/interpose/interposition.h"
#include "mantaray/interpose/ray_abi.h"
#include "mantaray/interpose/replacements.h"
#include "mantaray/interpose/stderr_line.h"
#include "mantaray/refcount/repeated_notices.h"

namespace mantaray::interpose {
namespace {

using refcount::Notice;

struct Originals {
  RayFunctions ray;
  CleanupBorrowers cleanup_borrowers;
  WaitForRefRemoved wait_for_ref_removed;
  // Null on releases where Ray does not check its result.
  ChannelUnsubscribe channel_unsubscribe;
};

// The process has one guard. It is never destroyed, because Ray's threads may call a replacement until the very end.
struct Guard {
  // See the header for the order of the locks.
  Mutex clean_ups;

  Mutex attaching ABSL_ACQUIRED_BEFORE(mutex);
  // The slots in the order of attaching. They are restored in the reverse order.
  std::vector<Interposition> slots ABSL_GUARDED_BY(attaching);

  // Set before a replacement is attached, and never unset, because a call may be in progress when the guard is taken
  // back.
  std::atomic<const Originals*> originals{nullptr};
  // The originals of all attaches, for such calls.
  std::vector<std::unique_ptr<const Originals>> kept ABSL_GUARDED_BY(attaching);

  Mutex mutex;
  BorrowerLedger ledger ABSL_GUARDED_BY(mutex);
  refcount::RepeatedNotices repeated ABSL_GUARDED_BY(mutex);
  uint64_t first_notices ABSL_GUARDED_BY(mutex) = 0;
  uint64_t merged_late ABSL_GUARDED_BY(mutex) = 0;
};

Guard& TheGuard() {
  static auto* const guard = new Guard;
  return *guard;
}

// Whether this thread adds a borrower again only to have it removed. Ray must not ask that borrower anything.
thread_local bool t_adding_again = false;

// Whether this thread has handled a "reference removed" message, after which Ray gives up the subscription.
thread_local bool t_message_handled = false;

WorkerId WorkerOf(const RayAddressParts& address) {
  const auto worker = WorkerId::FromBinary(address.worker_id);
  return worker.ok() ? *worker : WorkerId();
}

void OnWaitForRefRemoved(RayCounter* counter, const RayTablePosition* position, const RayAddress* borrower,
                         const RayObjectId* contained_in) {
  Guard& guard = TheGuard();
  if (t_adding_again) {
    t_adding_again = false;
    return;
  }
  {
    const MutexLock lock(&guard.mutex);
    guard.ledger.Add(position->entry->Read(), PartsOf(*borrower).Key());
  }
  guard.originals.load(std::memory_order_acquire)->wait_for_ref_removed(counter, position, borrower, contained_in);
}

bool OnChannelUnsubscribe(RayChannel* channel, const RayAddress* publisher, const void* key) {
  const bool after_message = std::exchange(t_message_handled, false);
  return TheGuard().originals.load(std::memory_order_acquire)->channel_unsubscribe(channel, publisher, key) ||
         after_message;
}

void MergeLate(const Originals& originals, RayCounter* counter, const RayTable* new_borrowers,
               const RayObjectId* object_id, const RayAddress* borrower) {
  Guard& guard = TheGuard();
  // This makes an entry if the object is gone. The entry then has no owner, and goes with the reference.
  originals.ray.add_local_reference(counter, object_id, EmptyRayString());
  if (originals.ray.owned_by_us(counter, object_id)) {
    t_adding_again = true;
    originals.ray.add_borrower_address(counter, object_id, borrower);
    const bool was_there = t_adding_again;
    t_adding_again = false;
    {
      const MutexLock lock(&guard.mutex);
      ++guard.merged_late;
      // Another thread has added it meanwhile. This message then removes it, as any notice would.
      if (was_there) guard.ledger.Remove(object_id->Read(), PartsOf(*borrower).Key());
    }
    originals.cleanup_borrowers(counter, new_borrowers, object_id, borrower);
  }
  originals.ray.remove_local_reference(counter, object_id, nullptr);
}

void OnCleanupBorrowers(RayCounter* counter, const RayTable* new_borrowers, const RayObjectId* object_id,
                        const RayAddress* borrower) {
  Guard& guard = TheGuard();
  const Originals& originals = *guard.originals.load(std::memory_order_acquire);
  // A message always has an entry for its object. After a failure the table is empty.
  const Notice notice = originals.ray.Holds(new_borrowers, object_id) ? Notice::kRefRemoved : Notice::kPublisherFailed;
  const RayAddressParts address = PartsOf(*borrower);
  const ObjectId object = object_id->Read();
  const MutexLock one_at_a_time(&guard.clean_ups);
  bool is_first = false;
  std::optional<std::string> line;
  {
    const MutexLock lock(&guard.mutex);
    is_first = guard.ledger.Remove(object, address.Key());
    if (is_first) {
      ++guard.first_notices;
      guard.repeated.Remember(object, WorkerOf(address), notice);
    } else {
      line = guard.repeated.Repeated(object, WorkerOf(address), notice, SteadyNowMs());
    }
  }
  if (line) WriteStderrLine(absl::StrCat("refcount: ", *line));
  t_message_handled = notice == Notice::kRefRemoved;
  if (is_first) {
    originals.cleanup_borrowers(counter, new_borrowers, object_id, borrower);
  } else if (notice == Notice::kRefRemoved) {
    MergeLate(originals, counter, new_borrowers, object_id, borrower);
  }
}

// In the order of attaching: the guard must record borrowers before it judges the first notice about one of them.
std::vector<Replacement> ReplacementsFor(const ElfLibrary& library) {
  std::vector<Replacement> replacements = {{kWaitForRefRemoved, AddressOf(&OnWaitForRefRemoved)}};
  if (library.DefinitionOf(kCheckedUnsubscribe.mangled).ok()) {
    replacements.push_back({kChannelUnsubscribe, AddressOf(&OnChannelUnsubscribe)});
  }
  replacements.push_back({kCleanupBorrowers, AddressOf(&OnCleanupBorrowers)});
  return replacements;
}

}  // namespace

absl::Status AttachRefcountGuard(const std::string& library_path) {
  Guard& guard = TheGuard();
  const MutexLock lock(&guard.attaching);
  if (!guard.slots.empty()) return absl::OkStatus();
  const absl::StatusOr<ElfLibrary> library = ElfLibrary::FindLoaded(library_path);
  if (!library.ok()) return library.status();
  const std::vector<Replacement> replacements = ReplacementsFor(*library);
  const absl::StatusOr<std::vector<Interposition>> slots = PrepareAll(*library, replacements);
  if (!slots.ok()) return slots.status();
  const absl::StatusOr<RayFunctions> ray = RayFunctions::Resolve(*library);
  if (!ray.ok()) return ray.status();
  const absl::Status status = ray->SelfCheck();
  if (!status.ok()) return status;
  {
    const MutexLock state(&guard.mutex);
    guard.ledger.Clear();
  }
  const bool checks_unsubscribe = slots->size() == 3;
  guard.kept.push_back(std::make_unique<const Originals>(
      Originals{*ray, slots->back().OriginalAs<CleanupBorrowers>(), slots->front().OriginalAs<WaitForRefRemoved>(),
                checks_unsubscribe ? (*slots)[1].OriginalAs<ChannelUnsubscribe>() : nullptr}));
  guard.originals.store(guard.kept.back().get(), std::memory_order_release);
  return AttachAll(replacements, *slots, &guard.slots);
}

absl::Status DetachRefcountGuard() {
  Guard& guard = TheGuard();
  const MutexLock lock(&guard.attaching);
  return DetachAll(&guard.slots);
}

RefcountGuardCounts RefcountGuardCountsOfNow() {
  Guard& guard = TheGuard();
  RefcountGuardCounts counts;
  {
    const MutexLock lock(&guard.attaching);
    counts.attached = !guard.slots.empty();
  }
  const MutexLock lock(&guard.mutex);
  counts.waiting = guard.ledger.size();
  counts.first_notices = guard.first_notices;
  counts.repeated_ref_removed = guard.repeated.count(Notice::kRefRemoved);
  counts.repeated_publisher_failed = guard.repeated.count(Notice::kPublisherFailed);
  counts.merged_late = guard.merged_late;
  return counts;
}

}  // namespace mantaray::interpose
