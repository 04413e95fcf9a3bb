// A small shared library that is built like Ray's: it exports a class with the same names and signatures, whose methods
// call one another through slots. Its counter keeps what matters for the guards, and ends the process where Ray's does.
//
// Like Ray, it is compiled with the strings of libstdc++ before C++11. Calls between methods must go through slots, so
// the library is compiled without inlining. Functions with C names let a test play the cluster around the counter.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#define EXPORTED __attribute__((visibility("default"), noinline))

namespace google::protobuf {
class Arena;
template <typename T>
class RepeatedPtrField {
 public:
  EXPORTED T* Add();

 private:
  void* arena_ = nullptr;
  int size_ = 0;
  int capacity_ = 0;
  std::vector<T*>* messages_ = nullptr;
};
}  // namespace google::protobuf

// Only the names matter. The table is a small map of its own behind the names of Abseil.
namespace absl::lts_20230802 {
namespace hash_internal {
template <typename T>
struct Hash {};
}  // namespace hash_internal
namespace container_internal {
template <typename K, typename V>
struct FlatHashMapPolicy;
template <typename K, typename V>
struct FlatHashMapPolicy {
  using Key = K;
  using Slot = std::pair<const K, V>;
};
template <typename Policy, typename Hash, typename Eq, typename Alloc>
class raw_hash_set {
 public:
  struct iterator {
    void* control;
    typename Policy::Slot* slot;
  };
  struct const_iterator {
    void* control;
    typename Policy::Slot* slot;
  };
  // As in Abseil, the type of the argument does not depend on K.
  template <typename K>
  EXPORTED const_iterator find(const typename Policy::Key& key) const;
  template <typename K>
  EXPORTED iterator find(const typename Policy::Key& key);
  EXPORTED void destroy_slots();

  mutable std::map<typename Policy::Key, typename Policy::Slot*> slots;
};
}  // namespace container_internal
template <typename K, typename V, typename H, typename E, typename A>
class flat_hash_map : public container_internal::raw_hash_set<container_internal::FlatHashMapPolicy<K, V>, H, E, A> {};
}  // namespace absl::lts_20230802

namespace ray {

// Packed, as Ray's is.
class __attribute__((packed)) ObjectID {
 public:
  ObjectID() { std::memset(id_, 0xff, sizeof(id_)); }
  EXPORTED uint32_t ObjectIndex() const;
  bool operator<(const ObjectID& other) const { return std::memcmp(id_, other.id_, sizeof(id_)) < 0; }
  const unsigned char* bytes() const { return id_; }
  unsigned char* mutable_bytes() { return id_; }

 private:
  mutable size_t hash_ = 0;
  unsigned char id_[28];
};

uint32_t ObjectID::ObjectIndex() const {
  uint32_t index = 0;
  std::memcpy(&index, id_ + 24, sizeof(index));
  return index;
}

namespace rpc {
std::string* Empty() {
  static std::string empty;
  return &empty;
}

// As protobuf lays it out.
class Address {
 public:
  EXPORTED explicit Address(google::protobuf::Arena* arena);
  EXPORTED virtual ~Address();
  EXPORTED size_t ByteSizeLong() const;

  void* metadata = nullptr;
  std::string* node_id;
  std::string* ip_address;
  std::string* worker_id;
  int32_t port = 0;
};

Address::Address(google::protobuf::Arena*) : node_id(Empty()), ip_address(Empty()), worker_id(Empty()) {}
Address::~Address() = default;
size_t Address::ByteSizeLong() const {
  size_t bytes = port == 0 ? 0 : port < 128 ? 2 : 3;
  for (const std::string* field : {node_id, ip_address, worker_id}) bytes += field->empty() ? 0 : 2 + field->size();
  return bytes;
}

class ObjectReferenceCount {
 public:
  char bytes[64] = {};
};
}  // namespace rpc

namespace pubsub {
class SubscriberChannel {
 public:
  EXPORTED bool Unsubscribe(const rpc::Address& publisher, const std::optional<std::string>& key);

