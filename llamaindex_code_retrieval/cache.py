"""``EmbeddingCache``: vectors on disk, so that no text is embedded twice by the same model."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

logger = logging.getLogger(__name__)

_ROWS_PER_SELECT = 500  # SQLite's default limit on bound values is 999 in old builds


def default_cache_folder() -> Path:
    """Return ``$CODE_RETRIEVAL_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("CODE_RETRIEVAL_CACHE") or user_cache_path("code-retrieval"))


class EmbeddingCache:
    """A SQLite file ``embeddings.sqlite`` in ``folder``, keyed by (model, query|code, text).

    Write-ahead logging makes it safe against a kill at any moment and lets several processes share it: a reader never
    waits, a writer waits for another one's transaction. A damaged file is moved aside and a new one begun, since all
    it held can be computed again. When the vectors outgrow ``max_bytes``, the oldest fifth is dropped.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = 2**30) -> None:
        self.path = Path(folder).expanduser() / "embeddings.sqlite"
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, read-only, disk full: not a damaged file
                raise OSError(f"the embedding cache {self.path} cannot be opened: {error}") from error
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
            self.path.rename(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            logger.warning("the embedding cache was damaged (%s); moved to %s, a new one is begun", error, aside)
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (number INTEGER PRIMARY KEY, key BLOB UNIQUE, vector BLOB NOT NULL)"
            )
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    @staticmethod
    def key(model: str, side: str, text: str) -> bytes:
        """Return the key of ``text`` embedded as ``side`` ("query" or "code") by ``model`` (its fingerprint)."""
        return hashlib.sha256(f"{model}\0{side}\0{text}".encode("utf-8", "surrogatepass")).digest()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors, shape ``(dim,)``, of those keys that are present."""
        found: dict[bytes, NDArray[np.float32]] = {}
        for start in range(0, len(keys), _ROWS_PER_SELECT):
            part = keys[start : start + _ROWS_PER_SELECT]
            marks = ",".join("?" * len(part))
            with self._lock:
                rows = self._connection.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part)
                found.update((key, np.frombuffer(vector, dtype="<f4")) for key, vector in rows)
        return found

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store vectors in one transaction; a key that is present already keeps its vector."""
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
        with self._lock, self._connection:  # commits, or rolls back if anything fails
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR IGNORE INTO vectors (key, vector) VALUES (?, ?)", rows)
            self._evict()

    def _evict(self) -> None:
        row = self._connection.execute("SELECT MIN(number), MAX(number) FROM vectors").fetchone()
        oldest, newest = row[0] or 0, row[1] or 0
        size = self._connection.execute("SELECT LENGTH(vector) FROM vectors LIMIT 1").fetchone()
        count = newest - oldest + 1  # numbers only grow and the oldest go first, so this counts the rows
        if size is not None and count * (size[0] + 64) > self.max_bytes:
            self._connection.execute("DELETE FROM vectors WHERE number < ?", (oldest + max(1, count // 5),))

    def __len__(self) -> int:
        with self._lock:
            return int(self._connection.execute("SELECT COUNT(*) FROM vectors").fetchone()[0])

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards."""
        with self._lock:
            self._connection.close()
