// The table of a reference counter: object ids and their references. An entry is one line of the processor's cache, and
// a large table lies in huge pages. So finding an entry among millions takes two cache misses, one of which is for the
// entry itself.
//
// A Reference stays where it is until an entry is added or its own entry is erased. Erasing moves no other entry.

#ifndef MANTARAY_REFCOUNT_ENTRY_TABLE_H_
#define MANTARAY_REFCOUNT_ENTRY_TABLE_H_

#include <cstddef>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "mantaray/common/huge_pages.h"
#include "mantaray/common/ids.h"
#include "mantaray/refcount/reference.h"

namespace mantaray::refcount {

struct alignas(64) Entry {
  explicit Entry(const ObjectId& id) : object_id(id) {}

  ObjectId object_id;
  // Mutable, because the set below returns constant entries so that their keys do not change.
  mutable Reference ref;
};
static_assert(sizeof(Entry) == 64, "an entry is one cache line");

class EntryTable {
  struct Hash {
    using is_transparent = void;
    size_t operator()(const ObjectId& id) const { return absl::Hash<ObjectId>()(id); }
    size_t operator()(const Entry& entry) const { return (*this)(entry.object_id); }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(const Entry& entry, const ObjectId& id) const { return entry.object_id == id; }
    bool operator()(const Entry& entry, const Entry& other) const { return entry.object_id == other.object_id; }
  };
  using Set = absl::flat_hash_set<Entry, Hash, Equal, HugePageAllocator<Entry>>;

 public:
  using iterator = Set::iterator;

  // Returns null if there is no such object.
  Reference* Find(const ObjectId& object_id) { return FindIn(entries_, object_id); }
  const Reference* Find(const ObjectId& object_id) const { return FindIn(entries_, object_id); }

  // Returns the reference, and whether it is new.
  std::pair<Reference*, bool> FindOrAdd(const ObjectId& object_id) {
    bool added = false;
    entries_.prefetch(object_id);
    const auto it = entries_.lazy_emplace(object_id, [&](const auto& make) {
      make(object_id);
      added = true;
    });
    return {&it->ref, added};
  }

  // For callers that erase the entry afterwards.
  iterator find(const ObjectId& object_id) { return entries_.find(object_id); }
  void erase(iterator it) { entries_.erase(it); }

  size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  // References may be changed, but ids may not.
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }
  iterator end() { return entries_.end(); }

 private:
  static Reference* FindIn(const Set& entries, const ObjectId& object_id) {
    // Fetches the likely place of the entry while the set still looks up whether it exists.
    entries.prefetch(object_id);
    const auto it = entries.find(object_id);
    return it == entries.end() ? nullptr : &it->ref;
  }

  Set entries_;
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_ENTRY_TABLE_H_
