// The interfaces through which a reference counter sends. gRPC or a simulation implements them.
//
// The transport promises:
// - Every subscription to a borrower, dead or alive, is answered at least once: with a publication of the borrower
//   (ReferenceCounter::HandleRefRemoved) or with a notice of its failure (HandlePublisherFailed). Both may come.
// - Publications from one process to another arrive first in the order in which they were published (Ray numbers them).
// - Everything may be late, may arrive again at any later time, and, apart from the above, in any order.

#ifndef MANTARAY_REFCOUNT_TRANSPORT_H_
#define MANTARAY_REFCOUNT_TRANSPORT_H_

#include "mantaray/common/ids.h"
#include "mantaray/refcount/messages.h"

namespace mantaray::refcount {

// Thread-safe. Called without any lock held, one call at a time for each reference counter.
class Publisher {
 public:
  virtual ~Publisher() = default;
  // Publishes to one owner.
  virtual void PublishRefRemoved(const Address& owner, const RefRemovedMessage& message) = 0;
  // Publishes to all processes that subscribed to the object's locations.
  virtual void PublishObjectLocations(const ObjectLocations& locations) = 0;
  // Publishes that the object has no locations any more, and never will have any.
  virtual void PublishFailure(const ObjectId& object_id) = 0;
};

// Thread-safe. Called without any lock held, one call at a time for each reference counter.
class Subscriber {
 public:
  virtual ~Subscriber() = default;
  virtual void SubscribeRefRemoved(const Address& borrower, const RefRemovedSubscription& subscription) = 0;
  // Ends the subscription: no further answer of the borrower about this object is expected.
  virtual void UnsubscribeRefRemoved(const Address& borrower, const ObjectId& object_id) = 0;
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_TRANSPORT_H_