  std::mutex mutex;
  std::set<std::pair<std::string, std::string>> subscriptions;
};

bool SubscriberChannel::Unsubscribe(const rpc::Address& publisher, const std::optional<std::string>& key) {
  const std::lock_guard<std::mutex> lock(mutex);
  return subscriptions.erase({*publisher.worker_id, *key}) != 0;
}
}  // namespace pubsub

namespace rpc {
enum ChannelType : int { kRefRemoved = 2 };
}  // namespace rpc

namespace pubsub {
// As Ray 2.48 and 2.49 have it.
class Subscriber {
 public:
  EXPORTED bool Unsubscribe(rpc::ChannelType type, const rpc::Address& publisher, const std::string& key);

  SubscriberChannel channel;
};

bool Subscriber::Unsubscribe(rpc::ChannelType, const rpc::Address& publisher, const std::string& key) {
  return channel.Unsubscribe(publisher, key);
}
}  // namespace pubsub

namespace core {
class ReferenceCounter {
 public:
  struct Reference {
    std::set<std::string> borrowers;
    std::set<ObjectID> contains;
    std::set<ObjectID> contained_in;
    bool owned = false;
    int local = 0;
    int lineage = 0;
  };
  using Table =
      absl::lts_20230802::flat_hash_map<ObjectID, Reference, absl::lts_20230802::hash_internal::Hash<ObjectID>,
                                        std::equal_to<ObjectID>, std::allocator<std::pair<const ObjectID, Reference>>>;
  using iterator = absl::lts_20230802::container_internal::raw_hash_set<
      absl::lts_20230802::container_internal::FlatHashMapPolicy<ObjectID, Reference>,
      absl::lts_20230802::hash_internal::Hash<ObjectID>, std::equal_to<ObjectID>,
      std::allocator<std::pair<const ObjectID, Reference>>>::iterator;

  EXPORTED void AddLocalReference(const ObjectID& id, const std::string& call_site);
  EXPORTED void RemoveLocalReference(const ObjectID& id, std::vector<ObjectID>* deleted);
  EXPORTED bool OwnedByUs(const ObjectID& id) const;
  EXPORTED void AddBorrowerAddress(const ObjectID& id, const rpc::Address& borrower);
  EXPORTED bool IsPlasmaObjectFreed(const ObjectID& id) const;
  EXPORTED bool AddObjectOutOfScopeOrFreedCallback(const ObjectID& id, std::function<void(const ObjectID&)> callback);
  EXPORTED void CleanupBorrowersOnRefRemoved(const Table& table, const ObjectID& id, const rpc::Address& borrower);
  EXPORTED void WaitForRefRemoved(const iterator& position, const rpc::Address& borrower, const ObjectID& contained_in);
  EXPORTED void DeleteReferenceInternal(iterator position, std::vector<ObjectID>* deleted);
  EXPORTED void EraseReference(iterator position);
  EXPORTED bool AddBorrowedObjectInternal(const ObjectID& id, const ObjectID& outer, const rpc::Address& owner,
                                          bool foreign_owner);
  EXPORTED void AddNestedObjectIdsInternal(const ObjectID& outer, const std::vector<ObjectID>& inner,
                                           const rpc::Address& owner);
  EXPORTED bool GetOwnerInternal(const ObjectID& id, rpc::Address* owner) const;
  EXPORTED static Table ReferenceTableFromProto(
      const google::protobuf::RepeatedPtrField<rpc::ObjectReferenceCount>& proto);

  void Delete(const ObjectID& id);

