// See ray_abi.h.

#include "mantaray/interpose/ray_abi.h"

#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace mantaray::interpose {
namespace {

// The table of references by object, and two of its methods.
#define MANTARAY_RAY_TABLE                                                                                   \
  "4absl12lts_2023080218container_internal12raw_hash_setINS1_17FlatHashMapPolicyIN3ray8ObjectIDENS4_4core16" \
  "ReferenceCounter9ReferenceEEENS0_13hash_internal4HashIS5_EESt8equal_toIS5_ESaISt4pairIKS5_S8_EEE"
constexpr char kFind[] = "_ZNK" MANTARAY_RAY_TABLE "4findIS5_EENSJ_14const_iteratorERSG_";
constexpr char kDestroyEntries[] = "_ZN" MANTARAY_RAY_TABLE "13destroy_slotsEv";

// Offsets in rpc::Address. Only PartsOf and CheckAddress use them.
constexpr size_t kNodeIdOffset = 0x10;
constexpr size_t kIpAddressOffset = 0x18;
constexpr size_t kWorkerIdOffset = 0x20;
constexpr size_t kPortOffset = 0x28;

// The head of a string's characters in libstdc++ before C++11.
struct StringHead {
  size_t length;
  size_t capacity;
  // How many owners there are besides the first. A large number keeps Ray from freeing a string of Mantaray.
  int32_t other_owners;
};

// A string of Mantaray that Ray may read and copy. The object is one word, a pointer to its characters.
class LentString {
 public:
  explicit LentString(absl::string_view text)
      : memory_(new char[sizeof(StringHead) + text.size() + 1]), characters_(memory_.get() + sizeof(StringHead)) {
    const StringHead head{text.size(), text.size(), 1 << 30};
    std::memcpy(memory_.get(), &head, sizeof(head));
    std::memcpy(characters_, text.data(), text.size());
    characters_[text.size()] = '\0';
  }

  // The string object. Its address is aligned to a word, so protobuf's tag bits in it are zero.
  void* object() { return &characters_; }

 private:
  std::unique_ptr<char[]> memory_;
  char* characters_;
};

// Reads a string field of protobuf: the address of a string object, whose lowest two bits are tags.
absl::string_view StringAt(const RayAddress& address, size_t offset) {
  uintptr_t field = 0;
  std::memcpy(&field, reinterpret_cast<const char*>(&address) + offset, sizeof(field));
  const char* characters = nullptr;
  std::memcpy(&characters, reinterpret_cast<const void*>(field & ~uintptr_t{3}), sizeof(characters));  // NOLINT
  size_t length = 0;
  std::memcpy(&length, characters - sizeof(StringHead), sizeof(length));
  return {characters, length};
}

// Ray's function returns a table by value, into memory that the caller provides. The compiler returns only types that
// are not trivial in this way, so this type has a destructor. It does nothing, because Ray exports none for the table.
struct alignas(16) ReturnedTable {
  ReturnedTable() = default;
  ReturnedTable(const ReturnedTable&) = delete;
  ReturnedTable& operator=(const ReturnedTable&) = delete;
  ~ReturnedTable() {}  // NOLINT(modernize-use-equals-default): `= default` would make the type trivial

  RayTable* get() { return reinterpret_cast<RayTable*>(bytes); }

  char bytes[256];
};

template <typename F>
absl::Status ResolveOne(const ElfLibrary& library, const char* mangled, F* function) {
  const absl::StatusOr<uintptr_t> address = library.DefinitionOf(mangled);
  if (!address.ok()) return address.status();
  *function = reinterpret_cast<F>(*address);  // NOLINT: a symbol's address is a number
  return absl::OkStatus();
}

absl::Status Unlike(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("self-check: ", what, " is not laid out as expected"));
}

}  // namespace

const RayMethod kCleanupBorrowers = {
    "_ZN3ray4core16ReferenceCounter28CleanupBorrowersOnRefRemovedERKN4absl12lts_2023080213flat_hash_mapINS_"
    "8ObjectIDENS1_9ReferenceENS3_13hash_internal4HashIS5_EESt8equal_toIS5_ESaISt4pairIKS5_S6_EEEERSD_RKNS_"
    "3rpc7AddressE"};  // NOLINT
const RayMethod kWaitForRefRemoved = {
    "_ZN3ray4core16ReferenceCounter17WaitForRefRemovedERKN4absl12lts_2023080218container_internal12raw_hash_setINS4_"
    "17FlatHashMapPolicyINS_8ObjectIDENS1_9ReferenceEEENS3_13hash_internal4HashIS7_EESt8equal_toIS7_ESaISt4pairIKS7_S8_"
    "EEE8iteratorERKNS_3rpc7AddressERSG_"};  // NOLINT
const RayMethod kGetOwnerInternal = {
    "_ZNK3ray4core16ReferenceCounter16GetOwnerInternalERKNS_8ObjectIDEPNS_3rpc7AddressE"};

