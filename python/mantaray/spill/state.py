"""The state directory of a node, which its IO workers share with each other and with other processes.

It is in the session's directory, which Ray keeps as long as the session.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

STATE_DIRECTORY = "mantaray_spill"
# The file in the state directory that lists the node's own directory in each spill directory, as JSON.
_DIRECTORIES_FILE = "directories"


def state_directory_of(node: Any, node_id: str) -> str:
    """Return the state directory of a node; empty without a session.

    Args:
        node: Ray's `Node` of this process, or None.
        node_id: hex id of the node.
    """
    if node is None:
        return ""
    return os.path.join(node.get_session_dir_path(), STATE_DIRECTORY, node_id)


def publish_directories(state_directory: str, directories: Sequence[str]) -> None:
    """Tell the other processes of a node where its spilled objects are.

    Args:
        state_directory: the node's.
        directories: the node's own directory in each of its spill directories.

    Raises:
        OSError: it cannot be written. Then no process reads spilled objects directly.
    """
    os.makedirs(state_directory, exist_ok=True)
    path = os.path.join(state_directory, _DIRECTORIES_FILE)
    temporary = f"{path}-{os.getpid()}"
    with open(temporary, "w") as file:
        json.dump(list(directories), file)
    os.replace(temporary, path)


def published_directories(state_directory: str) -> list[str]:
    """Return the directories that an IO worker of the node published; none if none has spilled yet.

    Args:
        state_directory: the node's.
    """
    try:
        with open(os.path.join(state_directory, _DIRECTORIES_FILE)) as file:
            return [str(path) for path in json.load(file)]
    except (OSError, ValueError, TypeError):
        return []
