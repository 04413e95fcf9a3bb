// The ways out of a reference counter. What is behind them is somebody else's business: gRPC, or a simulation.
//
// What the transport promises:
// - A subscription to a borrower, dead or alive, is answered at least once: with what the borrower publishes
//   (ReferenceCounter::HandleRefRemoved) or with a notice of its failure (HandlePublisherFailed). Both may come.
// - What one process publishes to another arrives first in the order published (Ray numbers its publications).
// - Everything may be late, may arrive again at any later time, and apart from the above in any order.

#ifndef MANTARAY_REFCOUNT_TRANSPORT_H_
#define MANTARAY_REFCOUNT_TRANSPORT_H_

#include "mantaray/common/ids.h"
#include "mantaray/refcount/messages.h"

namespace mantaray::refcount {

// Thread-safe. Called without any lock held, one call at a time for each reference counter.
class Publisher {
 public:
  virtual ~Publisher() = default;
  // To one owner.
  virtual void PublishRefRemoved(const Address& owner, const RefRemovedMessage& message) = 0;
  // To whoever subscribed to the object's locations.
  virtual void PublishObjectLocations(const ObjectLocations& locations) = 0;
  // The object has no locations any more, and there will be none.
  virtual void PublishFailure(const ObjectId& object_id) = 0;
};

// Thread-safe. Called without any lock held, one call at a time for each reference counter.
class Subscriber {
 public:
  virtual ~Subscriber() = default;
  virtual void SubscribeRefRemoved(const Address& borrower, const RefRemovedSubscription& subscription) = 0;
  // Nothing more is expected from the borrower about this object.
  virtual void UnsubscribeRefRemoved(const Address& borrower, const ObjectId& object_id) = 0;
};

}  // namespace mantaray::refcount

#endif  // MANTARAY_REFCOUNT_TRANSPORT_H_
