// What reference counters tell each other. The tables mean what Ray's ObjectReferenceCount means, field by field.

#ifndef MANTARAY_REFCOUNT_MESSAGES_H_
#define MANTARAY_REFCOUNT_MESSAGES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/common/ids.h"

namespace mantaray::refcount {

// Where a worker process is. Two addresses with the same worker id are the same process.
struct Address {
  WorkerId worker_id;
  NodeId node_id;
  std::string ip_address;
  int32_t port = 0;

  bool operator==(const Address& other) const { return worker_id == other.worker_id; }
};

// What a process knows about one object it does not own, told to whoever gave it the object or to the owner.
struct ObjectReferenceCount {
  ObjectId object_id;
  // Nil worker id: not known.
  Address owner_address;
  // Whether the process that tells still uses the object.
  bool has_local_ref = false;
  // Processes that it gave the object to and that still used it.
  std::vector<Address> borrowers;
  // Return values of tasks that it stored the object in, and who owns them.
  std::vector<std::pair<ObjectId, Address>> stored_in_objects;
  // Objects, borrowed too, in whose values it found this one; and the other way round.
  std::vector<ObjectId> contained_in_borrowed_ids;
  std::vector<ObjectId> contains;
};

using ReferenceTable = std::vector<ObjectReferenceCount>;

// The owner of an object asks a borrower to say when it no longer uses the object.
struct RefRemovedSubscription {
  ObjectId object_id;
  // Not nil: the borrower owns this object, and the asked-about one is in its value.
  ObjectId contained_in_id;
  Address owner_address;
  // Names this question; the answer repeats it. Grows with every question of one owner.
  uint64_t number = 0;
};

// A borrower tells the owner that it no longer uses an object, and what it knew about it.
struct RefRemovedMessage {
  ObjectId object_id;
  // The questions answered. None: nobody had asked, and this only passes on the table.
  std::vector<uint64_t> numbers;
  ReferenceTable borrowed_refs;
};

// Where an object is, as its owner knows it.
struct ObjectLocations {
  ObjectId object_id;
  std::vector<NodeId> node_ids;
  // Negative: not known.
  int64_t object_size_bytes = -1;
  std::string spilled_url;
  NodeId spilled_node_id;
  std::optional<NodeId> primary_node_id;
  bool pending_creation = false;
  bool did_spill = false;
  // The owner no longer has a reference; nothing else is filled in.
  bool ref_removed = false;
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_MESSAGES_H_
