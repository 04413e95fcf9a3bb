"""Records and vectors for tests of the memory: small, and different where it matters."""

from __future__ import annotations

import numpy as np

from knowledge.embedding import HashEmbedder, Vectors
from knowledge.types import Kind, Layer, Record, Source

DIMENSION = 16
EMBEDDER = HashEmbedder(DIMENSION)


def record(
    name: str,
    text: str = "",
    *,
    layer: Layer = Layer.CONTEXTUAL,
    tenant: str = "default",
    session: str | None = None,
    uri: str = "",
    **more: object,
) -> Record:
    """Return a record; its text says its name if it is given none."""
    fields: dict[str, object] = {
        "id": name,
        "layer": layer,
        "kind": Kind.EXCHANGE if layer is Layer.SHORT_TERM else Kind.CHUNK,
        "text": text or f"text of {name}",
        "source": Source(uri or f"doc://{name}", f"title of {name}"),
        "tenant": tenant,
        "session": session,
    }
    return Record(**{**fields, **more})  # type: ignore[arg-type]


def vectors(*records: Record) -> Vectors:
    """Return the vectors of the records' texts."""
    return EMBEDDER.embed([record.text for record in records])


def random_vectors(count: int, seed: int = 0) -> Vectors:
    """Return vectors of length 1 in all directions."""
    made = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)
