"""The states of the patches on all nodes: as a metric, and for `mantaray doctor --cluster`."""
