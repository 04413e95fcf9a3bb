"""The default store: one SQLite file for rows, vectors (sqlite-vec) and words (FTS5) together.

One file, because flushing a session moves rows, vectors and words in one transaction, which stores
that commit a table at a time cannot do. The search by meaning is exact: every vector that the filter
lets through is compared. apsw brings a SQLite of its own, so this does not depend on how the
machine's Python was built.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import sqlite_vec

from knowledge import text as text_of
from knowledge.embedding import Vectors
from knowledge.memory.store import DocumentUpdate, Hits, Records, UpdateCount, document_id
from knowledge.types import Filter, Hit, Kind, Layer, Record, Source, StoreError

SCHEMA = 1
_APPLICATION_ID = 0x6B6E6F77  # "know": the file says whose it is.
_BUSY_TIMEOUT_MS = 20_000
# While readers never pause, what was deleted stays in the log; the next write tries again.
_ERASE_TIMEOUT_MS = 1_000
_READERS = 4
# sqlite-vec looks for no more.
MAX_NEAREST = 4096
# More words of a question only cost time.
_MAX_QUERY_WORDS = 64

# Distance and number of a record.
Near = list[tuple[float, int]]

_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    layer TEXT NOT NULL,
    session TEXT,
    kind TEXT NOT NULL,
    uri TEXT NOT NULL,
    title TEXT NOT NULL,
    position INTEGER NOT NULL,
    text TEXT NOT NULL,
    question TEXT NOT NULL,
    summary TEXT NOT NULL,
    created_s REAL NOT NULL,
    metadata TEXT NOT NULL
);
CREATE INDEX records_by_time ON records (tenant, layer, session, created_s, number);
CREATE INDEX records_by_document ON records (tenant, uri);
CREATE TABLE attributes (
    number INTEGER NOT NULL REFERENCES records (number) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value,
    PRIMARY KEY (number, name)
) WITHOUT ROWID;
CREATE TABLE documents (document_id TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE vectors USING vec0(
    number INTEGER PRIMARY KEY,
    layer TEXT PARTITION KEY,
    tenant INTEGER,
    session INTEGER,
    embedding FLOAT[{dimension}] distance_metric=l2
);
CREATE VIRTUAL TABLE lexical USING fts5(
    title, question, text, summary,
    content='records', content_rowid='number', tokenize='porter unicode61 remove_diacritics 2'
);
INSERT INTO lexical (lexical, rank) VALUES ('secure-delete', 1);
CREATE TRIGGER lexical_insert AFTER INSERT ON records BEGIN
    INSERT INTO lexical (rowid, title, question, text, summary)
    VALUES (new.number, new.title, new.question, new.text, new.summary);
END;
CREATE TRIGGER lexical_delete AFTER DELETE ON records BEGIN
    INSERT INTO lexical (lexical, rowid, title, question, text, summary)
    VALUES ('delete', old.number, old.title, old.question, old.text, old.summary);
END;
"""
_COLUMNS = (
    "id, layer, kind, text, uri, title, position, tenant, session, question, summary, created_s,"
    " metadata"
)
# Weights of title, question, text and summary: a title that names what is asked about says most.
_RANK = "bm25(lexical, 4.0, 2.0, 1.0, 0.5)"


