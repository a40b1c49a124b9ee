"""``EmbeddingCache``: vectors on disk, so that no model embeds the same text twice."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_WAIT_SECONDS = 60.0
_KEYS_PER_SELECT = 500  # SQLite's default limit on bound values is 999 in old builds
_DAMAGE = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))


class EmbeddingCache:
    """A SQLite file ``embeddings.sqlite`` in ``folder``, keyed by model, side ("query" or "code") and text.

    Several threads and processes may share it: a reader never waits, a writer waits for another writer's transaction.
    A kill at any moment leaves a valid file (write-ahead logging). A damaged file is moved aside when the damage is
    met, and a new one is started, because its content can be computed again. When the file outgrows ``max_bytes``, the
    oldest vectors are dropped.

    The file is closed by :meth:`close`, at the end of a ``with`` block, with the last reference to the cache, or when
    the interpreter exits.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = 2**30) -> None:
        """Open the file, or create it.

        Raises:
            OSError: the file cannot be opened or created.
            ValueError: ``max_bytes`` is not positive.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.path = Path(folder).expanduser() / "embeddings.sqlite"
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):  # locked, read-only or no space left
                raise OSError(f"the embedding cache {self.path} cannot be opened: {error}") from error
            self._replace_damaged(error)

    def _connect(self) -> None:
        connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, check_same_thread=False, isolation_level=None)
        try:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (number INTEGER PRIMARY KEY, key BLOB UNIQUE, vector BLOB NOT NULL)"
            )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._inode = self.path.stat().st_ino
        self._close = weakref.finalize(self, connection.close)  # runs at most once, at the latest at exit

    def _replace_damaged(self, error: sqlite3.DatabaseError) -> None:
        """Move the damaged file aside, unless another process has done so already, and start a new one."""
        opened = getattr(self, "_inode", None)
        if opened is None or (self.path.exists() and self.path.stat().st_ino == opened):
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
            self.path.rename(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            logger.warning("the embedding cache was damaged (%s); moved to %s, a new one is started", error, aside)
        self._connect()

    def _run(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return what ``operation`` returns for the connection; run it again on a new file if this one is damaged."""
        with self._lock:
            if not self._close.alive:
                raise ValueError(f"the embedding cache {self.path} is closed; open it again with EmbeddingCache")
            try:
                return operation(self._connection)
            except sqlite3.DatabaseError as error:
                if _is_damage(error):
                    self._close()
                    self._replace_damaged(error)
                    return operation(self._connection)
                if isinstance(error, sqlite3.OperationalError):
                    raise OSError(f"the embedding cache {self.path} cannot be used: {error}") from error
                raise

    @staticmethod
    def key(model: str, side: str, text: str) -> bytes:
        """Return the key of ``text``, embedded as ``side`` ("query" or "code") by the model with this fingerprint."""
        return hashlib.sha256(f"{model}\0{side}\0{text}".encode("utf-8", "surrogatepass")).digest()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors, shape ``(dim,)``, of the keys that are present."""
        vectors: dict[bytes, NDArray[np.float32]] = {}
        for start in range(0, len(keys), _KEYS_PER_SELECT):
            part = keys[start : start + _KEYS_PER_SELECT]
            rows = self._run(partial(_select, keys=part))
            vectors.update((key, np.frombuffer(vector, dtype="<f4")) for key, vector in rows)
        return vectors

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store vectors in one transaction; a key that is already present keeps its vector.

        Raises:
            OSError: they cannot be written, for example because the disk is full; the cache stays as it was.
        """
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]

        def insert(connection: sqlite3.Connection) -> None:
            with connection:  # commits, or rolls back if anything fails
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT OR IGNORE INTO vectors (key, vector) VALUES (?, ?)", rows)
                self._drop_oldest(connection)

        self._run(insert)

    def get_or_embed(
        self, model: str, side: str, texts: Sequence[str], embed: Callable[[list[str]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return the vectors of ``texts``, shape ``(texts, dim)``; the missing ones by ``embed``, each text once."""
        keys = [self.key(model, side, text) for text in texts]
        vectors = self.get(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
        if missing or not keys:
            computed = embed(list(missing.values()))
            if not keys:
                return computed
            new = dict(zip(missing, computed, strict=True))
            self.put(new)
            vectors |= new
        return np.stack([vectors[key] for key in keys])

    def _drop_oldest(self, connection: sqlite3.Connection) -> None:
        """Drop the oldest fifth until the content fits ``max_bytes``; nothing here scans the table."""
        while True:
            (oldest,) = connection.execute("SELECT MIN(number) FROM vectors").fetchone()
            (newest,) = connection.execute("SELECT MAX(number) FROM vectors").fetchone()
            if oldest is None or _used_bytes(connection) <= self.max_bytes:
                return
            fifth = max(1, (newest - oldest + 1) // 5)  # numbers only grow, and the lowest are deleted first
            connection.execute("DELETE FROM vectors WHERE number < ?", (oldest + fifth,))

    def __len__(self) -> int:
        return self._run(lambda connection: int(connection.execute("SELECT COUNT(*) FROM vectors").fetchone()[0]))

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards. Closing it again does nothing."""
        with self._lock:
            self._close()

    def __reduce__(self) -> tuple[Callable[..., EmbeddingCache], tuple[Path]]:
        return partial(type(self), max_bytes=self.max_bytes), (self.path.parent,)  # a copy opens the file itself

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _select(connection: sqlite3.Connection, *, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    marks = ",".join("?" * len(keys))
    return connection.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", keys).fetchall()


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Return the bytes of all pages that hold something; SQLite counts them in the file's header."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Set the journal of a database; of two processes that set it in a new one, SQLite refuses one without waiting."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)  # errors of the module itself have none
    return code & 0xFF in _DAMAGE
