"""Mantaray: a patch set that makes an official, unmodified Ray keep its disk and its latency.

This file stays tiny on purpose: it is imported by `mantaray.pth` in every interpreter of the
environment, also in those that never import Ray.
"""

__version__ = "0.2.0"
