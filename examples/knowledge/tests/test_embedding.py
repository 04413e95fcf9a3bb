"""Embedders: the real model, loaded from the disk, and the one of tests."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from knowledge.embedding import (
    DEFAULT_EMBEDDER,
    HashEmbedder,
    SentenceEmbedder,
    dimension_of,
    make_embedder,
)
from knowledge.types import KnowledgeError


def test_model_puts_the_same_meaning_nearer_than_the_same_words(embedder: SentenceEmbedder) -> None:
    asked, same_meaning, same_words = embedder.embed(
        [
            "The cat sleeps on the sofa.",
            "A kitten is napping on the couch.",
            "The sofa on sale has cat patterns on it.",
        ]
    )
    assert float(asked @ same_meaning) > float(asked @ same_words)


def test_vectors_are_in_order_and_of_length_one(embedder: SentenceEmbedder) -> None:
    texts = [
        f"{'long ' * (n * 7 % 40)}text about {word}" for n, word in enumerate("abcdefghij" * 8)
    ]
    together = embedder.embed(texts)
    assert together.shape == (80, embedder.dimension)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(80), abs=1e-5)
    apart = np.concatenate([embedder.embed([text]) for text in texts[:12]])
    assert np.all(np.sum(together[:12] * apart, axis=1) > 0.999)


def test_quick_precision_changes_no_direction(embedder: SentenceEmbedder) -> None:
    texts = ["The norm of a matrix.", "Serialize an object to JSON.", "x", "Sort a list. " * 60]
    from contextlib import nullcontext

    exact = SentenceEmbedder()
    exact._precision = nullcontext
    assert np.all(np.sum(embedder.embed(texts) * exact.embed(texts), axis=1) > 0.999)


def test_no_text_is_no_vector_and_odd_text_is_one(embedder: SentenceEmbedder) -> None:
    for each in (embedder, HashEmbedder(8)):
        assert each.embed([]).shape == (0, each.dimension)
        odd = each.embed(["", " ", "\x00", "\U0001f30a", "?!", "a" * 5000])
        assert np.linalg.norm(odd, axis=1) == pytest.approx(np.ones(6), abs=1e-5)


def test_hash_embedder_is_the_same_in_every_process() -> None:
    program = (
        "from knowledge.embedding import *; print(HashEmbedder(8).embed(['some words']).tolist())"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert told[0] == told[1] == f"{HashEmbedder(8).embed(['some words']).tolist()}\n"


def test_unknown_embedder_is_named_with_those_that_there_are() -> None:
    for name in ("none", "hash-", "hash-0", "hash-x"):
        with pytest.raises(
            KnowledgeError, match=f"no embedder '{name}'; known: {DEFAULT_EMBEDDER}"
        ):
            make_embedder(name)
    assert make_embedder("hash-5").dimension == dimension_of("hash-5") == 5
    assert dimension_of(DEFAULT_EMBEDDER) == SentenceEmbedder.dimension
