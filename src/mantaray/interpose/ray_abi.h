// How to call Ray's reference counter, and how its arguments are laid out in memory.
//
// Ray's library exports the methods of ray::core::ReferenceCounter. This header names those that Mantaray calls or
// replaces, by the mangled names that Ray 2.48.0 to 2.60.0 share. The mangled names also say which libraries define the
// types: `Ss` is the string of libstdc++ before C++11, `St8function` its std::function, `lts_20230802` the Abseil.
//
// Mantaray reads only three kinds of objects. It verifies each assumption about them on known values before it attaches
// anything (SelfCheck):
//   ObjectID     28 bytes behind one word for the cached hash
//   iterator     two words, of which the second points to the table's entry, which begins with its ObjectID; the first
//                is null for "not found"
//   rpc::Address three strings (node id, ip address, worker id) and the port

#ifndef MANTARAY_INTERPOSE_RAY_ABI_H_
#define MANTARAY_INTERPOSE_RAY_ABI_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mantaray/common/ids.h"
#include "mantaray/interpose/elf_library.h"

namespace mantaray::interpose {

// ray::ObjectID. Ray packs it, so it takes 36 bytes and has no alignment.
struct __attribute__((packed)) RayObjectId {
  static RayObjectId Of(const ObjectId& object_id);
  ObjectId Read() const;

  // Zero until Ray has computed it.
  mutable size_t hash = 0;
  unsigned char bytes[ObjectId::kBytes];
};

// absl's raw_hash_set::iterator. It is passed in two registers when it is passed by value.
struct RayTablePosition {
  const void* control;
  const RayObjectId* entry;
};

// std::vector<ray::ObjectID>.
struct RayObjectIds {
  const RayObjectId* begin = nullptr;
  const RayObjectId* end = nullptr;
  const RayObjectId* capacity = nullptr;
};

// ray::rpc::Address, and the table of references by object. Mantaray only passes their addresses on.
struct RayAddress;
struct RayTable;
struct RayCounter;

// The parts of an rpc::Address, valid as long as the address is.
struct RayAddressParts {
  absl::string_view node_id;
  absl::string_view ip_address;
  absl::string_view worker_id;
  int32_t port = 0;

  // A key that is equal for equal addresses only.
  std::string Key() const;
};

RayAddressParts PartsOf(const RayAddress& address);

// An empty std::string of libstdc++ before C++11.
const void* EmptyRayString();

// A method of Ray's counter.
struct RayMethod {
  const char* mangled;
};

// void CleanupBorrowersOnRefRemoved(const ReferenceTable& new_borrowers, const ObjectID&, const Address& borrower)
// A borrower has released an object, or has failed. Takes the counter's lock.
extern const RayMethod kCleanupBorrowers;
using CleanupBorrowers = void (*)(RayCounter*, const RayTable*, const RayObjectId*, const RayAddress*);

// void WaitForRefRemoved(const iterator&, const Address& borrower, const ObjectID& contained_in)
// A borrower was added to an object of this process. Called under the counter's lock.
extern const RayMethod kWaitForRefRemoved;
using WaitForRefRemoved = void (*)(RayCounter*, const RayTablePosition*, const RayAddress*, const RayObjectId*);

// bool GetOwnerInternal(const ObjectID&, Address*) const. Called under the counter's lock.
extern const RayMethod kGetOwnerInternal;
using GetOwnerInternal = bool (*)(const RayCounter*, const RayObjectId*, RayAddress*);

// bool Subscriber::Unsubscribe(ChannelType, const Address&, const std::string& key). Only Ray 2.48 and 2.49 have it;
// there a false answer ends the process that handles a "reference removed" message. Later Rays return nothing.
extern const RayMethod kCheckedUnsubscribe;

// bool SubscriberChannel::Unsubscribe(const Address&, const std::optional<std::string>& key), whose result it returns.
struct RayChannel;
extern const RayMethod kChannelUnsubscribe;
using ChannelUnsubscribe = bool (*)(RayChannel*, const RayAddress*, const void* key);

// void DeleteReferenceInternal(iterator, std::vector<ObjectID>* deleted)
// An object may have become unused. Called under the counter's lock, like the next four methods.
extern const RayMethod kDeleteReference;
using DeleteReference = void (*)(RayCounter*, RayTablePosition, void* deleted);

// void EraseReference(iterator)
// The entry of an object is erased, whichever method has found that it is not needed.
extern const RayMethod kEraseReference;
using EraseReference = void (*)(RayCounter*, RayTablePosition);

// iterator find(const ObjectID&), of the table.
extern const RayMethod kFindReference;
using FindReference = RayTablePosition (*)(RayTable*, const RayObjectId*);

// AddBorrowedObjectInternal(const ObjectID&, const ObjectID& outer, const Address& owner, bool foreign_owner)
// A borrowed object was found in another one. Later releases have no last argument. Its value is then whatever the
// register holds, and it does no harm to pass it on. Some releases return a bool and some nothing. Where nothing is
// returned, the caller ignores the result.
extern const RayMethod kAddBorrowedObject;
extern const RayMethod kAddBorrowedObjectWithFlag;
using AddBorrowedObject = uintptr_t (*)(RayCounter*, const RayObjectId*, const RayObjectId*, const RayAddress*,
                                        uintptr_t);

// void AddNestedObjectIdsInternal(const ObjectID& outer, const std::vector<ObjectID>& inner, const Address& owner)
// An object that contains others was made.
extern const RayMethod kAddNestedObjectIds;
using AddNestedObjectIds = void (*)(RayCounter*, const RayObjectId*, const RayObjectIds*, const RayAddress*);

// The functions of Ray's library that Mantaray calls. Each takes the counter's lock itself, except `find`.
struct RayFunctions {
  // NotFound or FailedPrecondition: the library lacks one of them.
  static absl::StatusOr<RayFunctions> Resolve(const ElfLibrary& library);

  // Verifies on known values that objects of Ray are laid out as described at the top of this file.
  //
  // FailedPrecondition: one of them does not; the message says which.
  absl::Status SelfCheck() const;

  // Verifies in the same way that a std::vector of ObjectID is a RayObjectIds.
  absl::Status CheckObjectIds() const;

  // Whether a table has an entry for an object.
  bool Holds(const RayTable* table, const RayObjectId* object_id) const;

  void (*add_local_reference)(RayCounter*, const RayObjectId*, const void* call_site);
  void (*remove_local_reference)(RayCounter*, const RayObjectId*, void* deleted);
  bool (*owned_by_us)(const RayCounter*, const RayObjectId*);
  void (*add_borrower_address)(RayCounter*, const RayObjectId*, const RayAddress*);
  bool (*is_freed)(const RayCounter*, const RayObjectId*);
  bool (*add_out_of_scope_callback)(RayCounter*, const RayObjectId*, void* function);
  RayTablePosition (*find)(const RayTable*, const RayObjectId*);

  // For the self-check.
  void (*push_back)(RayObjectIds*, const RayObjectId*);
  void (*destroy_entries)(RayTable*);
  uint64_t (*object_index)(const RayObjectId*);
  uintptr_t table_from_proto;
  uintptr_t add_to_repeated;
  void (*construct_address)(void*, void* arena);
  void (*destroy_address)(void*);
  size_t (*address_bytes)(const void*);

 private:
  absl::Status CheckObjectId() const;
  absl::Status CheckTable() const;
  absl::Status CheckAddress() const;
};

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_RAY_ABI_H_