class SqliteStore:
    """A `VectorStore` in one SQLite file.

    Args:
        path: the file; made, with its directory, if it is not there.
        dimension: numbers in a vector.
        embedder: name of the model that makes the vectors; a file holds those of one model.

    Raises:
        StoreError: the file is no store, damaged, of an unknown version, or of another model.
    """

    def __init__(self, path: str | Path, dimension: int = 384, embedder: str = "") -> None:
        self.path = Path(path)
        self.dimension = dimension
        self._lock = threading.RLock()
        self._closed = False
        self._erase_pending = False
        self._readers: queue.LifoQueue[apsw.Connection | None] = queue.LifoQueue()
        with self._clear_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            try:
                self._prepare(embedder)
            except BaseException:
                self._writer.close()
                raise
        for _ in range(_READERS):
            self._readers.put(None)

    # --- Writing

    def put(self, records: Sequence[Record], vectors: Vectors) -> int:
        """See `VectorStore`."""
        vectors = self._checked(vectors, len(records))
        with self._write() as connection:
            return self._insert(connection, records, vectors)

    def delete(self, where: Filter) -> int:
        """See `VectorStore`."""
        with self._write() as connection:
            count = self._remove(connection, where, forget_documents=True)
        self._erase(count > 0)
        return count

    def move(
        self,
        ids: Sequence[str],
        to: Layer,
        derived: Sequence[tuple[Record, Vectors]] = (),
    ) -> int:
        """See `VectorStore`."""
        records = [record for record, _ in derived]
        points = np.empty((len(records), self.dimension), dtype=np.float32)
        for place, (_, vector) in enumerate(derived):
            points[place] = np.asarray(vector).reshape(-1)
        vectors = self._checked(points, len(records))
        with self._write() as connection:
            moved = 0
            found = connection.execute(
                "SELECT number, tenant, session FROM records"
                " WHERE id IN (SELECT value FROM json_each(?)) AND layer <> ?",
                (_json(list(ids)), to.value),
            ).fetchall()
            for number, tenant, session in found:
                ((embedding,),) = connection.execute(
                    "SELECT embedding FROM vectors WHERE number = ?", (number,)
                ).fetchall()
                self._remove_vector(connection, number)
                connection.execute(
                    "UPDATE records SET layer = ? WHERE number = ?", (to.value, number)
                )
                self._insert_vector(connection, number, to, tenant, session, embedding)
                moved += 1
            self._insert(connection, records, vectors)
        return moved

    def update_documents(self, updates: Sequence[DocumentUpdate]) -> UpdateCount:
        """See `VectorStore`."""
        checked = [self._checked(update.vectors, len(update.records)) for update in updates]
        total = UpdateCount()
        with self._write() as connection:
            for update, vectors in zip(updates, checked, strict=True):
                total += self._update_document(connection, update, vectors)
        self._erase(total.replaced > 0)
        return total

    def mark_document(self, document_id: str, digest: str) -> None:
        """See `VectorStore`."""
        with self._write() as connection:
            self._mark(connection, document_id, digest)

    # --- Reading

    def get(self, ids: Sequence[str]) -> Records:
        """See `VectorStore`."""
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM records WHERE id IN (SELECT value FROM json_each(?))",
                (_json([_legal(name) for name in ids]),),
            ).fetchall()
        found = {row[0]: _record(row) for row in rows}
        return [found[name] for name in dict.fromkeys(ids) if name in found]

    def list(self, where: Filter, limit: int, newest_first: bool = True) -> Records:
        """See `VectorStore`."""
        condition, values = _condition(where)
        order = "DESC" if newest_first else "ASC"
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM records WHERE {condition}"
                f" ORDER BY created_s {order}, number {order} LIMIT ?",
                (*values, _limit(limit)),
            ).fetchall()
        return [_record(row) for row in rows]

    def nearest(self, vector: Vectors, k: int, where: Filter) -> Hits:
        """See `VectorStore`; at most MAX_NEAREST."""
        if not 1 <= k <= MAX_NEAREST:
            raise ValueError(f"k must be from 1 to {MAX_NEAREST}, not {k}")
        (checked,) = self._checked(np.asarray(vector, dtype=np.float32).reshape(1, -1), 1)
        layers = tuple(Layer) if where.layers is None else where.layers
        with self._read() as connection:
            near: Near = []
            for layer in dict.fromkeys(layers):
                near += self._nearest_in(connection, checked.tobytes(), k, where, layer)
            near.sort()
            # The number decides between equals, so that the same question has the same answer.
            scores = {number: 1.0 - distance * distance / 2.0 for distance, number in near}
            return _hits(connection, scores, where, "vector", k)

    def matching(self, query: str, k: int, where: Filter) -> Hits:
        """See `VectorStore`."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        expression = lexical_query(query)
        if not expression:
            return []
        condition, values = _condition(where)
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT records.number, {_RANK} AS worst_first FROM lexical"
                " JOIN records ON records.number = lexical.rowid"
                f" WHERE lexical MATCH ? AND {condition}"
                " ORDER BY worst_first, records.number LIMIT ?",
                (expression, *values, _limit(k)),
            ).fetchall()
            scores = {number: -float(rank) for number, rank in rows}
            return _hits(connection, scores, where, "lexical", k)

    def document_digest(self, document_id: str) -> str | None:
        """See `VectorStore`."""
        return self.document_digests([document_id]).get(document_id)

    def document_digests(self, document_ids: Sequence[str]) -> dict[str, str]:
        """See `VectorStore`."""
        with self._read() as connection:
            rows = connection.execute(
                "SELECT document_id, digest FROM documents"
                " WHERE document_id IN (SELECT value FROM json_each(?))",
                (_json(list(document_ids)),),
            ).fetchall()
        return {str(name): str(digest) for name, digest in rows}

    def count(self, where: Filter) -> int:
        """See `VectorStore`."""
        condition, values = _condition(where)
        with self._read() as connection:
            ((count,),) = connection.execute(
                f"SELECT count(*) FROM records WHERE {condition}", values
            ).fetchall()
        return int(count)

    def size_bytes(self) -> int:
        """Return what the store takes on disk, in bytes."""
        beside = [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm")]
        return sum(path.stat().st_size for path in beside if path.exists())

    def check(self) -> None:
        """Look at every page of the file; takes a second or more for each 100 MB.

        Raises:
            StoreError: something is damaged; the message says what.
        """
        with self._clear_errors():
            self._check_open()
            # A connection of its own: one that has searched checks the words against what it knows.
            connection = self._connect(for_reading=True)
            try:
                found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
            finally:
                connection.close()
        if found != ["ok"]:
            raise StoreError(f"{self.path} is damaged: {'; '.join(found[:5])}")

    def close(self) -> None:
        """See `VectorStore`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _ in range(_READERS):
                reader = self._readers.get()
                if reader is not None:
                    reader.close()
            self._erase(False)
            self._writer.close()

    # --- Within a transaction

    def _insert(
        self, connection: apsw.Connection, records: Sequence[Record], vectors: Vectors
    ) -> int:
        new = 0
        for record, vector in zip(records, vectors, strict=True):
            connection.execute(
                "INSERT INTO records (id, layer, kind, text, uri, title, position, tenant, session,"
                " question, summary, created_s, metadata)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                _row(record),
            )
            if connection.changes() == 0:
                self._check_owner(connection, record)
                continue
            number = connection.last_insert_rowid()
            self._insert_vector(
                connection, number, record.layer, record.tenant, record.session, vector.tobytes()
            )
            if record.metadata:
                connection.executemany(
                    "INSERT INTO attributes (number, name, value) VALUES (?, ?, ?)",
                    [(number, name, value) for name, value in record.metadata.items()],
                )
            new += 1
        return new

    @staticmethod
    def _check_owner(connection: apsw.Connection, record: Record) -> None:
        ((tenant,),) = connection.execute(
            "SELECT tenant FROM records WHERE id = ?", (record.id,)
        ).fetchall()
        if tenant != record.tenant:
            raise ValueError(f"the id {record.id!r} belongs to a record of another tenant")

    @staticmethod
    def _insert_vector(
        connection: apsw.Connection,
        number: int,
        layer: Layer,
        tenant: str,
        session: str | None,
        embedding: bytes,
    ) -> None:
        connection.execute(
            "INSERT INTO vectors (number, layer, tenant, session, embedding) VALUES (?, ?, ?, ?, ?)",
            (number, layer.value, _key(tenant), _key(session or ""), embedding),
        )

    def _remove_vector(self, connection: apsw.Connection, number: int) -> None:
        # Deleting alone only marks the place as free.
        connection.execute(
            "UPDATE vectors SET embedding = ? WHERE number = ?", (bytes(4 * self.dimension), number)
        )
        connection.execute("DELETE FROM vectors WHERE number = ?", (number,))

    def _remove(self, connection: apsw.Connection, where: Filter, *, forget_documents: bool) -> int:
        condition, values = _condition(where)
        found = connection.execute(
            f"SELECT number, tenant, layer, uri FROM records WHERE {condition}", values
        ).fetchall()
        for number, _, _, _ in found:
            self._remove_vector(connection, number)
            connection.execute("DELETE FROM records WHERE number = ?", (number,))
        if forget_documents:
            names = {document_id(tenant, Layer(layer), uri) for _, tenant, layer, uri in found}
            connection.executemany(
                "DELETE FROM documents WHERE document_id = ?", [(name,) for name in sorted(names)]
            )
        return len(found)

    def _update_document(
        self, connection: apsw.Connection, update: DocumentUpdate, vectors: Vectors
    ) -> UpdateCount:
        for record in update.records:
            theirs = (record.tenant, record.layer, record.source.uri)
            if theirs != (update.tenant, update.layer, update.uri):
                raise ValueError(f"record {record.id!r} is not of the document {update.uri!r}")
        known = connection.execute(
            "SELECT digest FROM documents WHERE document_id = ?", (update.document_id,)
        ).fetchall()
        if known == [(update.digest,)]:
            return UpdateCount(skipped=1)
        replaced = self._remove(connection, update.replaces, forget_documents=False)
        written = self._insert(connection, update.records, vectors)
        self._mark(connection, update.document_id, update.digest)
        return UpdateCount(written=1, records=written, replaced=replaced)

    @staticmethod
    def _mark(connection: apsw.Connection, document_id: str, digest: str) -> None:
        connection.execute(
            "INSERT INTO documents (document_id, digest) VALUES (?, ?)"
            " ON CONFLICT (document_id) DO UPDATE SET digest = excluded.digest",
            (document_id, digest),
        )

    @staticmethod
    def _nearest_in(
        connection: apsw.Connection, vector: bytes, k: int, where: Filter, layer: Layer
    ) -> Near:
        conditions, values = ["embedding MATCH ?", "k = ?", "layer = ?"], [vector, k, layer.value]
        if where.tenant is not None:
            conditions.append("tenant = ?")
            values.append(_key(where.tenant))
        if where.session is not None:
            conditions.append("session = ?")
            values.append(_key(where.session))
        if (
            where.kinds is not None
            or where.uri is not None
            or where.ids is not None
            or where.metadata
        ):
            condition, further = _condition(where)
            conditions.append(f"number IN (SELECT number FROM records WHERE {condition})")
            values += further
        rows = connection.execute(
            f"SELECT distance, number FROM vectors WHERE {' AND '.join(conditions)}", values
        )
        return [(float(distance), int(number)) for distance, number in rows]

    # --- Connections

    def _connect(self, *, for_reading: bool = False) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if for_reading else apsw.SQLITE_OPEN_CREATE)
        connection = apsw.Connection(str(self.path), flags=flags)
        try:
            connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
            connection.enable_load_extension(True)
            connection.load_extension(sqlite_vec.loadable_path())
            connection.enable_load_extension(False)
            connection.pragma("foreign_keys", True)
            connection.pragma("secure_delete", True)
            if for_reading:
                connection.pragma("query_only", True)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, embedder: str) -> None:
        self._writer.execute("PRAGMA page_size = 8192")
        if self._writer.execute("PRAGMA journal_mode = WAL").fetchall() != [("wal",)]:
            raise StoreError(f"{self.path} cannot keep a write-ahead log where it is")
        self._writer.execute("PRAGMA synchronous = FULL")
        with self._transaction() as connection:
            version = connection.pragma("user_version")
            if version == 0 and connection.pragma("schema_version") == 0:
                self._create(connection, embedder)
                return
            if connection.pragma("application_id") != _APPLICATION_ID:
                raise StoreError(f"{self.path} is a SQLite file, but no store of this service")
            if version != SCHEMA:
                raise StoreError(
                    f"{self.path} has version {version}; this program reads version {SCHEMA}."
                    " Use the program that wrote it, or another directory"
                )
            self._check_settings(connection, embedder)

    def _create(self, connection: apsw.Connection, embedder: str) -> None:
        connection.execute(_TABLES.format(dimension=self.dimension))
        connection.executemany(
            "INSERT INTO settings (name, value) VALUES (?, ?)",
            [("dimension", str(self.dimension)), ("embedder", embedder)],
        )
        connection.pragma("application_id", _APPLICATION_ID)
        connection.pragma("user_version", SCHEMA)

    def _check_settings(self, connection: apsw.Connection, embedder: str) -> None:
        settings = dict(connection.execute("SELECT name, value FROM settings").fetchall())
        dimension, known = settings.get("dimension"), settings.get("embedder")
        if dimension != str(self.dimension):
            raise StoreError(
                f"{self.path} holds vectors of {dimension} numbers, not of {self.dimension}"
            )
        if embedder and known and embedder != known:
            raise StoreError(f"{self.path} holds vectors of {known}, not of {embedder}")

    @contextlib.contextmanager
    def _write(self) -> Iterator[apsw.Connection]:
        with self._lock, self._clear_errors():
            self._check_open()
            with self._transaction() as connection:
                yield connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _read(self) -> Iterator[apsw.Connection]:
        """Give a connection that sees one moment of the store, whatever is written meanwhile."""
        with self._clear_errors():
            self._check_open()
            reader = self._readers.get()
            try:
                if reader is None:
                    reader = self._connect(for_reading=True)
                reader.execute("BEGIN")
                try:
                    yield reader
                finally:
                    if reader.in_transaction:
                        reader.execute("ROLLBACK")
            finally:
                self._readers.put(reader)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path} is closed")

    def _erase(self, deleted: bool) -> None:
        """Make the log forget what was deleted, now or with the next write that can."""
        with self._lock, self._clear_errors():
            self._erase_pending |= deleted
            if not self._erase_pending:
                return
            self._writer.set_busy_timeout(_ERASE_TIMEOUT_MS)
            try:
                ((busy, _, _),) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._erase_pending = bool(busy)
            except apsw.BusyError:
                pass
            finally:
                self._writer.set_busy_timeout(_BUSY_TIMEOUT_MS)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise StoreError(
                f"{self.path} is damaged or no SQLite file ({error}); restore it from a copy, or"
                " remove it and ingest again"
            ) from error
        except apsw.BusyError as error:
            raise StoreError(f"another process keeps {self.path} locked ({error})") from error
        except (apsw.Error, OSError) as error:
            raise StoreError(f"{self.path} cannot be used: {error}") from error

    def _checked(self, vectors: Vectors, count: int) -> Vectors:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if count == 0:
            return np.empty((0, self.dimension), dtype=np.float32)
        if vectors.shape != (count, self.dimension):
            raise ValueError(
                f"vectors have the shape {vectors.shape}, not {(count, self.dimension)}"
            )
        lengths = np.linalg.norm(vectors, axis=1)
        if not np.all(np.abs(lengths - 1.0) < 1e-3):
            raise ValueError("vectors must be of length 1")
        return vectors