#define MANTARAY_RAY_ITERATOR                                                                                    \
  "N4absl12lts_2023080218container_internal12raw_hash_setINS4_17FlatHashMapPolicyINS_8ObjectIDENS1_9ReferenceEE" \
  "ENS3_13hash_internal4HashIS7_EESt8equal_toIS7_ESaISt4pairIKS7_S8_EEE8iteratorE"
const RayMethod kDeleteReference = {"_ZN3ray4core16ReferenceCounter23DeleteReferenceInternalE" MANTARAY_RAY_ITERATOR
                                    "PSt6vectorIS7_SaIS7_EE"};
const RayMethod kEraseReference = {"_ZN3ray4core16ReferenceCounter14EraseReferenceE" MANTARAY_RAY_ITERATOR};
const RayMethod kFindReference = {"_ZN" MANTARAY_RAY_TABLE "4findIS5_EENSJ_8iteratorERSG_"};
const RayMethod kAddBorrowedObject = {
    "_ZN3ray4core16ReferenceCounter25AddBorrowedObjectInternalERKNS_8ObjectIDES4_RKNS_3rpc7AddressE"};
const RayMethod kAddBorrowedObjectWithFlag = {
    "_ZN3ray4core16ReferenceCounter25AddBorrowedObjectInternalERKNS_8ObjectIDES4_RKNS_3rpc7AddressEb"};
const RayMethod kAddNestedObjectIds = {
    "_ZN3ray4core16ReferenceCounter26AddNestedObjectIdsInternalERKNS_8ObjectIDERKSt6vectorIS2_SaIS2_EERKNS_"
    "3rpc7AddressE"};  // NOLINT

const RayMethod kCheckedUnsubscribe = {
    "_ZN3ray6pubsub10Subscriber11UnsubscribeENS_3rpc11ChannelTypeERKNS2_7AddressERKSs"};
const RayMethod kChannelUnsubscribe = {
    "_ZN3ray6pubsub17SubscriberChannel11UnsubscribeERKNS_3rpc7AddressERKSt8optionalISsE"};

RayObjectId RayObjectId::Of(const ObjectId& object_id) {
  RayObjectId id;
  std::memcpy(id.bytes, object_id.Binary().data(), sizeof(id.bytes));
  return id;
}

ObjectId RayObjectId::Read() const {
  return *ObjectId::FromBinary({reinterpret_cast<const char*>(bytes), sizeof(bytes)});
}

RayAddressParts PartsOf(const RayAddress& address) {
  RayAddressParts parts;
  parts.node_id = StringAt(address, kNodeIdOffset);
  parts.ip_address = StringAt(address, kIpAddressOffset);
  parts.worker_id = StringAt(address, kWorkerIdOffset);
  std::memcpy(&parts.port, reinterpret_cast<const char*>(&address) + kPortOffset, sizeof(parts.port));
  return parts;
}

std::string RayAddressParts::Key() const {
  // The lengths come first, so that no two addresses have the same key.
  return absl::StrCat(node_id.size(), ",", worker_id.size(), ",", port, ",", node_id, worker_id, ip_address);
}

const void* EmptyRayString() {
  static auto* const empty = new LentString("");
  return empty->object();
}

absl::StatusOr<RayFunctions> RayFunctions::Resolve(const ElfLibrary& library) {
  RayFunctions functions{};
  absl::Status status;
  const auto resolve = [&](const char* mangled, auto* function) {
    status.Update(ResolveOne(library, mangled, function));
  };
  resolve("_ZN3ray4core16ReferenceCounter17AddLocalReferenceERKNS_8ObjectIDERKSs", &functions.add_local_reference);
  resolve("_ZN3ray4core16ReferenceCounter20RemoveLocalReferenceERKNS_8ObjectIDEPSt6vectorIS2_SaIS2_EE",
          &functions.remove_local_reference);
  resolve("_ZNK3ray4core16ReferenceCounter9OwnedByUsERKNS_8ObjectIDE", &functions.owned_by_us);
  resolve("_ZN3ray4core16ReferenceCounter18AddBorrowerAddressERKNS_8ObjectIDERKNS_3rpc7AddressE",
          &functions.add_borrower_address);
  resolve("_ZNK3ray4core16ReferenceCounter19IsPlasmaObjectFreedERKNS_8ObjectIDE", &functions.is_freed);
  resolve("_ZN3ray4core16ReferenceCounter34AddObjectOutOfScopeOrFreedCallbackERKNS_8ObjectIDESt8functionIFvS4_EE",
          &functions.add_out_of_scope_callback);
  resolve(kFind, &functions.find);
  resolve("_ZNSt6vectorIN3ray8ObjectIDESaIS1_EE9push_backERKS1_", &functions.push_back);
  resolve(kDestroyEntries, &functions.destroy_entries);
  resolve("_ZNK3ray8ObjectID11ObjectIndexEv", &functions.object_index);
  resolve(
      "_ZN3ray4core16ReferenceCounter23ReferenceTableFromProtoERKN6google8protobuf16RepeatedPtrFieldINS_3rpc20Object"
      "ReferenceCountEEE",
      &functions.table_from_proto);
  resolve("_ZN6google8protobuf16RepeatedPtrFieldIN3ray3rpc20ObjectReferenceCountEE3AddEv", &functions.add_to_repeated);
  resolve("_ZN3ray3rpc7AddressC1EPN6google8protobuf5ArenaE", &functions.construct_address);
  resolve("_ZN3ray3rpc7AddressD1Ev", &functions.destroy_address);
  resolve("_ZNK3ray3rpc7Address12ByteSizeLongEv", &functions.address_bytes);
  if (!status.ok()) return status;
  return functions;
}

