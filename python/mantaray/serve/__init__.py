"""Serve's replica router wakes on the event that frees a slot; `docs/serve-router.md` says how.

`waiters`, `models`, `slots` and `backoff` know nothing of Ray. `accounts` and `routing` keep what is known
of one of Ray's request routers, `looking` and `attach` tie that to it, and `patch` attaches it all.
"""

# The attribute in which a request router keeps its Routing, once Mantaray is attached to it.
ATTRIBUTE = "_mantaray_routing"
