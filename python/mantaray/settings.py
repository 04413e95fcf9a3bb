"""Every knob of Mantaray in one place: its name, type, default, allowed values and meaning.

A setting is an environment variable. It is read and checked at the moment it is needed, so a test
or a worker with an environment of its own sees what it set. An empty variable counts as unset. A
value that is not allowed raises `SettingError`, one sentence that names the variable, the value
and what is allowed.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SettingError(ValueError):
    """A setting has a value that is not allowed."""

    def __init__(self, name: str, value: str, allowed: str) -> None:
        """Make one sentence of the variable, its value and what is allowed.

        Args:
            name: the environment variable.
            value: what it was set to.
            allowed: what it may be, in words.
        """
        super().__init__(f"{name} is set to {value!r}; allowed: {allowed}")
        self.name = name
        self.value = value
        self.allowed = allowed


class Setting(Generic[T]):
    """One knob."""

    def __init__(
        self,
        name: str,
        type: str,
        default: T,
        allowed: str,
        doc: str,
        parse: Callable[[str], T],
        upstream: str | None = None,
        default_text: str = "",
    ) -> None:
        """Keep what describes the knob.

        Args:
            name: the environment variable that is read.
            type: the kind of value, in a word ("bool", "int", "path", ...).
            default: the value when the variable is unset or empty.
            allowed: what the variable may be, in words.
            doc: one line for people.
            parse: makes a value of the text; raises ValueError for text that is not allowed.
            upstream: Ray's own name of the knob, or None for one that only Mantaray has.
            default_text: the default in words, if the value alone is not enough.
        """
        self.name = name
        self.type = type
        self.default = default
        self.allowed = allowed
        self.doc = doc
        self.parse = parse
        self.upstream = upstream
        self.default_text = default_text

    def read(self, environ: Mapping[str, str] | None = None) -> T:
        """Return the value in force.

        Args:
            environ: where to look; the environment of this process by default.

        Raises:
            SettingError: the variable has a value that is not allowed.
        """
        text = (os.environ if environ is None else environ).get(self.name, "").strip()
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError:
            raise SettingError(self.name, text, self.allowed) from None

    def describe_default(self) -> str:
        """Return the default as the table of settings shows it."""
        if self.default_text:
            return self.default_text
        if isinstance(self.default, bool):
            return "1" if self.default else "0"
        return "unset" if self.default is None else str(self.default)


def read_or_default(read: Callable[[Mapping[str, str] | None], T], logger: logging.Logger) -> T:
    """Read settings in a process that Ray started, which must go on even if a setting is wrong.

    Settings are checked when a user starts a node, a driver or Serve. A worker may have an environment
    of its own.

    Args:
        read: a setting's `read`, or a function that reads several in the same way.
        logger: logs a value that is not allowed. The defaults are used then.
    """
    try:
        return read(None)
    except SettingError as error:
        logger.error("%s; this process uses the defaults", error)
        return read({})


@contextmanager
def ending_the_start() -> Iterator[None]:
    """A context in which settings are read when a user starts a node or a driver.

    Raises:
        StartError: a value is not allowed. The error is one sentence, which `ray start` prints as it is.
    """
    try:
        yield
    except SettingError as error:
        # Imported only here, because it needs click, and most processes do not.
        from mantaray.errors import StartError

        raise StartError(str(error)) from None


def _bool(text: str) -> bool:
    words = {"0": False, "false": False, "1": True, "true": True}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if any(not name or name in ("-", "-all") or " " in name for name in names):
        raise ValueError(text)
    return names


def _absolute_path(text: str) -> str:
    if not os.path.isabs(text):
        raise ValueError(text)
    return text


def _decimal(text: str) -> int:
    digits = text[1:] if text[0] in "+-" else text
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(text)
    return int(text)


def _integer(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = _decimal(text)
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(text)
        return value

    return parse


def _ip_address(text: str) -> str:
    # Imported only here: every interpreter that uses Ray imports this file, and few read this setting.
    import ipaddress

    return str(ipaddress.ip_address(text))


def _real(low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return a parser of numbers above `low` and up to `high`; a `low` below 0 takes 0 in."""

    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or value <= low or value > high:
            raise ValueError(text)
        return value

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return parse


