// The search for garbage in a forked child; see the header.

#include "mantaray/python/heap_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "absl/strings/str_cat.h"

namespace mantaray::python {
namespace {

struct Found {
  uintptr_t link;
  uintptr_t type;
  uint32_t group;
};

// Anonymous memory that the kernel gives page by page. Null if it does not.
template <typename T>
T* Map(size_t count, int flags) {
  const size_t bytes = std::max<size_t>(count, 1) * sizeof(T);  // NOLINT(bugprone-sizeof-expression): pointers too.
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<T*>(memory);
}

// The child's notes about each object, which are beside the object and not in it. Marks share the field of the counts.
class Table {
 public:
  // References that come from no tracked object; a reachable object; garbage number n as kFirstGarbage - n.
  static constexpr int32_t kReachable = -1;
  static constexpr int32_t kFirstGarbage = -2;
  static constexpr int32_t kManyReferences = 1 << 30;

  bool Make(size_t objects) {
    capacity_ = objects + objects / 2 + objects / 4 + 16;
    keys_ = Map<uintptr_t>(capacity_, MAP_PRIVATE);
    values_ = Map<int32_t>(capacity_, MAP_PRIVATE);
    return keys_ != nullptr && values_ != nullptr;
  }

  void Insert(uintptr_t link, int32_t value) {
    size_t slot = First(link);
    while (keys_[slot] != 0) slot = Next(slot);
    keys_[slot] = link;
    values_[slot] = value;
  }

  int32_t* Find(uintptr_t link) {
    for (size_t slot = First(link); keys_[slot] != 0; slot = Next(slot)) {
      if (keys_[slot] == link) return &values_[slot];
    }
    return nullptr;
  }

 private:
  size_t First(uintptr_t link) const {
    const uint64_t mixed = (link >> 4) * UINT64_C(0x9E3779B97F4A7C15);
    return static_cast<size_t>((static_cast<unsigned __int128>(mixed) * capacity_) >> 64);
  }
  size_t Next(size_t slot) const { return slot + 1 == capacity_ ? 0 : slot + 1; }

  size_t capacity_ = 0;
  uintptr_t* keys_ = nullptr;
  int32_t* values_ = nullptr;
};

uintptr_t KeyOf(PyObject* object) { return reinterpret_cast<uintptr_t>(LinkOf(object)); }

void Traverse(HeapLink* link, visitproc visit, void* argument) {
  PyObject* const object = ObjectOf(link);
  if (const traverseproc traverse = Py_TYPE(object)->tp_traverse) traverse(object, visit, argument);
}

// The whole work of the child.
class Search {
 public:
  explicit Search(const HeapLists& lists) : lists_(lists) {}

  // Returns false if memory is short.
  bool Run() {
    ForEach([this](HeapLink*) { ++seen_; });
    if (!table_.Make(seen_) || (pending_ = Map<HeapLink*>(seen_, MAP_PRIVATE)) == nullptr) return false;
    ForEach([this](HeapLink* link) {
      const Py_ssize_t references = Py_REFCNT(ObjectOf(link));
      table_.Insert(reinterpret_cast<uintptr_t>(link),
                    static_cast<int32_t>(std::min<Py_ssize_t>(references, Table::kManyReferences)));
    });
    ForEach([this](HeapLink* link) { Traverse(link, &Search::VisitDecrement, this); });
    ForEach([this](HeapLink* link) {
      if (*table_.Find(reinterpret_cast<uintptr_t>(link)) > 0) MarkFrom(link);
    });
    return true;
  }

