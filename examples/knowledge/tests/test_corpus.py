"""The corpus: the same documents under the same names, whenever and wherever it is made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from knowledge import corpus
from knowledge.ingest.sources import page_document
from knowledge.types import Document, SourceError

PROGRAM = (
    "import hashlib, json; from knowledge import corpus;"
    "print(json.dumps([[d.uri, hashlib.md5(d.text.encode()).hexdigest()] for d in corpus.docstrings()]))"
)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return corpus.docstrings()


def test_names_and_order_do_not_depend_on_the_process(documents: list[Document]) -> None:
    told = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        told.append(json.loads(done.stdout))
    assert told[0] == told[1]
    assert len(told[0]) > 5000
    # The process of the tests has imported much else, and replaced some of it.
    assert [uri for uri, _ in told[0]] == [d.uri for d in documents]


def test_names_and_texts_occur_once(documents: list[Document]) -> None:
    uris = [document.uri for document in documents]
    texts = [" ".join(document.text.split()) for document in documents]
    assert len(set(uris)) == len(uris)
    assert len(set(texts)) == len(texts)
    assert all(re.fullmatch(r"doc://(python|numpy)/[\w.]+", uri) for uri in uris)
    assert not [uri for uri in uris if re.search(r"[./]_", uri)]
    assert [d for d in documents if re.search(r" at 0x[0-9a-f]{6}", d.text)] == []


def test_well_known_objects_have_their_well_known_names(documents: list[Document]) -> None:
    uris = {document.uri for document in documents}
    for name in (
        "python/json.dumps",
        "python/os.path.join",
        "python/bisect.bisect_left",
        "python/collections.ChainMap",
        "python/pathlib.Path.read_text",
        "python/asyncio.shield",
        "python/builtins.sorted",
        "numpy/numpy.linalg.norm",
        "numpy/numpy.add",
        "numpy/numpy.ndarray.reshape",
    ):
        assert f"doc://{name}" in uris
    assert all(d.text.strip() == d.text and len(d.text) >= 20 for d in documents)


def test_part_of_the_corpus_is_what_was_asked_for() -> None:
    some = corpus.docstrings(modules=("json", "numpy.linalg"))
    assert {d.metadata["module"] for d in some} == {"json", "numpy.linalg"}
    assert (
        corpus.docstrings(("python",), ("json",), 3)
        == [d for d in some if d.uri.startswith("doc://python")][:3]
    )
    for packages, modules in ((("ruby",), ()), ((), ()), (("python",), ("no_such",))):
        with pytest.raises(SourceError):
            corpus.docstrings(packages, modules)


def test_made_up_page_has_its_size_and_says_its_fact() -> None:
    for index, size in ((0, 2_000), (7, 100_000), (123, 1_000_000)):
        uri, page = corpus.crawl_page(index, size, seed=5)
        assert (uri, page) == corpus.crawl_page(index, size, seed=5)
        assert abs(len(page.encode()) - size) < 500
        document = page_document(uri, page)
        fact = corpus.crawl_fact(index, seed=5)
        assert fact.sentence in document.text
        assert fact.answer in fact.sentence
        assert len(document.text) < 500
        assert document.title in fact.question
    sentences = {corpus.crawl_fact(index).sentence for index in range(500)}
    assert len(sentences) == 500
    assert corpus.crawl_pages_for(100_000_000, 3.0, 1_000_000) == 300
