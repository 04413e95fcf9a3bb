// A map that is small with few entries, takes constant time with many, and always iterates in an order that depends
// only on the operations on it. absl's hash maps iterate in a different order in every process, so a simulation could
// not replay a seed.
//
// Erasing moves the last entry into the gap. Pointers and iterators do not survive an insertion or an erasure.

#ifndef MANTARAY_REFCOUNT_ORDERED_MAP_H_
#define MANTARAY_REFCOUNT_ORDERED_MAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace mantaray::refcount {

template <typename Key, typename Value>
class OrderedMap {
 public:
  using Entry = std::pair<Key, Value>;

  Value* Find(const Key& key) {
    const size_t index = IndexOf(key);
    return index == entries_.size() ? nullptr : &entries_[index].second;
  }
  bool contains(const Key& key) const { return IndexOf(key) != entries_.size(); }

  // Returns the value, and whether it is new. An existing value stays as it is.
  std::pair<Value*, bool> Emplace(const Key& key, Value value) {
    if (Value* existing = Find(key)) return {existing, false};
    entries_.emplace_back(key, std::move(value));
    if (index_ != nullptr) {
      index_->emplace(key, static_cast<uint32_t>(entries_.size() - 1));
    } else if (entries_.size() > kScanned) {
      MakeIndex();
    }
    return {&entries_.back().second, true};
  }

  bool Erase(const Key& key) {
    const size_t index = IndexOf(key);
    if (index == entries_.size()) return false;
    if (index_ != nullptr) {
      index_->erase(key);
      if (index + 1 != entries_.size()) (*index_)[entries_.back().first] = static_cast<uint32_t>(index);
    }
    if (index + 1 != entries_.size()) entries_[index] = std::move(entries_.back());
    entries_.pop_back();
    if (entries_.empty()) *this = OrderedMap();
    return true;
  }

  void clear() { *this = OrderedMap(); }
  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  auto begin() const { return entries_.begin(); }
  // Values may be changed, but keys may not.
  auto begin() { return entries_.begin(); }
  auto end() { return entries_.end(); }
  auto end() const { return entries_.end(); }

 private:
  // Up to this many entries, a scan is faster than a hash.
  static constexpr size_t kScanned = 12;
  using Index = absl::flat_hash_map<Key, uint32_t>;

  size_t IndexOf(const Key& key) const {
    if (index_ != nullptr) {
      const auto it = index_->find(key);
      return it == index_->end() ? entries_.size() : it->second;
    }
    size_t index = 0;
    while (index < entries_.size() && !(entries_[index].first == key)) ++index;
    return index;
  }

  void MakeIndex() {
    index_ = std::make_unique<Index>();
    for (size_t i = 0; i < entries_.size(); ++i) index_->emplace(entries_[i].first, static_cast<uint32_t>(i));
  }

  std::vector<Entry> entries_;
  std::unique_ptr<Index> index_;
};

struct Nothing {};

template <typename Key>
class OrderedSet : public OrderedMap<Key, Nothing> {
 public:
  bool Insert(const Key& key) { return this->Emplace(key, Nothing()).second; }
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_ORDERED_MAP_H_
