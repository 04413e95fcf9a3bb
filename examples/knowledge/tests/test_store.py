"""The default store: what it must never lose, mix up, keep or choke on."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import DIMENSION, EMBEDDER, random_vectors, record, vectors

from knowledge.memory.sqlite import SCHEMA, SqliteStore, lexical_query
from knowledge.memory.store import DocumentUpdate, document_id
from knowledge.types import Filter, Kind, Layer, Record, Source, StoreError

Opener = Callable[[], SqliteStore]


@pytest.fixture
def opened(store_dir: Path) -> Iterator[Opener]:
    """Open the one store of a test, as often as it likes."""
    stores: list[SqliteStore] = []

    def open_store() -> SqliteStore:
        stores.append(SqliteStore(store_dir / "memory.db", DIMENSION, EMBEDDER.name))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opener) -> SqliteStore:
    return opened()


def ids(found: list[Record]) -> list[str]:
    return [each.id for each in found]


def files_of(store: SqliteStore) -> bytes:
    """Return every byte that the store has on disk."""
    return b"".join(path.read_bytes() for path in sorted(store.path.parent.iterdir()))


# --- Nothing lost, nothing doubled


def test_record_written_twice_is_there_once(store: SqliteStore) -> None:
    one = record("one")
    assert store.put([one, record("two")], random_vectors(2)) == 2
    assert store.put([one], random_vectors(1)) == 0
    assert store.count(Filter()) == 2
    assert [hit.record.id for hit in store.matching("one", 5, Filter())] == ["one"]


def test_equal_embeddings_do_not_overwrite_each_other(store: SqliteStore) -> None:
    same = np.repeat(random_vectors(1), 3, axis=0)
    store.put([record("a"), record("b"), record("c", "text of a")], same)
    hits = store.nearest(same[0], 5, Filter())
    assert {hit.record.id for hit in hits} == {"a", "b", "c"}
    assert all(hit.score == pytest.approx(1.0, abs=1e-5) for hit in hits)
    assert [hit.found_by["vector"] for hit in hits] == [1, 2, 3]


def test_everything_of_a_record_is_there_after_reopening(opened: Opener) -> None:
    whole = Record(
        id="whole",
        layer=Layer.LONG_TERM,
        kind=Kind.EXCHANGE,
        text="Zeile\n二行 \U0001f30a\x00 and a NUL",
        source=Source("doc://x/é", "Tïtle", 7),
        tenant="t",
        session="s",
        question="why?",
        summary="sum",
        created_s=1234.5,
        metadata={"n": 1, "f": 0.5, "b": True, "s": "x", "": "empty", 'q"uote': 2},
    )
    store = opened()
    store.put([whole], random_vectors(1))
    store.mark_document("d", "digest")
    store.close()
    again = opened()
    assert again.get(["whole"]) == [whole]
    assert again.get(["whole"])[0].metadata["b"] is True
    assert again.document_digest("d") == "digest"
    assert again.nearest(random_vectors(1)[0], 1, Filter(tenant="t"))[0].record == whole
    again.check()


def test_failed_write_leaves_nothing_of_it(store: SqliteStore) -> None:
    store.put([record("mine", tenant="other")], random_vectors(1))
    with pytest.raises(ValueError, match="another tenant"):
        store.put([record("new"), record("mine")], random_vectors(2))
    assert store.get(["new"]) == []
    assert store.matching("new", 5, Filter()) == []
    assert len(store.nearest(random_vectors(1)[0], 5, Filter())) == 1


def test_moved_record_is_in_one_layer_only(store: SqliteStore) -> None:
    turn = record("turn", layer=Layer.SHORT_TERM, tenant="t", session="s")
    derived = record("fact", layer=Layer.LONG_TERM, tenant="t")
    store.put([turn], random_vectors(1))
    for moved in (1, 0):
        assert (
            store.move(["turn", "unknown"], Layer.LONG_TERM, [(derived, random_vectors(1)[0])])
            == moved
        )
    assert store.count(Filter(layers=(Layer.SHORT_TERM,))) == 0
    assert store.count(Filter(layers=(Layer.LONG_TERM,))) == 2
    hits = store.nearest(random_vectors(1)[0], 5, Filter(tenant="t", layers=(Layer.LONG_TERM,)))
    assert {hit.record.id for hit in hits} == {"turn", "fact"}
    assert store.get(["turn"]) == [dataclasses.replace(turn, layer=Layer.LONG_TERM)]


# --- Documents


def update(uri: str, digest: str, *texts: str, tenant: str = "default") -> DocumentUpdate:
    records = tuple(
        record(f"{tenant}/{uri}/{digest}/{place}", text, uri=uri, tenant=tenant)
        for place, text in enumerate(texts)
    )
    return DocumentUpdate(tenant, Layer.CONTEXTUAL, uri, digest, records, vectors(*records))


def test_changed_document_leaves_no_old_piece(store: SqliteStore) -> None:
    store.update_documents(
        [update("u", "1", "old words", "older words"), update("v", "1", "other")]
    )
    store.update_documents([update("u", "1", "theirs", tenant="t2")])
    count = store.update_documents([update("u", "2", "new words"), update("v", "1", "other")])
    assert (count.written, count.skipped, count.records, count.replaced) == (1, 1, 1, 2)
    assert [r.text for r in store.list(Filter(tenant="default", uri="u"), 9)] == ["new words"]
    assert store.matching("old older", 5, Filter()) == []
    assert store.count(Filter(tenant="t2")) == 1
    assert store.count(Filter(uri="v")) == 1


def test_document_with_a_bad_piece_is_not_marked_as_in(store: SqliteStore) -> None:
    bad = dataclasses.replace(update("u", "2", "x"), uri="elsewhere")
    with pytest.raises(ValueError, match="not of the document"):
        store.update_documents([update("v", "1", "y"), bad])
    assert store.count(Filter()) == 0
    assert store.document_digest(document_id("default", Layer.CONTEXTUAL, "v")) is None


def test_forgotten_document_can_be_ingested_again(store: SqliteStore) -> None:
    one = update("u", "1", "first", "second")
    store.update_documents([one])
    assert store.delete(Filter(ids=(one.records[1].id,))) == 1
    assert store.document_digest(one.document_id) is None
    assert store.update_documents([one]).records == 2
    assert store.count(Filter(uri="u")) == 2


# --- Finding


def test_nearest_is_exact_under_every_filter(store: SqliteStore) -> None:
    chance = np.random.default_rng(5)
    made, points = [], random_vectors(400, seed=1)
    for place in range(400):
        made.append(
            record(
                str(place),
                layer=list(Layer)[place % 3],
                tenant=f"t{place % 2}",
                session=f"s{place % 5}",
                uri=f"u{place % 7}",
                kind=list(Kind)[place % 4],
                metadata={"n": place % 3, "even": place % 2 == 0, "s": str(place % 11)},
            )
        )
    store.put(made, points)
    filters = [
        Filter(),
        Filter(tenant="t1"),
        Filter(tenant="t0", layers=(Layer.SHORT_TERM,), session="s2"),
        Filter(layers=(Layer.LONG_TERM, Layer.CONTEXTUAL), kinds=(Kind.CHUNK, Kind.FACT)),
        Filter(uri="u3"),
        Filter(ids=tuple(map(str, range(0, 400, 9)))),
        Filter(metadata={"n": 2, "even": True}),
        Filter(tenant="t1", metadata={"s": "7"}),
        Filter(layers=()),
        Filter(ids=()),
        Filter(tenant="nobody"),
    ]
    for where in filters:
        allowed = [place for place, each in enumerate(made) if lets_through(where, each)]
        assert store.count(where) == len(allowed), where
        assert {r.id for r in store.list(where, 1000)} == {str(place) for place in allowed}
        for _ in range(3):
            asked = random_vectors(1, seed=int(chance.integers(1_000_000)))[0]
            cosines = sorted(((float(points[p] @ asked), p) for p in allowed), reverse=True)[:10]
            hits = store.nearest(asked, 10, where)
            assert [int(hit.record.id) for hit in hits] == [place for _, place in cosines], where
            scores = [hit.score for hit in hits]
            assert scores == pytest.approx([cosine for cosine, _ in cosines], abs=1e-5)
        assert {int(h.record.id) for h in store.matching("text", 1000, where)} == set(allowed)


def lets_through(where: Filter, each: Record) -> bool:
    return (
        where.tenant in (None, each.tenant)
        and where.session in (None, each.session)
        and where.uri in (None, each.source.uri)
        and (where.layers is None or each.layer in where.layers)
        and (where.kinds is None or each.kind in where.kinds)
        and (where.ids is None or each.id in where.ids)
        and all(each.metadata.get(name) == value for name, value in where.metadata.items())
    )


def test_best_match_of_words_comes_first(store: SqliteStore) -> None:
    made = [
        record("norm", "The norm of a matrix.", source=Source("u1", "numpy.linalg.norm")),
        record("csv", "Reads CSV files: read_csv(path).", source=Source("u2", "pandas.read_csv")),
        record("other", "A matrix has rows; see numpy.", source=Source("u3", "intro")),
    ]
    store.put(made, random_vectors(3))
    asked = {
        "What does numpy.linalg.norm do?": "norm",
        "read_csv": "csv",
        "reading a csv FILE": "csv",
        "rows": "other",
    }
    for question, best in asked.items():
        hits = store.matching(question, 3, Filter())
        assert hits[0].record.id == best, question
        assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
        assert all(hit.score > 0 for hit in hits)


def test_newest_come_first_and_of_one_moment_the_last_written(store: SqliteStore) -> None:
    made = [record(name, created_s=when) for name, when in (("a", 3.0), ("b", 5.0), ("c", 5.0))]
    store.put(made, random_vectors(3))
    assert ids(store.list(Filter(), 2)) == ["c", "b"]
    assert ids(store.list(Filter(), 9, newest_first=False)) == ["a", "b", "c"]
    assert ids(store.get(["c", "nobody", "a", "c"])) == ["c", "a"]


NASTY = [
    '"', "'", "AND", "OR NOT", "NEAR(a b)", "a* ^b", "title:a", "(", "-a +b", "{a b}:c", "\\", "%",
    "a\x00b", "; DROP TABLE records; --", "", "   ", "?!.", "\u017f",
    "\ud800", "\u0130", "a" * 10_000, "x " * 10_000, "_", "__a__",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_text_that_looks_like_syntax_is_only_text(store: SqliteStore, text: str) -> None:
    store.put([record("a", "a b")], random_vectors(1))
    store.matching(text, 3, Filter(tenant=text, uri=text, ids=(text,), metadata={text: text}))
    store.matching(text, 3, Filter())
    assert store.get([text]) == []
    assert [hit.record.id for hit in store.matching("b", 3, Filter())] == ["a"]


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.text(alphabet=st.characters(exclude_categories=()), max_size=60))
def test_any_text_is_a_legal_query_and_finds_itself(store: SqliteStore, text: str) -> None:
    hits = store.matching(text, 3, Filter())
    assert all(hit.score > 0 for hit in hits)
    assert lexical_query(text).count('"') % 2 == 0


# --- Really gone


def test_deleted_record_is_nowhere_in_the_files(store: SqliteStore) -> None:
    made = [record(f"r{n}", f"filler{n} words of number {n}") for n in range(300)]
    secret = record(
        "hidden", "unutterablesecret spoken", summary="whisperedsummary", question="askedsecret",
        metadata={"k": "attributesecret"},
    )  # fmt: skip
    points = random_vectors(301, seed=3)
    store.put([*made, secret], points)
    traces = [b"unutterablesecret", b"whisperedsummary", b"askedsecret", b"attributesecret", b"hidden",
              points[300].tobytes(), points[300].tobytes()[:24]]  # fmt: skip
    assert all(trace in files_of(store) for trace in traces)
    assert [h.record.id for h in store.matching("unutterablesecret", 3, Filter())] == ["hidden"]
    assert store.delete(Filter(ids=("hidden",))) == 1
    left = files_of(store)
    # The index keeps words by their stems.
    for trace in [*traces, b"unutterablesecr", b"whisperedsummari"]:
        assert trace not in left, trace
    assert store.matching("unutterablesecret", 3, Filter()) == []
    assert "hidden" not in {h.record.id for h in store.nearest(points[300], 301, Filter())}
    assert store.count(Filter()) == 300
    store.check()


def test_short_lived_records_do_not_make_the_file_grow(store: SqliteStore) -> None:
    def churn(start: int) -> None:
        for n in range(start, start + 300):
            turn = record(f"t{n}", layer=Layer.SHORT_TERM, session="s")
            store.put([turn], random_vectors(1, seed=n))
            store.move([turn.id], Layer.LONG_TERM)
            store.delete(Filter(ids=(turn.id,)))

    churn(0)
    size = store.size_bytes()
    churn(300)
    assert store.size_bytes() <= size * 1.5
    assert store.count(Filter()) == 0
    store.check()


# --- Files that are no good, arguments that are no good


def test_file_of_another_version_is_not_touched(opened: Opener) -> None:
    opened().close()
    path = opened().path
    for store in [opened()]:
        store.close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", SCHEMA + 1)
    connection.close()
    with pytest.raises(
        StoreError, match=f"version {SCHEMA + 1}; this program reads version {SCHEMA}"
    ):
        opened()


def test_file_of_something_else_is_refused(store_dir: Path) -> None:
    store_dir.mkdir()
    path = store_dir / "memory.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreError, match="no store of this service"):
        SqliteStore(path, DIMENSION)
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreError, match="damaged or no SQLite file"):
        SqliteStore(path, DIMENSION)
    with pytest.raises(StoreError, match="cannot be used"):
        SqliteStore(store_dir / "memory.db" / "below", DIMENSION)


def test_damage_inside_the_file_is_an_error_not_an_answer(opened: Opener) -> None:
    store = opened()
    made = [record(f"r{n}", f"words of number {n} " * 20) for n in range(500)]
    store.put(made, random_vectors(500))
    store.close()
    content = bytearray(store.path.read_bytes())
    for page in range(6, len(content) // 8192, 2):
        content[page * 8192 : page * 8192 + 4000] = b"\xa5" * 4000
    store.path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        again = opened()
        again.list(Filter(), 1000)
        again.matching("words", 1000, Filter())
        again.nearest(random_vectors(1)[0], 500, Filter())
    with pytest.raises(StoreError, match="damaged"):
        opened().check()


def test_vectors_of_two_models_do_not_meet(opened: Opener) -> None:
    store = opened()
    with pytest.raises(StoreError, match="vectors of 16 numbers, not of 8"):
        SqliteStore(store.path, 8)
    with pytest.raises(StoreError, match="vectors of hash-16, not of other"):
        SqliteStore(store.path, DIMENSION, "other")


def test_bad_arguments_are_refused_before_anything_is_written(store: SqliteStore) -> None:
    good = record("a")
    bad: list[tuple[Record, object, str]] = [
        (good, np.zeros((1, DIMENSION)), "length 1"),
        (good, np.full((1, DIMENSION), np.nan), "length 1"),
        (good, random_vectors(2), "shape"),
        (good, np.ones((1, 3)), "shape"),
        (record("b", metadata={"x": float("nan")}), random_vectors(1), "metadata"),
        (record("c", "half \ud800"), random_vectors(1), "no text"),
    ]
    for each, points, words in bad:
        with pytest.raises(ValueError, match=words):
            store.put([each], points)  # type: ignore[arg-type]
    for call in (
        lambda: store.nearest(random_vectors(1)[0], 0, Filter()),
        lambda: store.nearest(random_vectors(1)[0], 5000, Filter()),
        lambda: store.matching("a", 0, Filter()),
        lambda: store.list(Filter(), -1),
    ):
        with pytest.raises(ValueError):
            call()
    assert store.count(Filter()) == 0


def test_closed_store_says_so(store: SqliteStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.count(Filter())
    with pytest.raises(StoreError, match="closed"):
        store.put([record("a")], random_vectors(1))


def test_reader_never_sees_half_a_write(store: SqliteStore) -> None:
    """Ten records come and go together; whoever looks meanwhile sees all of them or none."""
    stop = threading.Event()
    seen: list[int] = []
    failed: list[BaseException] = []
    points = random_vectors(10)

    def read() -> None:
        try:
            while not stop.is_set():
                seen.append(len(store.matching("together", 20, Filter())))
                seen.append(len(store.nearest(points[0], 20, Filter())))
                seen.append(len(store.list(Filter(), 20)))
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for turn in range(40):
        store.put([record(f"{turn}-{n}", "together") for n in range(10)], points)
        store.delete(Filter())
    stop.set()
    for reader in readers:
        reader.join()
    assert not failed
    assert set(seen) <= {0, 10}
    assert seen