DISABLE: Setting[bool] = Setting(
    name="MANTARAY_DISABLE",
    type="bool",
    default=False,
    allowed="0, 1, true or false",
    doc="Switches every patch off; Ray runs as it came.",
    parse=_bool,
)
PATCHES: Setting[tuple[str, ...]] = Setting(
    name="MANTARAY_PATCHES",
    type="list",
    default=("all",),
    default_text="all",
    allowed="names of patches separated by commas, -name to exclude one, or all",
    doc="Which patches to attach: a,b picks, -a excludes, all is every one.",
    parse=_names,
)
UNTESTED_RAY: Setting[bool] = Setting(
    name="MANTARAY_UNTESTED_RAY",
    type="bool",
    default=False,
    allowed="0, 1, true or false",
    doc="Attaches patches to an unknown newer Ray if their targets match the last known one.",
    parse=_bool,
)
REPORT_DIR: Setting[str | None] = Setting(
    name="MANTARAY_REPORT_DIR",
    type="path",
    default=None,
    allowed="an absolute path of a directory",
    doc="Directory where each process that uses Ray writes the states of its patches.",
    parse=_absolute_path,
)
SPILL_CACHE: Setting[str] = Setting(
    name="MANTARAY_SPILL_CACHE",
    type="choice",
    default="auto",
    allowed="auto, keep, drop or direct",
    doc="Whether spilled data stays in the page cache.",
    parse=_choice("auto", "keep", "drop", "direct"),
)
SPILL_RESERVE_BYTES: Setting[int | None] = Setting(
    name="MANTARAY_SPILL_RESERVE_BYTES",
    type="int",
    default=None,
    default_text="1 GiB, at most 5 % of the file system",
    allowed="a number of bytes, 0 or more",
    doc="Free space that spilling leaves alone in each directory.",
    parse=_integer(low=0),
)
SPILL_PUNCH_DELAY_MS: Setting[int] = Setting(
    name="MANTARAY_SPILL_PUNCH_DELAY_MS",
    type="int",
    default=2_000,
    allowed="a number of milliseconds from 0 to 60000",
    doc="How long the blocks of a deleted object stay if the raylet's open files cannot be seen.",
    parse=_integer(low=0, high=60_000),
)
SPILL_READAHEAD_BYTES: Setting[int] = Setting(
    name="MANTARAY_SPILL_READAHEAD_BYTES",
    type="int",
    default=4_194_304,
    allowed="a number of bytes from 0 to 1073741824",
    doc="How far a restore from a cold cache reads ahead over the neighbours of an object.",
    parse=_integer(low=0, high=1_073_741_824),
)
SPILL_GET_BYTES: Setting[int] = Setting(
    name="MANTARAY_SPILL_GET_BYTES",
    type="int",
    default=268_435_456,
    allowed="a number of bytes, 0 or more",
    doc="How much a process may hold of objects that `ray.get` read from spill files; 0: Ray restores all.",
    parse=_integer(low=0),
)
SPILL_IO_DEADLINE_MS: Setting[int] = Setting(
    name="MANTARAY_SPILL_IO_DEADLINE_MS",
    type="int",
    default=60_000,
    allowed="a number of milliseconds from 1000 to 86400000",
    doc="How long an object that cannot be read for I/O errors is tried before it counts as lost.",
    parse=_integer(low=1_000, high=86_400_000),
)
SPILL_CHECK_PULLS: Setting[bool] = Setting(
    name="MANTARAY_SPILL_CHECK_PULLS",
    type="bool",
    default=True,
    allowed="0, 1, true or false",
    doc="Whether the raylet verifies spilled objects before it sends them to other nodes.",
    parse=_bool,
)
LOG_REWRITES: Setting[str] = Setting(
    name="MANTARAY_LOG_REWRITES",
    type="choice",
    default="last",
    allowed="last or all",
    doc="What the end of a job's log shows of lines rewritten with carriage returns.",
    parse=_choice("last", "all"),
)
LOG_RETENTION_BYTES: Setting[int | None] = Setting(
    name="MANTARAY_LOG_RETENTION_BYTES",
    type="int",
    default=None,
    default_text="unset: all logs stay",
    allowed="a number of bytes, 1 or more",
    doc="Largest size of a node's logs; the oldest files that no process has open are removed.",
    parse=_integer(low=1),
)
LOG_RETENTION_AGE_S: Setting[float | None] = Setting(
    name="MANTARAY_LOG_RETENTION_AGE_S",
    type="float",
    default=None,
    default_text="unset: logs stay",
    allowed="a number of seconds above 0",
    doc="How long a log stays after its last change if no process has it open.",
    parse=_real(0),
)
MAX_SPILLING_FILE_SIZE_BYTES: Setting[int | None] = Setting(
    name="RAY_max_spilling_file_size_bytes",
    type="int",
    default=None,
    allowed="a number of bytes; 0 or less asks for no cap",
    doc="Upper bound of one spill file.",
    parse=_integer(),
    upstream="max_spilling_file_size_bytes",
)

