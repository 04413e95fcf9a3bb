"""How good answers are: recall and answer hit rate of each way to search, by class of question.

The corpus is the documentation strings of this Python's standard library and of its NumPy; the questions are those of
questions.yaml. Everything is the service's own: store, embedder, planner, retriever, prompt and generator, in this
process without Ray, because what is found does not depend on where it is looked for. "Recall@5" is the share of
questions for which a document that answers is among the five passages that the generator gets; "hit rate" the share whose
answer says what it must, and for unanswerable questions, the share that are told so. "Adaptive" lets the planner choose.

    python benchmarks/quality.py [--documents N] [--vectors FILE.npz] [--show-misses] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import labels
import numpy as np
from labels import Question

STRATEGIES = ("lexical", "vector", "adaptive")
DEPTH = 5


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a question.

    Args:
        found: whether a document that answers was handed to the generator; None if there is none.
        right: whether the answer was right.
        chose: the plan's strategy.
        text: the answer.
        sources: URIs of what the generator was handed, best first.
    """

    question: Question
    found: bool | None
    right: bool
    chose: str
    text: str
    sources: tuple[str, ...]
    spent_ms: float


class KeptEmbedder:
    """An embedder that makes the vector of a text once; three strategies ask for the same ones.

    Args:
        embedder: makes what is not there yet.
        path: where vectors are kept from one run to the next; None: nowhere.
    """

    def __init__(self, embedder: Any, path: Path | None = None) -> None:
        self.name, self.dimension = embedder.name, embedder.dimension
        self._embedder = embedder
        self._path = path
        self._known: dict[str, Any] = {}
        if path is not None and path.exists():
            with np.load(path) as kept:
                self._known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    def embed(self, texts: Sequence[str]) -> Any:
        """See `knowledge.embedding.Embedder`."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]
        missing = {
            key: text for key, text in zip(keys, texts, strict=True) if key not in self._known
        }
        if missing:
            made = self._embedder.embed(list(missing.values()))
            self._known.update(zip(missing, made, strict=True))
        return np.array([self._known[key] for key in keys], dtype=np.float32)

    def save(self) -> None:
        """Keep the vectors for the next run."""
        if self._path is not None:
            vectors = np.array(list(self._known.values()), dtype=np.float32)
            np.savez(self._path, keys=np.array(list(self._known)), vectors=vectors)


def table(verdicts: dict[str, Sequence[Verdict]]) -> list[dict[str, Any]]:
    """Return a row a class of questions, and one for all, with each strategy's two rates."""
    manners = list(dict.fromkeys(v.question.manner for v in next(iter(verdicts.values()))))
    rows = []
    for manner in (*manners, "all"):
        row: dict[str, Any] = {"class": manner}
        for strategy, of_strategy in verdicts.items():
            chosen = [v for v in of_strategy if manner in (v.question.manner, "all")]
            found = [v.found for v in chosen if v.found is not None]
            row["questions"] = len(chosen)
            row[f"{strategy} recall"] = sum(found) / len(found) if found else None
            row[f"{strategy} hit rate"] = sum(v.right for v in chosen) / len(chosen)
        rows.append(row)
    return rows


def shortfalls(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return where adaptive is worse than the better of the two others, a sentence each."""
    found = []
    for row in rows:
        for rate in ("recall", "hit rate"):
            if row[f"adaptive {rate}"] is None:
                continue
            best = max(row[f"lexical {rate}"], row[f"vector {rate}"])
            if row[f"adaptive {rate}"] < best - 1e-9:
                found.append(
                    f"{row['class']}: adaptive {rate} {row[f'adaptive {rate}']:.3f}, best of the"
                    f" others {best:.3f}"
                )
    return found
