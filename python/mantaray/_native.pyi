"""Types of the extension module; its source is src/mantaray/python."""

from collections.abc import Sequence

class _ObjectReader:
    """One spilled object, opened and its header checked."""

    @property
    def owner_address(self) -> bytes: ...
    @property
    def metadata(self) -> bytes: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    def checked(self) -> bool: ...
    def readinto(self, buffer: object) -> int: ...

class spill:
    """Object spilling; a submodule."""

    NODE_DIRECTORY_PREFIX: str
    OWNER_FILE: str
    ALIVE_FILE: str
    TEMPORARY_PREFIX: str
    DAMAGED_SUFFIX: str
    BLOCK_BYTES: int
    TRAILER_BYTES: int

    class SpillDamageError(RuntimeError): ...
    class SpillNoSpaceError(OSError): ...

    ObjectReader = _ObjectReader

    class Engine:
        """The spill engine of one IO worker."""

        def __init__(
            self,
            *,
            node_directories: Sequence[str],
            max_segment_bytes: int,
            max_fused_bytes: int,
            reserve_bytes: int | None,
            cache_mode: str,
            read_ahead_bytes: int,
            punch_delay_ms: int,
        ) -> None: ...
        def spill(self, objects: list[tuple[bytes, bytes, bytes, object]]) -> list[bytes]: ...
        def open(self, url: str, object_id: bytes) -> _ObjectReader: ...
        def set_aside(self, url: str) -> None: ...
        def delete(self, urls: Sequence[str]) -> None: ...
        def tick(self) -> None: ...
        def close(self) -> None: ...
        def close_delay_ms(self) -> int: ...
        def limitations(self) -> list[str]: ...

    @staticmethod
    def parse_link_name(name: str) -> tuple[bytes, int, int, int, bool] | None: ...
    @staticmethod
    def process_start_ticks(pid: int) -> int | None: ...