  mutable std::recursive_mutex mutex;
  Table references;
  std::map<ObjectID, std::vector<std::function<void(const ObjectID&)>>> callbacks;
  std::set<ObjectID> freed;
  int questions = 0;
};

using Locked = std::lock_guard<std::recursive_mutex>;

ReferenceCounter::Reference& EntryOf(ReferenceCounter& counter, const ObjectID& id) {
  auto& slot = counter.references.slots[id];
  if (slot == nullptr) slot = new std::pair<const ObjectID, ReferenceCounter::Reference>(id, {});
  return slot->second;
}

void ReferenceCounter::Delete(const ObjectID& id) {
  auto found = references.slots.find(id);
  if (found != references.slots.end()) DeleteReferenceInternal({this, found->second}, nullptr);
}

// As in Ray, with the check that fails when the object goes out of scope for the second time.
void ReferenceCounter::DeleteReferenceInternal(iterator position, std::vector<ObjectID>* deleted) {
  const ObjectID id = position.slot->first;
  const Reference& reference = position.slot->second;
  if (reference.local > 0 || !reference.borrowers.empty() || !reference.contained_in.empty()) return;
  for (const ObjectID& inner : reference.contains) {
    const iterator found = references.find<ObjectID>(inner);
    if (found.control == nullptr) continue;
    if (found.slot->second.contained_in.erase(id) == 0) {
      std::fprintf(stderr, "Check failed: inner_it->second.mutable_nested()->contained_in_borrowed_ids.erase(id)\n");
      std::abort();
    }
    DeleteReferenceInternal(found, deleted);
  }
  for (const auto& callback : callbacks[id]) callback(id);
  callbacks.erase(id);
  if (reference.lineage > 0) return;
  EraseReference(position);
}

void ReferenceCounter::EraseReference(iterator position) {
  references.slots.erase(position.slot->first);
  delete position.slot;
}

bool ReferenceCounter::AddBorrowedObjectInternal(const ObjectID& id, const ObjectID& outer, const rpc::Address&, bool) {
  EntryOf(*this, id).contained_in.insert(outer);
  EntryOf(*this, outer).contains.insert(id);
  return true;
}

void ReferenceCounter::AddNestedObjectIdsInternal(const ObjectID& outer, const std::vector<ObjectID>& inner,
                                                  const rpc::Address&) {
  for (const ObjectID& id : inner) {
    EntryOf(*this, id).contained_in.insert(outer);
    EntryOf(*this, outer).contains.insert(id);
  }
}

void ReferenceCounter::AddLocalReference(const ObjectID& id, const std::string& call_site) {
  const Locked lock(mutex);
  // Ray keeps a copy, so copying must work with a string of the caller.
  const std::string copy = call_site;  // NOLINT(performance-unnecessary-copy-initialization)
  EntryOf(*this, id).local += 1 + static_cast<int>(copy.size());
}

void ReferenceCounter::RemoveLocalReference(const ObjectID& id, std::vector<ObjectID>*) {
  const Locked lock(mutex);
  --EntryOf(*this, id).local;
  Delete(id);
}

bool ReferenceCounter::OwnedByUs(const ObjectID& id) const {
  const Locked lock(mutex);
  auto found = references.slots.find(id);
  return found != references.slots.end() && found->second->second.owned;
}

void ReferenceCounter::AddBorrowerAddress(const ObjectID& id, const rpc::Address& borrower) {
  const Locked lock(mutex);
  auto found = references.slots.find(id);
  if (found == references.slots.end()) std::abort();
  if (!found->second->second.borrowers.insert(*borrower.worker_id).second) return;
  WaitForRefRemoved({this, found->second}, borrower, ObjectID());
}

bool ReferenceCounter::IsPlasmaObjectFreed(const ObjectID& id) const {
  const Locked lock(mutex);
  return freed.count(id) != 0;
}

// The callback is passed by value, as in Ray.
bool ReferenceCounter::AddObjectOutOfScopeOrFreedCallback(const ObjectID& id,
                                                          // NOLINTNEXTLINE(performance-unnecessary-value-param)
                                                          std::function<void(const ObjectID&)> callback) {
  const Locked lock(mutex);
  if (references.slots.count(id) == 0) return false;
  callbacks[id].push_back(callback);
  return true;
}

void ReferenceCounter::WaitForRefRemoved(const iterator&, const rpc::Address&, const ObjectID&) { ++questions; }

bool ReferenceCounter::GetOwnerInternal(const ObjectID& id, rpc::Address*) const {
  return references.slots.count(id) != 0;
}

// A table's entries stand for the new borrowers that a message names.
void ReferenceCounter::CleanupBorrowersOnRefRemoved(const Table& table, const ObjectID& id,
                                                    const rpc::Address& borrower) {
  const Locked lock(mutex);
  auto message = table.slots.find(id);
  auto found = references.slots.find(id);
  if (found == references.slots.end()) {
    std::fprintf(stderr, "Check failed: it != object_id_refs_.end()\n");
    std::abort();
  }
  if (message != table.slots.end()) {
    for (const std::string& name : message->second->second.borrowers) {
      std::string copy = name;
      rpc::Address other(nullptr);
      other.worker_id = &copy;
      if (found->second->second.borrowers.insert(name).second) {
        WaitForRefRemoved({this, found->second}, other, ObjectID());
      }
    }
  }
  if (found->second->second.borrowers.erase(*borrower.worker_id) == 0) {
    std::fprintf(stderr, "Check failed: it->second.mutable_borrow()->borrowers.erase(borrower_addr)\n");
    std::abort();
  }
  Delete(id);
}

ReferenceCounter::Table ReferenceCounter::ReferenceTableFromProto(
    const google::protobuf::RepeatedPtrField<rpc::ObjectReferenceCount>&) {
  Table table;
  table.slots[ObjectID()] = new std::pair<const ObjectID, Reference>(ObjectID(), {});
  return table;
}
}  // namespace core
}  // namespace ray

