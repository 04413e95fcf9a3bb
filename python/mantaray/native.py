"""What Mantaray's extension module offers to tools and tests: Ray's reference-counting protocol.

A `ReferenceCounter` is one process of the protocol. Its transport and callbacks are arguments.
docs/reference-counting.md explains it.
"""

from __future__ import annotations

from typing import TypeAlias

from mantaray._native import refcount

Address: TypeAlias = refcount.Address
LineageReconstructionEligibility: TypeAlias = refcount.LineageReconstructionEligibility
ObjectLocations: TypeAlias = refcount.ObjectLocations
ObjectReferenceCount: TypeAlias = refcount.ObjectReferenceCount
ReferenceCounter: TypeAlias = refcount.ReferenceCounter
ReferenceCountError: TypeAlias = refcount.ReferenceCountError
RefRemovedMessage: TypeAlias = refcount.RefRemovedMessage
RefRemovedSubscription: TypeAlias = refcount.RefRemovedSubscription
UnknownObjectError: TypeAlias = refcount.UnknownObjectError

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
