"""Does one thing to a store and dies of SIGKILL before its nth SQL statement.

killed_at.py FILE WHAT N: ends with 0 when WHAT took fewer statements, and was done.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from knowledge.embedding import HashEmbedder
from knowledge.ingest.prepare import prepare
from knowledge.memory.manager import MemoryManager
from knowledge.memory.sqlite import SqliteStore
from knowledge.types import Document, Layer, Scope

EMBEDDER = HashEmbedder(16)
SCOPE = Scope("t", "s")
LIMIT = 3


def main() -> None:
    """See above."""
    path, what, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = SqliteStore(path, EMBEDDER.dimension, EMBEDDER.name)
    memory = MemoryManager(store, EMBEDDER, LIMIT)
    count = 0

    def before_statement(cursor: Any, sql: str, bindings: Any) -> bool:
        nonlocal count
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return True

    store._writer.exec_trace = before_statement
    if what == "flush":
        memory.flush(SCOPE)
    elif what == "remember":
        memory.remember(SCOPE, "new question", "new answer", query_id="new")
    elif what == "forget":
        memory.forget_session(SCOPE)
    elif what == "update":
        document = Document("doc://d", "d", "\n\n".join(f"new part {n}. " * 60 for n in range(3)))
        store.update_documents([prepare(document, "t", Layer.CONTEXTUAL, EMBEDDER)])
    store._writer.exec_trace = None
    store.close()


main()