  // Writes the garbage group by group; returns false if memory is short.
  bool Write(Found* found, size_t max_found, std::atomic<size_t>* written) {
    size_t garbage = 0;
    ForEach([&](HeapLink* link) {
      int32_t* const value = table_.Find(reinterpret_cast<uintptr_t>(link));
      if (*value == Table::kReachable || garbage == max_found) return;
      pending_[garbage] = link;
      *value = Table::kFirstGarbage - static_cast<int32_t>(garbage++);
    });
    parents_ = Map<uint32_t>(garbage, MAP_PRIVATE);
    uint32_t* const places = Map<uint32_t>(garbage + 1, MAP_PRIVATE);
    if (parents_ == nullptr || places == nullptr) return false;
    for (uint32_t i = 0; i < garbage; ++i) parents_[i] = i;
    for (current_ = 0; current_ < garbage; ++current_) Traverse(pending_[current_], &Search::VisitUnite, this);
    // A counting sort by group.
    for (uint32_t i = 0; i < garbage; ++i) ++places[Root(i) + 1];
    for (size_t i = 1; i <= garbage; ++i) places[i] += places[i - 1];
    for (uint32_t i = 0; i < garbage; ++i) {
      const uint32_t root = Root(i);
      const PyObject* const object = ObjectOf(pending_[i]);
      found[places[root]++] = {reinterpret_cast<uintptr_t>(pending_[i]), reinterpret_cast<uintptr_t>(Py_TYPE(object)),
                               root};
    }
    written->store(garbage, std::memory_order_release);
    return true;
  }

  size_t seen() const { return seen_; }

 private:
  template <typename Function>
  void ForEach(Function function) {
    for (HeapLink* head : lists_.heads()) {
      for (HeapLink* link = NextOf(head); link != head; link = NextOf(link)) function(link);
    }
  }

  static int VisitDecrement(PyObject* object, void* self) {
    int32_t* const value = static_cast<Search*>(self)->table_.Find(KeyOf(object));
    if (value != nullptr && *value > 0) --*value;
    return 0;
  }

  static int VisitMark(PyObject* object, void* self) {
    Search* const search = static_cast<Search*>(self);
    int32_t* const value = search->table_.Find(KeyOf(object));
    if (value != nullptr && *value != Table::kReachable) {
      *value = Table::kReachable;
      search->pending_[search->waiting_++] = LinkOf(object);
    }
    return 0;
  }

  void MarkFrom(HeapLink* link) {
    *table_.Find(reinterpret_cast<uintptr_t>(link)) = Table::kReachable;
    pending_[waiting_++] = link;
    while (waiting_ > 0) Traverse(pending_[--waiting_], &Search::VisitMark, this);
  }

  static int VisitUnite(PyObject* object, void* self) {
    Search* const search = static_cast<Search*>(self);
    const int32_t* const value = search->table_.Find(KeyOf(object));
    if (value != nullptr && *value <= Table::kFirstGarbage) {
      search->parents_[search->Root(static_cast<uint32_t>(search->current_))] =
          search->Root(static_cast<uint32_t>(Table::kFirstGarbage - *value));
    }
    return 0;
  }

  uint32_t Root(uint32_t node) {
    while (parents_[node] != node) node = parents_[node] = parents_[parents_[node]];
    return node;
  }

  const HeapLists& lists_;
  Table table_;
  size_t seen_ = 0;
  HeapLink** pending_ = nullptr;
  size_t waiting_ = 0;
  uint32_t* parents_ = nullptr;
  size_t current_ = 0;
};

// Makes the child the first process that the kernel ends if memory is short, and prevents a core dump of it.
void BecomeExpendable(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_DUMPABLE, 0);
  if (getppid() != parent) _exit(1);
  setpriority(PRIO_PROCESS, 0, 15);
}

void MakeFirstVictim() {
  const int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  const ssize_t ignored = write(file, "1000", 4);
  static_cast<void>(ignored);
  close(file);
}

// Copies memory of this process that may no longer be mapped. Returns how many parts, from the first on, could be read.
template <typename T, size_t kParts>
size_t ReadParts(const std::array<uintptr_t, kParts>& addresses, size_t count, std::array<T, kParts>& parts) {
  std::array<iovec, kParts> remote;
  for (size_t i = 0; i < count; ++i) remote[i] = {LinkAt(addresses[i]), sizeof(T)};
  const iovec local = {parts.data(), count * sizeof(T)};
  const ssize_t bytes = process_vm_readv(getpid(), &local, 1, remote.data(), count, 0);
  return bytes < 0 ? 0 : static_cast<size_t>(bytes) / sizeof(T);
}

}  // namespace

// Shared by parent and child.
struct HeapScan::Report {
  std::atomic<size_t> seen;
  std::atomic<size_t> written;
  std::atomic<bool> complete;
  Found found[kMaxFound];
};

HeapScan::~HeapScan() {
  Stop();
  if (report_ != nullptr) munmap(report_, sizeof(Report));
}

