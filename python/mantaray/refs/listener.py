"""Answers which variables of this process hold an object, and publishes the counts of its guards.

Part of `mantaray.refs`. Each process that is connected to Ray has one thread that waits at a local
socket. The socket is abstract: its name is made of the ids of the worker and the process, and it has no
file, so a killed process leaves nothing behind. Only the user of this process and root get an answer. The
caller checks that it talks to the right process. Every five seconds the same thread reads the counts of
the guards of Ray's counter; see `mantaray.refs.telemetry`. It does nothing else between questions.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import threading
from typing import Any

from mantaray.refs.telemetry import GuardFile

_LOG = logging.getLogger(__name__)
_REQUEST_BYTES = 4_096
_ANSWER_BYTES = 1 << 20
_IDLE_TIMEOUT_S = 1.0
# How often the guards' counts are looked at.
_LOOK_PERIOD_S = 5.0
_CREDENTIALS = struct.Struct("3i")


class NoAnswerError(RuntimeError):
    """A process cannot say which of its variables hold an object; the message says why."""


class Listener:
    """The socket of this process and the thread that answers at it.

    Args:
        worker: Ray's global worker, connected.

    Raises:
        OSError: no socket can be made.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._file = _guard_file(worker)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(_name(worker.core_worker.get_worker_id().hex(), os.getpid()))
            self._socket.listen(4)
        except OSError:
            self._socket.close()
            raise
        threading.Thread(target=self._serve, name="mantaray-refs-paths", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._update_file()
        try:
            # This ends the wait of the thread. Closing the socket alone would not.
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()

    def _serve(self) -> None:
        self._socket.settimeout(_LOOK_PERIOD_S)
        while True:
            try:
                caller, _ = self._socket.accept()
            except TimeoutError:
                self._update_file()
                continue
            except OSError:
                return
            with caller:
                try:
                    self._answer(caller)
                except Exception:
                    # The caller left or sent something else. The thread goes on with the next caller.
                    _LOG.debug("a question about references was not answered", exc_info=True)

    def _update_file(self) -> None:
        if self._file is None:
            return
        try:
            self._file.update()
        except Exception:
            self._file = None
            _LOG.warning("the counts of repeated notices are lost", exc_info=True)

    def _answer(self, caller: socket.socket) -> None:
        caller.settimeout(_IDLE_TIMEOUT_S)
        _, user, _ = _peer(caller)
        if user not in (0, os.geteuid()):
            return
        request = json.loads(_received(caller, _REQUEST_BYTES))
        caller.sendall(self._told(request))

    def _told(self, request: dict[str, Any]) -> bytes:
        import ray

        from mantaray.refs.forked import LookError, look
        from mantaray.refs.heap_paths import HeapPaths

        timeout_s = float(request["timeout_s"])
        object_id = bytes.fromhex(request["object_id"])
        # The search ends by itself and returns what it has found before the copy would be ended.
        search = HeapPaths(ray.ObjectRef, object_id, _known(self._worker), timeout_s * 0.8)
        try:
            done = look(search.find, timeout_s=timeout_s, max_stop_ms=float(request["max_stop_ms"]))
        except (LookError, OSError) as error:
            return json.dumps({"problem": str(error)}).encode()
        return json.dumps({**json.loads(done.told), "stop_ms": round(done.stop_ms, 2)}).encode()


def ask(
    worker_id: str, pid: int, object_id: str, *, timeout_s: float, max_stop_ms: float
) -> dict[str, Any]:
    """Ask a process of this machine which of its variables hold an object.

    Args:
        worker_id: of the process, in hex.
        pid: its process id, which is checked.
        object_id: in hex.
        timeout_s: how long it may take, in seconds.
        max_stop_ms: how long the process may stop, in milliseconds.

    Returns:
        `references`, how many Python references there are; `paths`, in words, to the first of them;
        `cut_off`, whether there was no time for all of them; and `stop_ms`, how long the process stopped.

    Raises:
        NoAnswerError: the process is not on this machine, does not answer in time, or cannot search.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s + _IDLE_TIMEOUT_S)
        try:
            connection.connect(_name(worker_id, pid))
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise NoAnswerError(
                "it does not listen: Mantaray is not attached in it, its patch refs is off, or it has ended"
            ) from error
        except OSError as error:
            raise NoAnswerError(str(error)) from error
        if _peer(connection)[0] != pid:
            raise NoAnswerError(f"another process than {pid} listens in its place")
        request = {"object_id": object_id, "timeout_s": timeout_s, "max_stop_ms": max_stop_ms}
        try:
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            told = _received(connection, _ANSWER_BYTES)
        except TimeoutError as error:
            raise NoAnswerError(f"no answer within {timeout_s:g} s") from error
        except OSError as error:
            raise NoAnswerError(f"it closed the connection: {error}") from error
    if not told:
        raise NoAnswerError("it answers its own user and root only")
    answer: dict[str, Any] = json.loads(told)
    if "problem" in answer:
        raise NoAnswerError(answer["problem"])
    return answer


def _known(worker: Any) -> list[tuple[str, Any]]:
    """Return the actors and remote functions of this process, each with the words for it."""
    actors = getattr(worker, "actors", {})
    found = [(f"actor {type(each).__name__}", each) for each in list(actors.values())]
    manager = getattr(worker, "function_actor_manager", None)
    infos = getattr(manager, "_function_execution_info", {})
    for info in list(infos.values()):
        # Its name comes with its module.
        name = str(getattr(info, "function_name", "?")).rpartition(".")[2]
        found.append((f"remote function {name}", getattr(info, "function", None)))
    return found


def _guard_file(worker: Any) -> GuardFile | None:
    try:
        session_dir = worker.node.get_session_dir_path()
        return GuardFile(session_dir, worker.current_node_id.hex())
    except Exception:
        _LOG.debug("no directory for the counts of repeated notices", exc_info=True)
        return None


def _name(worker_id: str, pid: int) -> str:
    """Return the name of a process's socket in the kernel.

    The id of the worker alone is not enough, because the first driver of every cluster has the same id.
    """
    return f"\0mantaray-refs-{worker_id}-{pid}"


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """Return process id, user and group of the other end, as the kernel knows them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, group = _CREDENTIALS.unpack(raw)
    return pid, user, group


def _received(connection: socket.socket, limit_bytes: int) -> bytes:
    """Return everything that the other end sends until it closes its side."""
    parts = []
    size = 0
    while size < limit_bytes and (part := connection.recv(65_536)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
