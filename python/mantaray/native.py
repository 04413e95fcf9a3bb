"""What Mantaray's extension module offers to tools and tests: Ray's reference-counting protocol.

A `ReferenceCounter` is one process of the protocol; transport and callbacks are callables that are
handed in. docs/reference-counting.md explains it.
"""

from __future__ import annotations

from mantaray._native import refcount

Address = refcount.Address
LineageReconstructionEligibility = refcount.LineageReconstructionEligibility
ObjectLocations = refcount.ObjectLocations
ObjectReferenceCount = refcount.ObjectReferenceCount
ReferenceCounter = refcount.ReferenceCounter
ReferenceCountError = refcount.ReferenceCountError
RefRemovedMessage = refcount.RefRemovedMessage
RefRemovedSubscription = refcount.RefRemovedSubscription
UnknownObjectError = refcount.UnknownObjectError

__all__ = [
    "Address",
    "LineageReconstructionEligibility",
    "ObjectLocations",
    "ObjectReferenceCount",
    "RefRemovedMessage",
    "RefRemovedSubscription",
    "ReferenceCountError",
    "ReferenceCounter",
    "UnknownObjectError",
]
