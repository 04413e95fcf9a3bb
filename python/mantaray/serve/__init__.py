"""Serve's replica router wakes on the event that frees a slot; `docs/serve-router.md` says how.

`waiters` and `backoff` know nothing of Ray; `routing` ties them to one of Ray's request routers;
`patch` attaches that.
"""