namespace absl::lts_20230802::container_internal {
template <typename Policy, typename Hash, typename Eq, typename Alloc>
template <typename K>
typename raw_hash_set<Policy, Hash, Eq, Alloc>::const_iterator raw_hash_set<Policy, Hash, Eq, Alloc>::find(
    const typename Policy::Key& key) const {
  auto found = slots.find(key);
  if (found == slots.end()) return {nullptr, nullptr};
  return {const_cast<raw_hash_set*>(this), found->second};
}
template <typename Policy, typename Hash, typename Eq, typename Alloc>
template <typename K>
typename raw_hash_set<Policy, Hash, Eq, Alloc>::iterator raw_hash_set<Policy, Hash, Eq, Alloc>::find(
    const typename Policy::Key& key) {
  auto found = slots.find(key);
  if (found == slots.end()) return {nullptr, nullptr};
  return {this, found->second};
}
template <typename Policy, typename Hash, typename Eq, typename Alloc>
void raw_hash_set<Policy, Hash, Eq, Alloc>::destroy_slots() {
  for (auto& [key, slot] : slots) delete slot;
  slots.clear();
}
}  // namespace absl::lts_20230802::container_internal

namespace google::protobuf {
template <typename T>
T* RepeatedPtrField<T>::Add() {
  if (messages_ == nullptr) messages_ = new std::vector<T*>;
  messages_->push_back(new T);
  return messages_->back();
}
template class RepeatedPtrField<ray::rpc::ObjectReferenceCount>;
}  // namespace google::protobuf

template ray::core::ReferenceCounter::Table::const_iterator
ray::core::ReferenceCounter::Table::raw_hash_set::find<ray::ObjectID>(const ray::ObjectID&) const;
template ray::core::ReferenceCounter::Table::iterator
ray::core::ReferenceCounter::Table::raw_hash_set::find<ray::ObjectID>(const ray::ObjectID&);
template void ray::core::ReferenceCounter::Table::raw_hash_set::destroy_slots();
template void std::vector<ray::ObjectID>::push_back(const ray::ObjectID&);

// --- Functions with which a test plays the cluster

using ray::ObjectID;
using ray::core::ReferenceCounter;

namespace {
ObjectID Object(uint64_t number) {
  ObjectID id;
  std::memset(id.mutable_bytes(), 0, 28);
  std::memcpy(id.mutable_bytes(), &number, sizeof(number));
  return id;
}
}  // namespace

// A function without a size in the symbol table.
asm(".text\n"
    ".globl fake_without_size\n"
    ".type fake_without_size, %function\n"
    "fake_without_size:\n"
    "ret\n");

#define PLAYED extern "C" EXPORTED

PLAYED void* fake_counter() { return new ReferenceCounter; }