def lexical_query(text: str) -> str:
    """Return the FTS5 expression that finds any word of a text; empty if it has none.

    Every word is quoted, so nothing in a text is an operator. Words joined by dots or underscores
    are looked for together as well as apart: a name counts more than its parts.
    """
    joined = [word for part in text.split() for word in text_of.identifiers(part)]
    apart = [piece for word in text_of.content_words(text) for piece in word.split("_") if piece]
    terms = list(dict.fromkeys([*apart, *joined]))[:_MAX_QUERY_WORDS]
    return " OR ".join(f'"{term}"' for term in terms)


def _condition(where: Filter) -> tuple[str, list[Any]]:
    """Return what SQL must hold of `records`, and the values it names."""
    parts: list[str] = ["TRUE"]
    values: list[Any] = []

    def equal(column: str, value: Any) -> None:
        if value is not None:
            parts.append(f"records.{column} = ?")
            values.append(value)

    def among(column: str, allowed: Iterable[str] | None) -> None:
        if allowed is not None:
            parts.append(f"records.{column} IN (SELECT value FROM json_each(?))")
            values.append(_json([_legal(name) for name in allowed]))

    equal("tenant", where.tenant)
    equal("session", where.session)
    equal("uri", where.uri)
    among("layer", None if where.layers is None else [layer.value for layer in where.layers])
    among("kind", None if where.kinds is None else [kind.value for kind in where.kinds])
    among("id", where.ids)
    for name, value in where.metadata.items():
        parts.append(
            "EXISTS (SELECT 1 FROM attributes AS a"
            " WHERE a.number = records.number AND a.name = ? AND a.value IS ?)"
        )
        values += [name, value]
    return " AND ".join(parts), values


