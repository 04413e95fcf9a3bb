"""Mantaray: patches that keep Ray fast and its disk bounded under load, attached to the official wheel.

This file stays tiny on purpose, because `mantaray.pth` imports it in every interpreter of the
environment, even in those that never import Ray.
"""

__version__ = "0.2.0"
