"""The function with which a worker process of a node reports about the node.

The function is sent to the node as code, because Mantaray may be missing there or have another
release. So this module imports nothing of Mantaray at its top.
"""

from __future__ import annotations

from typing import Any


def look() -> dict[str, Any]:
    """Return the releases and the states of the patches in this process.

    Returns:
        "ray", "python", "mantaray" (None if it is not installed), "patches" (state and reason by name) and
        "problem" (why nothing can be attached, or None).
    """
    import platform

    import ray

    told: dict[str, Any] = {
        "ray": ray.__version__,
        "python": platform.python_version(),
        "mantaray": None,
        "patches": {},
        "problem": None,
    }
    try:
        import mantaray
        from mantaray.overlay.doctor import diagnose
    except ModuleNotFoundError as error:
        if error.name == "mantaray":
            return told
        told["problem"] = f"Mantaray is incomplete ({error})"
        return told
    told["mantaray"] = mantaray.__version__
    try:
        found = diagnose()
    except Exception as error:
        told["problem"] = f"the doctor failed with {type(error).__name__}: {error}"
        return told
    told["problem"] = found.problem and found.problem.text
    for patch in found.patches:
        told["patches"][patch.status.name] = (patch.status.state.value, patch.status.why)
    return told