PLAYED void fake_own(void* counter, uint64_t object) {
  auto* self = static_cast<ReferenceCounter*>(counter);
  const ray::core::Locked lock(self->mutex);
  auto& entry = EntryOf(*self, Object(object));
  entry.owned = true;
  ++entry.local;
}

PLAYED void fake_drop(void* counter, uint64_t object) {
  static_cast<ReferenceCounter*>(counter)->RemoveLocalReference(Object(object), nullptr);
}

PLAYED void fake_free(void* counter, uint64_t object) {
  static_cast<ReferenceCounter*>(counter)->freed.insert(Object(object));
}

PLAYED void fake_borrow(void* counter, uint64_t object, const char* worker) {
  std::string name(worker, 28);
  ray::rpc::Address address(nullptr);
  address.worker_id = &name;
  static_cast<ReferenceCounter*>(counter)->AddBorrowerAddress(Object(object), address);
}

// A notice, as Ray's two callbacks handle it: a failure if `failed`, otherwise a message that names another borrower or
// none. After a message the library gives up the subscription and checks the result. Here a failure has always come
// first.
PLAYED void fake_notice(void* counter, uint64_t object, const char* worker, bool failed, const char* new_borrower) {
  std::string name(worker, 28);
  ray::rpc::Address address(nullptr);
  address.worker_id = &name;
  const ObjectID id = Object(object);
  ReferenceCounter::Table table;
  std::pair<const ObjectID, ReferenceCounter::Reference> entry(id, {});
  if (new_borrower != nullptr) entry.second.borrowers.insert(std::string(new_borrower, 28));
  if (!failed) table.slots[id] = &entry;
  static_cast<ReferenceCounter*>(counter)->CleanupBorrowersOnRefRemoved(table, id, address);
  if (failed) return;
  static ray::pubsub::Subscriber subscriber;
  if (!subscriber.Unsubscribe(ray::rpc::kRefRemoved, address, name)) {
    std::fprintf(stderr, "Check failed: object_info_subscriber_->Unsubscribe\n");
    std::abort();
  }
}

PLAYED bool fake_owner_is_known(void* counter, uint64_t object) {
  return static_cast<ReferenceCounter*>(counter)->GetOwnerInternal(Object(object), nullptr);
}

// One object contains another. Either this process made the outer object, or it found the inner object in it.
PLAYED void fake_contain(void* counter, uint64_t outer, uint64_t inner, bool made) {
  auto* self = static_cast<ReferenceCounter*>(counter);
  const ray::core::Locked lock(self->mutex);
  const ray::rpc::Address address(nullptr);
  if (made) {
    self->AddNestedObjectIdsInternal(Object(outer), {Object(inner)}, address);
  } else {
    self->AddBorrowedObjectInternal(Object(inner), Object(outer), address, false);
  }
}

// Changes the number of tasks that need the object if they run again. As in Ray, the entry of an unused object goes
// with the last of them.
PLAYED void fake_lineage(void* counter, uint64_t object, int change) {
  auto* self = static_cast<ReferenceCounter*>(counter);
  const ray::core::Locked lock(self->mutex);
  auto& entry = EntryOf(*self, Object(object));
  entry.lineage += change;
  const bool unused = entry.local == 0 && entry.borrowers.empty() && entry.contained_in.empty();
  if (change < 0 && entry.lineage == 0 && unused) self->EraseReference({self, self->references.slots[Object(object)]});
}

// Uses the object for a moment. With `change` 0, only the owner asks whether it is used.
PLAYED void fake_use(void* counter, uint64_t object, int change) {
  auto* self = static_cast<ReferenceCounter*>(counter);
  const ray::core::Locked lock(self->mutex);
  EntryOf(*self, Object(object)).local += change;
  EntryOf(*self, Object(object)).local -= change;
  self->Delete(Object(object));
}

PLAYED int fake_size(void* counter) {
  auto* self = static_cast<ReferenceCounter*>(counter);
  const ray::core::Locked lock(self->mutex);
  return static_cast<int>(self->references.slots.size());
}

PLAYED int fake_questions(void* counter) {
  auto* self = static_cast<ReferenceCounter*>(counter);
  const ray::core::Locked lock(self->mutex);
  return self->questions;
}