absl::Status HeapScan::Start() {
  report_ = Map<Report>(1, MAP_SHARED);
  if (report_ == nullptr) return absl::ResourceExhaustedError("no memory for the report of a heap scan");
  // No handler of the process may run in the child.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t parent = getpid();
  const long child = syscall(SYS_clone, CLONE_FILES, 0, 0, 0, 0);
  if (child == 0) {
    BecomeExpendable(parent);
    RunChild();
  }
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (child < 0) return absl::ResourceExhaustedError(absl::StrCat("a heap scan cannot fork: ", strerror(error)));
  child_ = static_cast<pid_t>(child);
  state_ = State::kRunning;
  return absl::OkStatus();
}

void HeapScan::RunChild() {
  MakeFirstVictim();
  Search search(lists_);
  bool done = search.Run();
  report_->seen.store(search.seen(), std::memory_order_relaxed);
  done = done && search.Write(report_->found, kMaxFound, &report_->written);
  report_->complete.store(done, std::memory_order_release);
  // The raw system call, because no exit handler of the process may run here.
  syscall(SYS_exit_group, 0);
  __builtin_unreachable();
}

HeapScan::State HeapScan::Poll() {
  if (state_ != State::kRunning) return state_;
  const pid_t ended = waitpid(child_, nullptr, WNOHANG | __WALL);
  if (ended == 0) return state_;
  child_ = 0;
  state_ = report_->complete.load(std::memory_order_acquire) ? State::kDone : State::kFailed;
  return state_;
}

void HeapScan::Stop() {
  if (state_ != State::kRunning) return;
  kill(child_, SIGKILL);
  while (waitpid(child_, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  child_ = 0;
  state_ = State::kFailed;
}

bool HeapScan::IsAsReported(size_t begin, size_t end) const {
  constexpr size_t kParts = 256;
  // A link, and behind it the object's reference count and its type.
  struct Head {
    HeapLink link;
    uintptr_t references;
    uintptr_t type;
  };
  std::array<uintptr_t, kParts> addresses;
  std::array<Head, kParts> heads;
  std::array<uintptr_t, kParts> neighbours;
  std::array<HeapLink, kParts> links;
  for (size_t first = begin; first < end; first += kParts) {
    const size_t count = std::min(kParts, end - first);
    for (size_t i = 0; i < count; ++i) addresses[i] = report_->found[first + i].link;
    if (ReadParts(addresses, count, heads) != count) return false;
    for (size_t i = 0; i < count; ++i) {
      if (heads[i].type != report_->found[first + i].type) return false;
      neighbours[i] = reinterpret_cast<uintptr_t>(NextOf(&heads[i].link));
    }
    if (ReadParts(neighbours, count, links) != count) return false;
    for (size_t i = 0; i < count; ++i) {
      if (reinterpret_cast<uintptr_t>(PreviousOf(&links[i])) != addresses[i]) return false;
      neighbours[i] = reinterpret_cast<uintptr_t>(PreviousOf(&heads[i].link));
    }
    if (ReadParts(neighbours, count, links) != count) return false;
    for (size_t i = 0; i < count; ++i) {
      if (reinterpret_cast<uintptr_t>(NextOf(&links[i])) != addresses[i]) return false;
    }
  }
  return true;
}

size_t HeapScan::Bring(size_t limit) {
  size_t moved = 0;
  while (state_ == State::kDone && next_ < found() && moved < limit) {
    const size_t begin = next_;
    const uint32_t group = report_->found[begin].group;
    size_t end = begin + 1;
    while (end < found() && report_->found[end].group == group) ++end;
    if (moved > 0 && moved + (end - begin) > limit) break;
    next_ = end;
    if (!IsAsReported(begin, end)) {
      stale_ += end - begin;
      continue;
    }
    for (size_t i = begin; i < end; ++i) lists_.MakeYoung(LinkAt(report_->found[i].link));
    moved += end - begin;
  }
  return moved;
}

size_t HeapScan::left() const { return state_ == State::kDone ? found() - next_ : 0; }
size_t HeapScan::seen() const { return report_ == nullptr ? 0 : report_->seen.load(std::memory_order_relaxed); }
size_t HeapScan::found() const { return report_ == nullptr ? 0 : report_->written.load(std::memory_order_acquire); }

}  // namespace mantaray::python
