"""``NodeFilter``: which nodes a search is restricted to, and the SQL condition that selects them."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from llamaindex_code_retrieval._io import check_is_list
from llamaindex_code_retrieval.index.columns import decode_text
from llamaindex_code_retrieval.index.ignore import Globs
from llamaindex_code_retrieval.languages.outline import KINDS
from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.languages.testing import is_test_path

SqlValue = str | int | float | None

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AGE = re.compile(r"(\d+)\s*([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class SqlFunction(NamedTuple):
    """A Python function that a condition calls. Equal arguments give equal results."""

    name: str
    arguments: int
    function: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the nodes of an index, as SQL over ``nodes n``.

    All values are parameters. Conditions can be compared and are keys of dictionaries, so that their result can be
    cached.
    """

    sql: str = "TRUE"
    parameters: tuple[SqlValue, ...] = ()
    functions: frozenset[SqlFunction] = frozenset()

    def __and__(self, other: Condition) -> Condition:
        """Return the condition that holds where both do; the first is evaluated first."""
        if self == Condition() or other == Condition():
            return other if self == Condition() else self
        return Condition(
            f"({self.sql}) AND ({other.sql})", self.parameters + other.parameters, self.functions | other.functions
        )

    @contextmanager
    def registered(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Register the functions on a connection, for a statement that is executed and fetched in the block.

        SQLite reports only that a function failed; the error of the function itself is raised instead.
        """
        errors: list[Exception] = []
        for name, arguments, function in self.functions:
            connection.create_function(name, arguments, _recording(function, errors), deterministic=True)
        try:
            yield
        except sqlite3.OperationalError:
            if errors:
                raise errors[0] from None
            raise


def _recording(function: Callable[..., Any], errors: list[Exception]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            errors.append(error)
            raise

    return call


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFilter:
    """Restricts a search to the nodes for which everything that is set here holds.

    >>> NodeFilter(paths=("src/**",), not_paths=("**/test*",), languages=("go",), kinds=("class",)).is_empty
    False

    Raises:
        ValueError: an unknown kind, an empty or invalid glob, an empty list, or a time without a time zone.
        TypeError: a string in place of a list.
    """

    languages: tuple[str, ...] | None = None
    """Nodes in one of these languages; ``""`` stands for nodes without one. See :meth:`check_languages`."""
    paths: tuple[str, ...] = ()
    """Globs: nodes of the files that one of them matches, as in a ``.gitignore``; a glob that matches a folder matches
    all files below it."""
    not_paths: tuple[str, ...] = ()
    """Globs: no nodes of the files that one of them matches."""
    kinds: tuple[str, ...] | None = None
    """Nodes of one of these ``KINDS``."""
    tests: bool | None = None
    """Only nodes of tests, or none; see :func:`is_test_path`."""
    modified_since: datetime | None = None
    """Nodes of files whose modification time is this one or later. Files without a time are left out."""
    node_ids: tuple[str, ...] | None = None
    """Nodes with one of these ids."""
    doc_ids: tuple[str, ...] | None = None
    """Nodes of one of these documents. The id of a document is the path of its file."""
    condition: Condition = Condition()
    """A further condition."""

    def __post_init__(self) -> None:
        for name in ("languages", "paths", "not_paths", "kinds", "node_ids", "doc_ids"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, _distinct(values, name))
        for name in ("languages", "kinds"):
            if getattr(self, name) == ():
                raise ValueError(f"{name} is empty, so that nothing could be found; name at least one or leave it out")
        unknown = sorted(set(self.kinds or ()) - set(KINDS))
        if unknown:
            raise ValueError(f"unknown kind {', '.join(map(repr, unknown))}; known are {', '.join(KINDS)}")
        for name in ("paths", "not_paths"):
            try:
                Globs.parse(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        since = self.modified_since
        if since is not None and since.utcoffset() is None:
            raise ValueError(
                f"modified_since needs a time zone, got {since.isoformat()}; for local time pass .astimezone() of it"
            )

    @property
    def is_empty(self) -> bool:
        """Whether all nodes are searched."""
        return self == NodeFilter()

    def check_languages(self, indexed: Collection[str]) -> None:
        """Check that each language is in the table of languages or one of those ``indexed``.

        Raises:
            ValueError: one is in neither.
        """
        unknown = sorted(set(self.languages or ()) - {"", *LANGUAGES, *indexed})
        if unknown:
            raise ValueError(
                f"unknown language {', '.join(map(repr, unknown))}; the index has "
                f"{', '.join(filter(None, sorted(indexed))) or 'none'}; known are {', '.join(LANGUAGES)}"
            )

    def where(self) -> Condition:
        """Return the filter as a condition."""
        parts = [
            one_of("n.id", self.node_ids),
            one_of("n.language", self.languages),
            one_of("n.kind", self.kinds),
            self._of_file(),
            self.condition,
        ]
        where = Condition()
        for part in parts:
            where &= part
        return where

    def _of_file(self) -> Condition:
        """Return the conditions on the file. They are in a subquery, which SQLite evaluates once for each file."""
        where = one_of("path", self.doc_ids)
        if self.modified_since is not None:
            nanoseconds = (self.modified_since - _EPOCH) // timedelta(microseconds=1) * 1000
            where &= Condition("mtime >= ?", (nanoseconds,))
        for name, globs in (("matches_globs", self.paths), ("NOT matches_globs", self.not_paths)):
            if globs:
                where &= Condition(f"{name}(CAST(path AS BLOB), ?)", (json.dumps(globs),), frozenset([_MATCHES_GLOBS]))
        if self.tests is not None:
            where &= Condition(
                f"{'' if self.tests else 'NOT '}is_test_path(CAST(path AS BLOB))", (), frozenset([_IS_TEST_PATH])
            )
        if where == Condition():
            return where
        return Condition(f"n.file IN (SELECT number FROM files WHERE {where.sql})", where.parameters, where.functions)


def parse_since(text: str, *, now: datetime | None = None) -> datetime:
    """Return the time that a text names: an age such as "3d", a date, or an ISO 8601 time, by default in local time.

    Units of an age are m (minutes), h, d and w (weeks).

    >>> parse_since("36h", now=datetime(2026, 11, 3, tzinfo=UTC)).isoformat()
    '2026-11-01T12:00:00+00:00'

    Raises:
        ValueError: the text names no time.
    """
    age = _AGE.fullmatch(text.strip())
    try:
        if age is not None:
            return (now or datetime.now(UTC)) - int(age[1]) * _UNITS[age[2]]
        time = datetime.fromisoformat(text.strip())
        return time.astimezone() if time.tzinfo is None else time
    except (ValueError, OverflowError):
        raise ValueError(
            f"a time is a date, an ISO 8601 time or an age in m, h, d or w, "
            f"as in 2026-11-01, 2026-11-01T12:00 or 3d, got {text!r}"
        ) from None


def _distinct(values: Collection[str], name: str) -> tuple[str, ...]:
    check_is_list(values, name)
    return tuple(dict.fromkeys(values))


def one_of(column: str, values: Collection[str] | None) -> Condition:
    """Return the condition that a column has one of ``values``; ``None`` stands for any value."""
    if values is None:
        return Condition()
    return Condition(f"{column} IN (SELECT value FROM json_each(?))", (json.dumps(values),))


@lru_cache(maxsize=64)
def _parsed_globs(globs: str) -> Globs:
    return Globs.parse(json.loads(globs))


_MATCHES_GLOBS = SqlFunction("matches_globs", 2, lambda path, globs: _parsed_globs(globs).matches(decode_text(path)))
_IS_TEST_PATH = SqlFunction("is_test_path", 1, lambda path: is_test_path(decode_text(path)))