bool RayFunctions::Holds(const RayTable* table, const RayObjectId* object_id) const {
  return find(table, object_id).control != nullptr;
}

absl::Status RayFunctions::SelfCheck() const {
  absl::Status status = CheckObjectId();
  if (status.ok()) status = CheckTable();
  if (status.ok()) status = CheckAddress();
  return status;
}

absl::Status RayFunctions::CheckObjectId() const {
  // Ray stores the index of an object in the last four bytes of its id, least significant first.
  for (const uint32_t index : {uint32_t{0x01020304}, uint32_t{0x0a0b0c0d}}) {
    RayObjectId id = RayObjectId::Of(ObjectId::FromNumber(0));
    std::memcpy(id.bytes + sizeof(id.bytes) - sizeof(index), &index, sizeof(index));
    if (static_cast<uint32_t>(object_index(&id)) != index) return Unlike("ObjectID");
  }
  return absl::OkStatus();
}

absl::Status RayFunctions::CheckObjectIds() const {
  // Ray allocates the elements and exports no function that frees them, so the process makes one vector and keeps it.
  static const RayObjectIds* const ids = [this] {
    auto* made = new RayObjectIds;
    for (const uint64_t number : {1, 2}) {
      const RayObjectId id = RayObjectId::Of(ObjectId::FromNumber(number));
      push_back(made, &id);
    }
    return made;
  }();
  const bool as_expected = ids->end - ids->begin == 2 && ids->begin[0].Read() == ObjectId::FromNumber(1) &&
                           ids->begin[1].Read() == ObjectId::FromNumber(2);
  return as_expected ? absl::OkStatus() : Unlike("a std::vector of ObjectID");
}

absl::Status RayFunctions::CheckTable() const {
  // An empty repeated field is zero. An empty message in it stands for the nil id, 28 bytes of ones. Not all releases
  // export a function that destroys the field, so the process makes one field and keeps it.
  static void* const repeated = [this] {
    void* field = new char[64]{};
    reinterpret_cast<void* (*)(void*)>(add_to_repeated)(field);  // NOLINT
    return field;
  }();
  ReturnedTable table = reinterpret_cast<ReturnedTable (*)(const void*)>(table_from_proto)(repeated);  // NOLINT
  const RayObjectId nil = RayObjectId::Of(ObjectId());
  const RayObjectId other = RayObjectId::Of(ObjectId::FromNumber(1));
  const RayTablePosition found = find(table.get(), &nil);
  const bool finds_what_is_there = found.control != nullptr && found.entry != nullptr;
  const bool entry_begins_with_id = finds_what_is_there && found.entry->Read().IsNil();
  const bool finds_nothing_else = find(table.get(), &other).control == nullptr;
  destroy_entries(table.get());
  if (!finds_what_is_there || !finds_nothing_else) return Unlike("an iterator of the reference table");
  return entry_begins_with_id ? absl::OkStatus() : Unlike("an entry of the reference table");
}

absl::Status RayFunctions::CheckAddress() const {
  // This is more than any message of four fields takes.
  alignas(16) char memory[512] = {};
  construct_address(memory, nullptr);
  const auto field = [&](size_t offset) { return reinterpret_cast<uintptr_t*>(memory + offset); };
  const uintptr_t unset = *field(kNodeIdOffset);
  const auto& address = reinterpret_cast<const RayAddress&>(memory);
  if (unset < 4096 || *field(kIpAddressOffset) != unset || *field(kWorkerIdOffset) != unset ||
      PartsOf(address).port != 0 || !PartsOf(address).worker_id.empty() || address_bytes(memory) != 0) {
    destroy_address(memory);
    return Unlike("an empty rpc::Address");
  }
  // Sets each field by itself. A string takes a tag, a length (a byte each) and its text; the port a tag and two bytes.
  bool as_expected = true;
  for (const size_t offset : {kNodeIdOffset, kIpAddressOffset, kWorkerIdOffset}) {
    LentString text("a text of 20 letters");
    *field(offset) = reinterpret_cast<uintptr_t>(text.object());
    as_expected = as_expected && address_bytes(memory) == 2 + 20 && StringAt(address, offset) == "a text of 20 letters";
    *field(offset) = unset;
  }
  const int32_t port = 12345;
  std::memcpy(memory + kPortOffset, &port, sizeof(port));
  as_expected = as_expected && address_bytes(memory) == 1 + 2;
  destroy_address(memory);
  return as_expected ? absl::OkStatus() : Unlike("rpc::Address");
}

}  // namespace mantaray::interpose
