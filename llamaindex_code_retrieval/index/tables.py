"""The tables of an index's database: files, nodes, vectors and settings, read and written in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.index.columns import (
    join_embedded,
    json_object,
    json_value,
    line_or_none,
    read_vector,
    split_embedded,
    stack_vectors,
    string_or_empty,
    text_bytes,
    vector_bytes,
)
from llamaindex_code_retrieval.index.file_state import FileState
from llamaindex_code_retrieval.index.filters import Condition
from llamaindex_code_retrieval.index.schema import FILE_NAME, check_caches, check_types
from llamaindex_code_retrieval.ranking.features import Candidate

_NODE_COLUMNS = (
    "n.number, n.id, f.path, n.position, n.part, m.fingerprint, n.digest, o.value, n.relations, n.metadata, "
    "n.lead, n.embedded, n.text"
)
_NODE_TABLES = (
    "nodes n JOIN files f ON f.number = n.file JOIN models m ON m.number = n.model JOIN forms o ON o.number = n.form"
)
_AT_ONCE = 500
"""Bound values of one statement: old builds of SQLite take 999."""


class NodeRow(NamedTuple):
    """A node as it is stored."""

    number: int
    """Positive, never used again for another node."""
    id: str
    path: str
    """Of its file."""
    position: int
    """In its file, from 0."""
    part: int
    """Which part of its definition it is, from 1."""
    model: str
    """Fingerprint of the model that made its vector."""
    digest: int
    """Of the text that is embedded."""
    form: Mapping[str, Any]
    """Class and other fields that many nodes have in common."""
    relations: Mapping[str, Any]
    """The fields of this node alone: relations and positions in the text."""
    metadata: dict[str, Any]
    embedded: str | None
    """The text that is embedded, where it is not ``text``."""
    text: str


class NodeName(NamedTuple):
    """What a node defines, and where."""

    number: int
    file: int
    """Number of its file."""
    position: int
    """In its file, from 0."""
    part: int
    language: str
    kind: str
    symbol: str
    scope: str

    @property
    def definition(self) -> tuple[int, int]:
        """Equal for the parts of one definition."""
        return self.file, self.position - self.part


class Reading:
    """One state of the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        settings = self.settings("generation", "dim")
        self._dim: int = settings.get("dim", 0)
        self.generation: int = settings.get("generation", 0)
        """Number of the transactions that have changed the database."""

    def settings(self, *names: str) -> dict[str, Any]:
        """Return the settings of these names that are present, or all."""
        where = f" WHERE name IN ({_marks(names)})" if names else ""
        rows = self._all(f"SELECT name, value FROM settings{where}", names)
        settings = {name: json_value(value) for name, value in rows}
        check_caches(settings)
        return settings

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        return int(self._all(f"SELECT count(*) FROM {table}")[0][0])

    def files(self) -> dict[str, FileState]:
        """Return the state of all listed files, those left out among them, by path."""
        columns = ", ".join(FileState._fields)
        return {row[0]: FileState(*row) for row in self._all(f"SELECT {columns} FROM files")}

    def file(self, path: str) -> FileState | None:
        """Return the state of a listed file."""
        columns = ", ".join(FileState._fields)
        rows = self._all(f"SELECT {columns} FROM files WHERE path = CAST(? AS TEXT)", (text_bytes(path),))
        return FileState(*rows[0]) if rows else None

    def paths(self, *, containing: str = "") -> list[str]:
        """Return the sorted paths of the indexed files that contain a text."""
        some = "path IN (SELECT path FROM files WHERE instr(path, CAST(? AS TEXT)))"  # reads an index of paths
        query = f"SELECT path FROM files WHERE left_out = '' AND {some} ORDER BY path"
        return [path for (path,) in self._all(query, (text_bytes(containing),))]

    def file_count(self) -> int:
        """Return the number of files that are indexed."""
        return int(self._all("SELECT count(*) FROM files WHERE left_out = ''")[0][0])

    def unparsed(self) -> int:
        """Return the number of files of a known language that could not be parsed."""
        return int(self._all("SELECT count(*) FROM files WHERE parsed = 0 AND left_out = ''")[0][0])

    def languages(self) -> dict[str, int]:
        """Return the number of nodes of each language."""
        return dict(self._all("SELECT language, count(*) FROM nodes GROUP BY language ORDER BY language"))

    def models(self) -> dict[str, list[str]]:
        """Return the languages of the nodes whose vectors each model made, by fingerprint."""
        # One step for each pair in the index of the table: DISTINCT would visit every node.
        query = (
            "SELECT n.model, n.language, m.fingerprint FROM nodes n JOIN models m ON m.number = n.model "
            "WHERE (n.model, n.language) > (?, ?) ORDER BY n.model, n.language LIMIT 1"
        )
        models: dict[str, list[str]] = {}
        pair: tuple[int, str] = (0, "")
        while rows := self._all(query, pair):
            if rows[0][:2] <= pair:
                raise sqlite3.DatabaseError("the models of nodes are out of order")
            models.setdefault(rows[0][2], []).append(rows[0][1])
            pair = rows[0][:2]
        return models

    def numbers(self, condition: Condition) -> NDArray[np.int64]:
        """Return the sorted numbers of the nodes that meet a condition."""
        with condition.registered(self._connection):
            rows = self._all(f"SELECT n.number FROM nodes n WHERE {condition.sql}", condition.parameters)
        return np.sort(np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows)))

    def names(self, condition: Condition) -> list[NodeName]:
        """Return what the nodes define that meet a condition, by file and position."""
        columns = ", ".join(f"n.{name}" for name in NodeName._fields)
        query = f"SELECT {columns} FROM nodes n WHERE {condition.sql} ORDER BY n.file, n.position"
        with condition.registered(self._connection):
            return [NodeName(*row) for row in self._all(query, condition.parameters)]

    def ids(self, numbers: Iterable[int]) -> dict[int, tuple[str, int, int]]:
        """Return id, file and number of the first part of its definition for those numbers that are nodes."""
        query = "SELECT number, id, file, position - part AS position FROM nodes WHERE number IN ({marks})"
        return {row[0]: (row[1], row[2], row[3]) for row in self._in_parts(query, numbers)}

    def candidates(self, numbers: Iterable[int]) -> list[Candidate]:
        """Return what the ranking reads of those numbers that are nodes.

        Nodes that do not name a file have the path "".
        """
        query = (
            "SELECT n.number, n.id, n.file, n.position - n.part AS position, "
            "CASE WHEN f.path = n.id THEN '' ELSE f.path END AS path, n.symbol, n.scope, n.kind, n.language, "
            "coalesce(n.start_line, 0) AS start_line, coalesce(n.end_line, 0) AS end_line, "
            """(instr(n.metadata, '"docstring": "') > 0 AND instr(n.metadata, '"docstring": ""') = 0) IS TRUE """
            "FROM nodes n JOIN files f ON f.number = n.file WHERE n.number IN ({marks})"
        )
        return [
            Candidate._make((number, id_, (file, first), *others))
            for number, id_, file, first, *others in self._in_parts(query, numbers)
        ]

    def nodes_at(self, path: str, line: int | None, *, top_k: int, condition: Condition) -> list[int]:
        """Return numbers of nodes of the files with the name of a path that meet a condition, upper or lower case.

        Files whose path ends with ``path``, or the other way round, come first, then nodes that hold the line.
        """
        asked = f"/{path}"
        query = (
            "WITH f AS (SELECT number, path, '/' || lower(path) AS full, lower(CAST(? AS TEXT)) AS asked FROM files "
            f"WHERE {FILE_NAME} = lower(CAST(? AS TEXT))) "
            f"SELECT n.number FROM f CROSS JOIN nodes n ON n.file = f.number WHERE ({condition.sql}) "  # files first
            "ORDER BY (substr(f.full, -length(f.asked)) = f.asked OR substr(f.asked, -length(f.full)) = f.full) "
            "* min(length(f.full), length(f.asked)) DESC, "
            "n.start_line <= ? AND ? <= n.end_line DESC, f.path, n.position LIMIT ?"
        )
        values = (text_bytes(asked), text_bytes(asked.rpartition("/")[2]), *condition.parameters, line, line, top_k)
        with condition.registered(self._connection):
            return [row[0] for row in self._all(query, values)]

    def containing(self, numbers: Iterable[int], texts: Sequence[str]) -> set[int]:
        """Return which of these nodes contain one of the texts."""
        found: set[int] = set()
        query = "SELECT number FROM nodes WHERE instr(text, CAST(? AS TEXT)) > 0 AND number IN ({marks})"
        for text in texts:
            found |= {row[0] for row in self._in_parts(query, numbers, first=(text_bytes(text),))}
        return found

    def numbers_of(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the numbers of those ids that are nodes."""
        query = "SELECT id, number FROM nodes WHERE id IN ({marks})"
        return dict(self._in_parts(query, map(text_bytes, ids), mark="CAST(? AS TEXT)"))

    def rows(self, numbers: Iterable[int]) -> dict[int, NodeRow]:
        """Return the nodes of those numbers that are nodes."""
        query = f"SELECT {_NODE_COLUMNS} FROM {_NODE_TABLES} WHERE n.number IN ({{marks}})"
        return {row[0]: _node_row(row) for row in self._in_parts(query, numbers)}

    def all_rows(self) -> Iterator[NodeRow]:
        """Yield all nodes by path and position."""
        query = f"SELECT {_NODE_COLUMNS} FROM {_NODE_TABLES} ORDER BY f.path, n.position"
        for rows in self._batches(query, size=_AT_ONCE):
            yield from map(_node_row, rows)

    def rows_of_file(self, path: str) -> list[NodeRow]:
        """Return the nodes of a file in their order."""
        query = f"SELECT {_NODE_COLUMNS} FROM {_NODE_TABLES} WHERE f.path = CAST(? AS TEXT) ORDER BY n.position"
        return [_node_row(row) for row in self._all(query, (text_bytes(path),))]

    def texts(self, numbers: Iterable[int], *, containing: str) -> Iterator[tuple[int, str]]:
        """Yield number and text of those nodes that contain a string, in the given order; read as they are used."""
        query = (
            "SELECT n.number, n.text FROM json_each(?) j CROSS JOIN nodes n ON n.number = j.value "
            "WHERE instr(n.text, CAST(? AS TEXT))"  # a cross join keeps the order
        )
        for rows in self._batches(query, (json.dumps(list(numbers)), text_bytes(containing)), size=1):
            yield from rows

    def vectors(self, numbers: Iterable[int]) -> dict[int, NDArray[np.float32]]:
        """Return the vectors, shape ``(dim,)``, of those numbers that have one."""
        query = "SELECT number, vector FROM vectors WHERE number IN ({marks})"
        return {number: read_vector(blob, dim=self._dim) for number, blob in self._in_parts(query, numbers)}

    def vector_of(self, digest: int, embedded: str, model: str) -> NDArray[np.float32] | None:
        """Return the vector of a node whose embedded text is this one, made by this model."""
        rows = self._all(
            "SELECT v.vector, n.lead, n.embedded, n.text FROM nodes n JOIN models m ON m.number = n.model "
            "JOIN vectors v ON v.number = n.number WHERE n.digest = ? AND m.fingerprint = ?",
            (digest, model),
        )
        return next(
            (
                read_vector(blob, dim=self._dim)
                for blob, *texts in rows
                if (join_embedded(*texts) or texts[-1]) == embedded
            ),
            None,
        )

    def staged(self, keys: Iterable[bytes], *, dim: int) -> dict[bytes, NDArray[np.float32]]:
        """Return those vectors that an unfinished update has computed, by key."""
        return {
            key: read_vector(blob, dim=dim)
            for key, blob in self._in_parts("SELECT key, vector FROM staged WHERE key IN ({marks})", keys)
        }

    def vectors_after(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Return the numbers above ``number`` and their vectors, shape ``(numbers, dim)``, in order."""
        rows = self._all("SELECT number, vector FROM vectors WHERE number > ? ORDER BY number", (number,))
        return stack_vectors(rows, dim=self._dim)

    def count_vectors(self, *, above: int = 0, up_to: int) -> int:
        """Return how many vectors have numbers above one and up to another."""
        return int(self._all("SELECT count(*) FROM vectors WHERE number > ? AND number <= ?", (above, up_to))[0][0])

    def highest_vector(self) -> int:
        """Return the highest number up to which all nodes have vectors that are in the database; 0 if there is none."""
        first = self.settings("unembedded").get("unembedded")
        where = "" if first is None else " WHERE number < ?"
        return int(self._all(f"SELECT coalesce(max(number), 0) FROM vectors{where}", where and (first,))[0][0])

    def unembedded(self, *, above: int = 0, limit: int = -1) -> list[int]:
        """Return the numbers of nodes whose vectors an unfinished update has not made yet, in order."""
        first = self.settings("unembedded").get("unembedded")
        query = (
            "SELECT n.number FROM nodes n LEFT JOIN vectors v ON v.number = n.number "
            "WHERE n.number >= ? AND n.number > ? AND v.number IS NULL ORDER BY n.number LIMIT ?"
        )
        return [] if first is None else [row[0] for row in self._all(query, (first, above, limit))]

    def vector_batches(self, *, up_to: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """Yield the numbers up to this one and their vectors in order."""
        query = "SELECT number, vector FROM vectors WHERE number <= ? ORDER BY number"
        for rows in self._batches(query, (up_to,), size=10_000):
            yield stack_vectors(rows, dim=self._dim)

    def removed(self, table: str = "removed") -> NDArray[np.int64]:
        """Return the sorted numbers that were nodes when the file of vectors (or the words) last got rid of them."""
        rows = self._all(f"SELECT number FROM {table} ORDER BY number")
        return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy this state to an empty database, without its caches."""
        self._connection.backup(target)
        copied = Writing(target)
        copied.put_settings({"words": None, "vectors": None})
        for table in ("removed", "removed_words", "staged"):
            copied.clear(table)

    def _all(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        cursor = self._connection.execute(query, parameters)
        rows = cursor.fetchall()
        check_types(rows, [column[0] for column in cursor.description])
        return rows

    def _batches(self, query: str, parameters: Sequence[Any] = (), *, size: int) -> Iterator[list[Any]]:
        """Yield the rows as they are used, ``size`` at a time."""
        cursor = self._connection.execute(query, parameters)
        while rows := cursor.fetchmany(size):
            check_types(rows, [column[0] for column in cursor.description])
            yield rows

    def _in_parts(
        self, query: str, values: Iterable[Any], *, mark: str = "?", first: tuple[Any, ...] = ()
    ) -> Iterator[Any]:
        values = list(values)
        for start in range(0, len(values), _AT_ONCE):
            part = values[start : start + _AT_ONCE]
            yield from self._all(query.format(marks=",".join([mark] * len(part))), [*first, *part])


class Writing(Reading):
    """The database during a transaction that changes it."""

    def put_settings(self, values: Mapping[str, Any]) -> None:
        """Set settings, JSON values by name."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        self._connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)

    def put_file(self, state: FileState, *, parsed: bool = True) -> int:
        """Insert or replace a file's state, and return its number."""
        names = [*FileState._fields, "parsed"]
        values = [text_bytes(state.path), *state[1:], parsed]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        marks = ", ".join(["CAST(? AS TEXT)", *["?"] * (len(names) - 1)])
        row = self._connection.execute(
            f"INSERT INTO files ({', '.join(names)}) VALUES ({marks}) ON CONFLICT (path) DO UPDATE SET {updates} "
            "RETURNING number",
            values,
        ).fetchone()
        return int(row[0])

    def refresh_file(self, state: FileState) -> None:
        """Replace the state of a file whose content is unchanged."""
        assignments = ", ".join(f"{name} = ?" for name in FileState._fields[1:])
        self._connection.execute(
            f"UPDATE files SET {assignments} WHERE path = CAST(? AS TEXT)", (*state[1:], text_bytes(state.path))
        )

    def forget_content(self, paths: Iterable[str]) -> None:
        """Have the next update read files again."""
        rows = [(text_bytes(path),) for path in paths]
        self._connection.executemany("UPDATE files SET digest = '', size = -2 WHERE path = CAST(? AS TEXT)", rows)

    def remove_file(self, path: str) -> None:
        """Remove a file, whose nodes must have been removed."""
        self._connection.execute("DELETE FROM files WHERE path = CAST(? AS TEXT)", (text_bytes(path),))

    def remove_nodes(self, numbers: Collection[int]) -> None:
        """Remove nodes and their vectors; the caches still hold them."""
        rows = [(number,) for number in numbers]
        for table in ("nodes", "vectors"):
            self._connection.executemany(f"DELETE FROM {table} WHERE number = ?", rows)
        for table in ("removed", "removed_words"):
            self._connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?)", rows)

    def clear(self, table: str) -> None:
        """Remove all rows of a table."""
        self._connection.execute(f"DELETE FROM {table}")

    def insert_nodes(self, file: int, rows: Sequence[NodeRow]) -> None:
        """Insert the nodes of a file."""
        self._connection.executemany(
            "INSERT INTO nodes (number, id, file, position, part, language, kind, symbol, scope, start_line, end_line, "
            "model, digest, form, relations, metadata, lead, embedded, text) VALUES (?, CAST(? AS TEXT), ?, ?, ?, "
            "CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), "
            "CAST(? AS TEXT), CAST(? AS TEXT))",
            [(row.number, text_bytes(row.id), file, *self._values(row)) for row in rows],
        )

    def update_nodes(self, rows: Sequence[NodeRow]) -> None:
        """Replace what may change of nodes whose text and vector stay."""
        self._connection.executemany(
            "UPDATE nodes SET position = ?, part = ?, language = CAST(? AS TEXT), kind = CAST(? AS TEXT), "
            "symbol = CAST(? AS TEXT), scope = CAST(? AS TEXT), start_line = ?, end_line = ?, model = ?, digest = ?, "
            "form = ?, relations = ?, metadata = ?, lead = CAST(? AS TEXT), embedded = CAST(? AS TEXT), "
            "text = CAST(? AS TEXT) WHERE number = ?",
            [(*self._values(row), row.number) for row in rows],
        )

    def put_vectors(self, vectors: Mapping[int, NDArray[np.float32]]) -> None:
        """Insert vectors, shape ``(dim,)``, by number."""
        blobs = [(number, vector_bytes(vector)) for number, vector in vectors.items()]
        self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", blobs)

    def stage(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep vectors by key for the rest of an update."""
        rows = [(key, vector_bytes(vector)) for key, vector in vectors.items()]
        self._connection.executemany("INSERT OR REPLACE INTO staged VALUES (?, ?)", rows)

    def _values(self, row: NodeRow) -> tuple[Any, ...]:
        lead, embedded = split_embedded(row.text, row.embedded)
        names = ("language", "kind", "symbol", "scope")
        return (
            row.position,
            row.part,
            *(text_bytes(string_or_empty(row.metadata.get(name))) for name in names),
            *(line_or_none(row.metadata.get(name)) for name in ("start_line", "end_line")),
            self._number_of("models", "fingerprint", row.model),
            row.digest,
            self._number_of("forms", "value", json.dumps(row.form)),
            json.dumps(row.relations),
            json.dumps(row.metadata),
            text_bytes(lead),
            None if embedded is None else text_bytes(embedded),
            text_bytes(row.text),
        )

    def _number_of(self, table: str, column: str, value: str) -> int:
        rows = self._all(f"SELECT number FROM {table} WHERE {column} = ?", (value,))
        if rows:
            return int(rows[0][0])
        return int(self._connection.execute(f"INSERT INTO {table} ({column}) VALUES (?)", (value,)).lastrowid or 0)


def _node_row(row: Sequence[Any]) -> NodeRow:
    number, id_, path, position, part, model, digest, *jsons, lead, embedded, text = row
    form, relations, metadata = map(json_object, jsons)
    embedded = join_embedded(lead, embedded, text)
    return NodeRow(number, id_, path, position, part, model, digest, form, relations, metadata, embedded, text)


def _marks(values: Collection[object]) -> str:
    return ",".join("?" * len(values))
