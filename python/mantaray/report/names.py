"""Names of the metrics that a report shows."""

from __future__ import annotations

_SPILL = "ray_mantaray_spill_"

PATCHES = "ray_mantaray_patches"
LIVE_BYTES = _SPILL + "live_bytes"
DISK_BYTES = _SPILL + "disk_bytes"
SPILLED_BYTES = _SPILL + "spilled_bytes"
RESTORED_BYTES = _SPILL + "restored_bytes"
DAMAGED = _SPILL + "damaged_objects"
LOST = _SPILL + "lost_objects"
REFUSED_SPILLS = _SPILL + "refused_spills"
SKIPPED = _SPILL + "directories_skipped"
FALLBACK = _SPILL + "fallback_directories"
GC_PAUSE_MS = "ray_mantaray_gc_longest_pause_ms"
GC_COLLECTIONS = "ray_mantaray_gc_collections"
RELAY_LAG_MS = "mantaray_relay_sync_lag_ms"
# Ray Serve's own. The second one is there from Ray 2.55 on.
QUEUED_REQUESTS = "ray_serve_deployment_queued_queries"
WAIT_MS_BUCKET = "ray_serve_request_router_fulfillment_time_ms_bucket"

OF_NODES = (
    PATCHES,
    LIVE_BYTES,
    DISK_BYTES,
    SPILLED_BYTES,
    RESTORED_BYTES,
    DAMAGED,
    LOST,
    REFUSED_SPILLS,
    SKIPPED,
    FALLBACK,
    GC_PAUSE_MS,
    GC_COLLECTIONS,
    QUEUED_REQUESTS,
    WAIT_MS_BUCKET,
)
OF_RELAYS = (RELAY_LAG_MS,)
