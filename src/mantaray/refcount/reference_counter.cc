// The reference counter that is used.

#include "mantaray/refcount/reference_counter_inl.h"

namespace mantaray::refcount {

template class BasicReferenceCounter<NoFaults>;

}  // namespace mantaray::refcount