SERVE_INITIAL_BACKOFF_S: Setting[float] = Setting(
    name="RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S",
    type="float",
    default=0.025,
    allowed="a number of seconds above 0",
    doc="How long Serve's router first waits when no replica has a free slot and nothing wakes it.",
    parse=_real(0),
    upstream="RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S",
)
SERVE_BACKOFF_MULTIPLIER: Setting[float] = Setting(
    name="RAY_SERVE_ROUTER_RETRY_BACKOFF_MULTIPLIER",
    type="float",
    default=2.0,
    allowed="a number above 0, which need not be whole",
    doc="Each further wait of Serve's router is this many times as long as the wait before.",
    parse=_real(0),
    upstream="RAY_SERVE_ROUTER_RETRY_BACKOFF_MULTIPLIER",
)
SERVE_MAX_BACKOFF_S: Setting[float] = Setting(
    name="RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S",
    type="float",
    default=0.5,
    allowed="a number of seconds above 0",
    doc="The longest wait of Serve's router.",
    parse=_real(0),
    upstream="RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S",
)
SERVE_BACKOFF_JITTER: Setting[float] = Setting(
    name="MANTARAY_SERVE_BACKOFF_JITTER",
    type="float",
    default=0.0,
    allowed="a number from 0 to 1",
    doc="Share of each wait of Serve's router of which a random part is left out.",
    parse=_real(-math.ulp(0.0), 1),
)
REFS_WATCH_INTERVAL_MS: Setting[int] = Setting(
    name="MANTARAY_REFS_WATCH_INTERVAL_MS",
    type="int",
    default=100,
    allowed="a number of milliseconds from 1 to 60000",
    doc="How often mantaray.refs.finalize checks its objects if Ray does not call back.",
    parse=_integer(low=1, high=60_000),
)

START_PYTHON_GC_MANAGER_THREAD: Setting[bool] = Setting(
    name="RAY_start_python_gc_manager_thread",
    type="bool",
    default=True,
    allowed="0, 1, true or false",
    doc="0: a trigger of Ray collects on the thread that received it, as in Ray 2.48.",
    parse=_bool,
    upstream="start_python_gc_manager_thread",
)
GC_TIME_SHARE: Setting[float] = Setting(
    name="MANTARAY_GC_TIME_SHARE",
    type="float",
    default=0.02,
    allowed="a number above 0, at most 1",
    doc="Largest share of time that full collections take from a process that is not idle.",
    parse=_real(0, 1),
)
GC_SHORT_PAUSE_MS: Setting[int] = Setting(
    name="MANTARAY_GC_SHORT_PAUSE_MS",
    type="int",
    default=25,
    allowed="a number of milliseconds from 0 to 1000",
    doc="A collection expected to be this short is run whenever Ray asks for one.",
    parse=_integer(low=0, high=1_000),
)
GC_IDLE_DELAY_MS: Setting[int] = Setting(
    name="MANTARAY_GC_IDLE_DELAY_MS",
    type="int",
    default=2_000,
    allowed="a number of milliseconds from 100 to 3600000",
    doc="How long no task has run before a full collection takes its time.",
    parse=_integer(low=100, high=3_600_000),
)
GC_RSS_LIMIT_BYTES: Setting[int | None] = Setting(
    name="MANTARAY_GC_RSS_LIMIT_BYTES",
    type="int",
    default=None,
    default_text="a quarter more than after the last full collection",
    allowed="a number of bytes, 1 or more",
    doc="Memory of a process above which full collections are due.",
    parse=_integer(low=1),
)
GC_HUGE_PAGES: Setting[bool] = Setting(
    name="MANTARAY_GC_HUGE_PAGES",
    type="bool",
    default=True,
    allowed="0, 1, true or false",
    doc="0: the memory of a process is not moved into huge pages before a search for garbage forks it.",
    parse=_bool,
)

