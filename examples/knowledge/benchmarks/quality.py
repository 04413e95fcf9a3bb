"""How good answers are: recall and answer hit rate of each way to search, by class of question.

The corpus is the documentation strings of this Python's standard library and of its NumPy; the
questions are those of questions.yaml. Everything is the service's own: store, embedder, planner,
retriever, prompt and generator, in this process without Ray, because what is found does not depend
on where it is looked for. "Recall" is the share of questions for which a document that answers is
among the first five passages that the generator gets; "hit rate" the share whose answer says what
it must, and of unanswerable questions, the share that are told so. "Adaptive" is the planner's
choice for each question.

With --unseen it asks the questions of questions-unseen.yaml instead, which nothing was tuned with. Their
misses are never shown, so that nobody tunes with them.

    python benchmarks/quality.py [--unseen] [--documents N] [--every N] [--vectors FILE.npz] [--misses]
        [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import labels
import numpy as np
from labels import Question

from knowledge import corpus
from knowledge.config import Settings
from knowledge.embedding import SentenceEmbedder
from knowledge.ingest.prepare import prepare
from knowledge.memory.manager import MemoryManager
from knowledge.memory.sqlite import SqliteStore
from knowledge.operators import Question as Asked
from knowledge.operators import Resources
from knowledge.pipeline import Chain
from knowledge.planner import Choice
from knowledge.resources import LocalEmbedder, LocalMemory
from knowledge.types import Answer, Document, Layer, Scope

TENANT = "default"
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


def sample(questions: Iterable[Question], count: int) -> list[Document]:
    """Return documents of the corpus: all that a question is about, and others up to a number.

    Args:
        count: of documents; 0 for the whole corpus.
    """
    everything = corpus.docstrings()
    asked = {uri for question in questions for uri in question.uris}
    chosen = [document for document in everything if document.uri in asked]
    others = [document for document in everything if document.uri not in asked]
    if not count:
        return everything
    room = max(0, count - len(chosen))
    # Spread over the corpus, the same ones each time.
    step = max(1, len(others) // max(1, room))
    return chosen + others[::step][:room]


def index(documents: Sequence[Document], path: Path, embedder: KeptEmbedder) -> MemoryManager:
    """Return a memory that has read the documents.

    Args:
        path: of its store.
    """
    store = SqliteStore(path, embedder.dimension, embedder.name)
    for document in documents:
        store.update_documents([prepare(document, TENANT, Layer.CONTEXTUAL, embedder)])
    return MemoryManager(store, embedder)


async def judge(
    questions: Sequence[Question], strategy: Choice, memory: MemoryManager, embedder: KeptEmbedder
) -> list[Verdict]:
    """Ask all questions, each in a session of its own, and judge the answers."""
    resources = Resources(LocalMemory(memory), LocalEmbedder(embedder))
    chain = Chain(Settings(strategy=strategy).answering().operators, resources)
    verdicts = []
    for number, question in enumerate(questions):
        scope = Scope(TENANT, f"{strategy}-{number}")
        if question.before:
            await chain.run(Asked(question.before, scope))
        (answer,) = await chain.run(Asked(question.ask, scope))
        verdicts.append(_verdict(question, answer))
        memory.forget_session(scope)
    await chain.close()
    return verdicts


def _verdict(question: Question, answer: Answer) -> Verdict:
    sources = tuple(hit.record.source.uri for hit in answer.hits)
    return Verdict(
        question=question,
        found=question.found_in(sources[:DEPTH]) if question.uris else None,
        right=question.is_answered_by(answer.text, answer.known),
        chose=answer.plan.strategy,
        text=answer.text,
        sources=sources,
    )


def table(verdicts: Mapping[str, Sequence[Verdict]]) -> list[dict[str, Any]]:
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


def evaluate(
    questions: Sequence[Question], documents: int, vectors: Path | None = None
) -> dict[str, list[Verdict]]:
    """Return each strategy's verdicts.

    Args:
        documents: that the corpus has; see `sample`.
        vectors: where vectors are kept from run to run.
    """
    embedder = KeptEmbedder(SentenceEmbedder(threads=os.cpu_count()), vectors)
    with tempfile.TemporaryDirectory(prefix="quality-") as directory:
        began = time.monotonic()
        memory = index(sample(questions, documents), Path(directory, "memory.db"), embedder)
        try:
            count = memory.stats(TENANT)[Layer.CONTEXTUAL.value]
            print(f"{count} pieces in {time.monotonic() - began:.0f} s", file=sys.stderr)
            verdicts = {}
            for strategy in (name for name in get_args(Choice) if name in STRATEGIES):
                verdicts[strategy] = asyncio.run(judge(questions, strategy, memory, embedder))
        finally:
            memory.close()
            embedder.save()
    return {strategy: verdicts[strategy] for strategy in STRATEGIES}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table as the documents have it."""
    heads = [f"{strategy} {rate}" for rate in ("recall", "hit rate") for strategy in STRATEGIES]
    lines = [f"| class | questions | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for row in rows:
        rates = ("" if row[head] is None else f"{row[head]:.2f}" for head in heads)
        lines.append(f"| {row['class']} | {row['questions']} | {' | '.join(rates)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure and print; return 0 if adaptive is nowhere worse than the better of the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=0, help="in the corpus; 0: all")
    parser.add_argument("--unseen", action="store_true", help="ask what nothing was tuned with")
    parser.add_argument("--every", type=int, default=1, help="ask every Nth question only")
    parser.add_argument("--vectors", type=Path, help="where vectors are kept from run to run")
    parser.add_argument("--misses", action="store_true", help="show what adaptive got wrong")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    questions = labels.load(labels.UNSEEN if options.unseen else labels.QUESTIONS)
    verdicts = evaluate(questions[:: options.every], options.documents, options.vectors)
    rows = table(verdicts)
    if options.misses and not options.unseen:
        for verdict in verdicts["adaptive"]:
            if verdict.found is False or not verdict.right:
                print(json.dumps(dataclasses.asdict(verdict)), file=sys.stderr)
    # That the planner chooses best is claimed of the questions that it was tuned with.
    short = [] if options.unseen else shortfalls(rows)
    print(json.dumps({"rows": rows, "shortfalls": short}) if options.json else markdown(rows))
    for sentence in short:
        print(f"FALLS SHORT: {sentence}", file=sys.stderr)
    return int(bool(short))


if __name__ == "__main__":
    sys.exit(main())
