"""The tables of an index's database, and a check that what is read from them has the types of their columns."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

FILE_NAME = "lower(replace(path, rtrim(path, replace(path, '/', '')), ''))"
"""The last part of the path of a file, in lower case (of ASCII)."""

SCHEMA = f"""
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    number INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, mtime INTEGER, ctime INTEGER,
    inode INTEGER, checked INTEGER NOT NULL, digest TEXT NOT NULL, language TEXT NOT NULL, encoding TEXT NOT NULL,
    how TEXT NOT NULL, left_out TEXT NOT NULL, unknown INTEGER NOT NULL, parsed INTEGER NOT NULL
);
CREATE INDEX files_by_name ON files ({FILE_NAME});
CREATE TABLE nodes (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, file INTEGER NOT NULL, position INTEGER NOT NULL,
    part INTEGER NOT NULL, language TEXT NOT NULL, kind TEXT NOT NULL, symbol TEXT NOT NULL, scope TEXT NOT NULL,
    start_line INTEGER, end_line INTEGER, model INTEGER NOT NULL, digest INTEGER NOT NULL, form INTEGER NOT NULL,
    relations TEXT NOT NULL, metadata TEXT NOT NULL, lead TEXT NOT NULL, embedded TEXT, text TEXT NOT NULL
);
CREATE INDEX nodes_by_file ON nodes (file, position);
CREATE INDEX nodes_by_digest ON nodes (digest);
CREATE INDEX nodes_by_language ON nodes (language, kind, file);
CREATE INDEX nodes_by_model ON nodes (model, language);
CREATE TABLE models (number INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE);
CREATE TABLE forms (number INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE);
CREATE TABLE vectors (number INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE staged (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE removed (number INTEGER PRIMARY KEY);
CREATE TABLE removed_words (number INTEGER PRIMARY KEY);
"""

_PYTHON_TYPES = {"INTEGER": int, "TEXT": str, "BLOB": bytes}
_COLUMN = re.compile(r"(\w+) (INTEGER|TEXT|BLOB)( NOT NULL| PRIMARY KEY)?")


def _column_types() -> dict[str, set[type]]:
    """Return the types of Python's values by the name of the column, those of all tables that have it."""
    types: dict[str, set[type]] = {}
    for name, declared, constraint in _COLUMN.findall(SCHEMA):
        types.setdefault(name, set()).add(_PYTHON_TYPES[declared])
        if not constraint:
            types[name].add(type(None))
    return types


_TYPES = _column_types()

_CACHES = {"words": {"token", "opstamp"}, "vectors": {"token", "count", "highest"}}
"""The settings that name caches, and their keys."""


def check_caches(settings: Mapping[str, Any]) -> None:
    """Check the settings that name caches, and the one that says which vectors are missing.

    Raises:
        sqlite3.DatabaseError: one is not of the form that was saved.
    """
    for name, keys in _CACHES.items():
        saved = settings.get(name)
        if saved is not None and (not isinstance(saved, dict) or saved.keys() != keys):
            raise sqlite3.DatabaseError(f"the setting {name!r} has other keys than were saved")
    if not isinstance(settings.get("unembedded"), int | None):
        raise sqlite3.DatabaseError("the setting 'unembedded' is no number")


def check_types(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> None:
    """Check the values of rows by the names of their columns; those with other names than the tables' are not checked.

    SQLite keeps the type of each value beside it, so that damaged bytes may turn a text into bytes, a number or NULL.

    Raises:
        sqlite3.DatabaseError: a value is of another type than its column.
    """
    for place, name in enumerate(names):
        types = _TYPES.get(name)
        if types is not None and not {type(row[place]) for row in rows} <= types:
            raise sqlite3.DatabaseError(f"a value in the column {name} is of a wrong type")
