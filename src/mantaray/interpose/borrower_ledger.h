// The borrowers that the owner of an object still waits for. Ray's counter keeps the same in its sets of borrowers, for
// the objects that this process owns.
//
// Each address is stored once, however many objects its process borrows. Not thread-safe.

#ifndef MANTARAY_INTERPOSE_BORROWER_LEDGER_H_
#define MANTARAY_INTERPOSE_BORROWER_LEDGER_H_

#include <cstddef>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "mantaray/common/ids.h"

namespace mantaray::interpose {

class BorrowerLedger {
 public:
  // A borrower was added to an object.
  void Add(const ObjectId& object_id, const std::string& borrower) {
    if (objects_[borrower].insert(object_id).second) ++size_;
  }

  // A notice about a borrower arrived. Removes the borrower, and returns whether it was there.
  bool Remove(const ObjectId& object_id, const std::string& borrower) {
    const auto objects = objects_.find(borrower);
    if (objects == objects_.end() || objects->second.erase(object_id) == 0) return false;
    if (objects->second.empty()) objects_.erase(objects);
    --size_;
    return true;
  }

  void Clear() {
    objects_.clear();
    size_ = 0;
  }

  // How many pairs of object and borrower there are.
  size_t size() const { return size_; }

 private:
  absl::flat_hash_map<std::string, absl::flat_hash_set<ObjectId>> objects_;
  size_t size_ = 0;
};

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_BORROWER_LEDGER_H_