RELAY_PORT: Setting[int | None] = Setting(
    name="MANTARAY_RELAY_PORT",
    type="int",
    default=None,
    allowed="a port from 1 to 65535",
    doc="Port on which `ray start --head` starts a relay and keeps it running.",
    parse=_integer(low=1, high=65_535),
)
RELAY_ADMIN_PORT: Setting[int | None] = Setting(
    name="MANTARAY_RELAY_ADMIN_PORT",
    type="int",
    default=None,
    default_text="unset: none",
    allowed="a port from 1 to 65535",
    doc="Port on this machine for the metrics and the status of the head's relay.",
    parse=_integer(low=1, high=65_535),
)
RELAY_HOST: Setting[str | None] = Setting(
    name="MANTARAY_RELAY_HOST",
    type="str",
    default=None,
    default_text="unset: the head's --node-ip-address",
    allowed="an IP address, 0.0.0.0 for all",
    doc="Address on which the head's relay listens.",
    parse=_ip_address,
)
RELAY_UPSTREAM_TIMEOUT_MS: Setting[int] = Setting(
    name="MANTARAY_RELAY_UPSTREAM_TIMEOUT_MS",
    type="int",
    default=5_000,
    allowed="a whole number from 0 (never) to 3600000",
    doc="How long the head's relay keeps its listener open without the GCS.",
    parse=_integer(low=0, high=3_600_000),
)
RELAY_MAX_MEMORY_BYTES: Setting[int | None] = Setting(
    name="MANTARAY_RELAY_MAX_MEMORY_BYTES",
    type="int",
    default=None,
    default_text="four fifths of the memory of the container or the machine",
    allowed="a whole number of bytes from 64000000 to 1099511627776",
    doc="When the head's relay takes more memory than this, it ends calls that move large messages.",
    parse=_integer(low=64_000_000, high=1 << 40),
)

SETTINGS: tuple[Setting[Any], ...] = (
    DISABLE,
    PATCHES,
    UNTESTED_RAY,
    REPORT_DIR,
    SPILL_CACHE,
    SPILL_RESERVE_BYTES,
    SPILL_PUNCH_DELAY_MS,
    SPILL_READAHEAD_BYTES,
    SPILL_GET_BYTES,
    SPILL_IO_DEADLINE_MS,
    SPILL_CHECK_PULLS,
    LOG_REWRITES,
    LOG_RETENTION_BYTES,
    LOG_RETENTION_AGE_S,
    MAX_SPILLING_FILE_SIZE_BYTES,
    SERVE_INITIAL_BACKOFF_S,
    SERVE_BACKOFF_MULTIPLIER,
    SERVE_MAX_BACKOFF_S,
    SERVE_BACKOFF_JITTER,
    START_PYTHON_GC_MANAGER_THREAD,
    GC_TIME_SHARE,
    GC_SHORT_PAUSE_MS,
    GC_IDLE_DELAY_MS,
    GC_RSS_LIMIT_BYTES,
    GC_HUGE_PAGES,
    REFS_WATCH_INTERVAL_MS,
    RELAY_PORT,
    RELAY_ADMIN_PORT,
    RELAY_HOST,
    RELAY_UPSTREAM_TIMEOUT_MS,
    RELAY_MAX_MEMORY_BYTES,
)
