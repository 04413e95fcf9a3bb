// The messages between reference counters. The tables correspond to Ray's ObjectReferenceCount, field by field.

#ifndef MANTARAY_REFCOUNT_MESSAGES_H_
#define MANTARAY_REFCOUNT_MESSAGES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/common/ids.h"

namespace mantaray::refcount {

// The address of a worker process. Two addresses with the same worker id are the same process.
struct Address {
  WorkerId worker_id;
  NodeId node_id;
  std::string ip_address;
  int32_t port = 0;

  bool operator==(const Address& other) const { return worker_id == other.worker_id; }
};

// What a process knows about an object that it does not own. It reports this to the process that gave it the object, or
// to the owner.
struct ObjectReferenceCount {
  ObjectId object_id;
  // A nil worker id means that the owner is not known.
  Address owner_address;
  // Whether the reporting process still uses the object.
  bool has_local_ref = false;
  // Processes that received the object from the reporting process and still used it.
  std::vector<Address> borrowers;
  // Return values of tasks in which the reporting process stored the object, and their owners.
  std::vector<std::pair<ObjectId, Address>> stored_in_objects;
  // Borrowed objects in whose values the reporting process found this object; and the reverse.
  std::vector<ObjectId> contained_in_borrowed_ids;
  std::vector<ObjectId> contains;
};

using ReferenceTable = std::vector<ObjectReferenceCount>;

// The owner of an object asks a borrower to say when it no longer uses the object.
struct RefRemovedSubscription {
  ObjectId object_id;
  // If not nil, the borrower owns this object, and its value contains the object that the question is about.
  ObjectId contained_in_id;
  Address owner_address;
  // The number of this question, which the answer repeats. It grows with every question of an owner.
  uint64_t number = 0;
};

// A borrower reports to the owner that it no longer uses an object, and what it knew about it.
struct RefRemovedMessage {
  ObjectId object_id;
  // The questions that this answers. If there are none, no owner had asked, and the message only passes the table on.
  std::vector<uint64_t> numbers;
  ReferenceTable borrowed_refs;
};

// Where an object is, as its owner knows it.
struct ObjectLocations {
  ObjectId object_id;
  std::vector<NodeId> node_ids;
  // Negative if not known.
  int64_t object_size_bytes = -1;
  std::string spilled_url;
  NodeId spilled_node_id;
  std::optional<NodeId> primary_node_id;
  bool pending_creation = false;
  bool did_spill = false;
  // Whether the owner no longer has a reference. Then no other field is set.
  bool ref_removed = false;
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_MESSAGES_H_