def _hits(
    connection: apsw.Connection, scores: dict[int, float], where: Filter, found_by: str, k: int
) -> list[Hit]:
    """Return the records of these numbers, in their order, that the filter lets through."""
    condition, values = _condition(where)
    rows = connection.execute(
        f"SELECT number, {_COLUMNS} FROM records"
        f" WHERE number IN (SELECT value FROM json_each(?)) AND {condition}",
        (_json(list(scores)), *values),
    ).fetchall()
    records = {row[0]: _record(row[1:]) for row in rows}
    present = [(number, score) for number, score in scores.items() if number in records][:k]
    return [
        Hit(record=records[number], score=score, found_by={found_by: rank})
        for rank, (number, score) in enumerate(present, 1)
    ]


def _row(record: Record) -> tuple[Any, ...]:
    for name, value in record.metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metadata {name!r} of {record.id!r} is {value}")
    source = record.source
    row = (
        record.id,
        record.layer.value,
        record.kind.value,
        record.text,
        source.uri,
        source.title,
        source.position,
        record.tenant,
        record.session,
        record.question,
        record.summary,
        record.created_s,
        _json(dict(record.metadata)),
    )
    if any(isinstance(value, str) and value != _legal(value) for value in row):
        raise ValueError(f"record {record.id!r} holds characters that are no text")
    return row


def _record(row: Sequence[Any]) -> Record:
    return Record(
        id=row[0],
        layer=Layer(row[1]),
        kind=Kind(row[2]),
        text=row[3],
        source=Source(uri=row[4], title=row[5], position=row[6]),
        tenant=row[7],
        session=row[8],
        question=row[9],
        summary=row[10],
        created_s=row[11],
        metadata=json.loads(row[12]),
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _legal(text: str) -> str:
    """Return a text without the lone surrogates that no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _limit(count: int) -> int:
    if count < 0:
        raise ValueError(f"a limit must not be negative, not {count}")
    return min(count, 2**62)


def _key(name: str) -> int:
    """Return a number for a name, for the filter of the vectors; `records` decides in the end."""
    digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
