"""The database of an index: SQLite in its folder, with many readers and one writer."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval.index.columns import decode_text
from llamaindex_code_retrieval.index.schema import SCHEMA
from llamaindex_code_retrieval.index.tables import Reading, Writing

FORMAT = 5
DATABASE = "index.sqlite"
_BUSY_SECONDS = 60
"""How long a transaction waits for another one that writes."""


class Storage:
    """The database in the folder of an index.

    Any number of threads and processes may read while one writes: a reader sees the state of the last transaction that
    was committed before it began. A kill at any moment leaves that state.
    """

    def __init__(self, folder: Path) -> None:
        """Open the database in ``folder``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of another format.
        """
        self.folder = folder
        self.path = folder / DATABASE
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._is_open = True
        self._is_immutable = False
        if not self.path.is_file():
            raise FileNotFoundError(f"{folder} holds no {DATABASE}")
        with self.reading() as reading:
            saved = reading.settings("format").get("format")
        if saved is None:
            self.close()
            raise _damaged(folder, sqlite3.DatabaseError("it names no format"))
        if saved != FORMAT:
            self.close()
            raise ValueError(
                f"{folder} holds an index of format {saved}, this version reads format {FORMAT}; build the index again "
                "with `code-retrieval index`"
            )

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any]) -> Storage:
        """Create the database in ``folder``, which must exist, unless another process has done so; open it."""
        if not (folder / DATABASE).exists():
            temporary = folder / f".{DATABASE}.{os.getpid()}-{threading.get_ident()}.tmp"
            temporary.unlink(missing_ok=True)  # of a process that was killed
            try:
                with _errors(folder):
                    connection = sqlite3.connect(temporary, isolation_level=None)
                    try:
                        connection.execute("PRAGMA page_size=8192")
                        connection.execute("PRAGMA journal_mode=WAL")  # two that set it later would lock each other out
                        connection.executescript(f"BEGIN;{SCHEMA}COMMIT;")
                        writing = Writing(connection)
                        writing.put_settings({"format": FORMAT, "generation": 0, "next_number": 1, **settings})
                    finally:
                        connection.close()
                _move_new(temporary, folder / DATABASE)
            finally:
                temporary.unlink(missing_ok=True)
        return cls(folder)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Yield one state of the database, the same from the beginning of the block to its end.

        Raises:
            ValueError: the database is damaged, or the storage is closed.
            OSError: it cannot be read.
        """
        with _errors(self.folder):
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield Reading(connection)
            finally:
                self._give_back(connection)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """Yield the database for changes, which are committed together at the end of the block.

        Raises:
            OSError: the changes cannot be written, for example because the disk is full; then nothing is changed.
            ValueError: the database is damaged, or the storage is closed.
        """
        with _errors(self.folder):
            connection = self._take()
            try:
                connection.execute("BEGIN IMMEDIATE")
                writing = Writing(connection)
                yield writing
                writing.put_settings({"generation": writing.settings("generation")["generation"] + 1})
                connection.execute("COMMIT")
            finally:
                self._give_back(connection)

    def reserve(self, count: int) -> int:
        """Return the first of ``count`` numbers in a row that no node had or will get from another call."""
        with self.writing() as writing:
            first: int = writing.settings("next_number")["next_number"]
            writing.put_settings({"next_number": first + count})
        return first

    def copy_to(self, folder: Path) -> None:
        """Copy the database to another folder, without its caches.

        Raises:
            OSError: it cannot be written; then ``folder`` holds no database.
        """
        temporary = folder / f".{DATABASE}.{os.getpid()}.tmp"
        try:
            with _errors(folder), self.reading() as reading:
                target = sqlite3.connect(temporary, isolation_level=None)
                try:
                    reading.copy_to(target)
                finally:
                    target.close()
            os.replace(temporary, folder / DATABASE)
        finally:
            temporary.unlink(missing_ok=True)

    def to_bytes(self) -> bytes:
        """Return the content of the database, without its caches."""
        with tempfile.TemporaryDirectory() as folder:
            self.copy_to(Path(folder))
            return (Path(folder) / DATABASE).read_bytes()

    def shrink(self) -> None:
        """Move the content of the write-ahead log into the database, where no reader prevents it."""
        with _errors(self.folder):
            connection = self._take()
            try:
                connection.execute("PRAGMA busy_timeout=0")  # where a reader needs the log, it stays
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                connection.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}")
            finally:
                self._give_back(connection)

    def close(self) -> None:
        """Close all connections; closing again does nothing."""
        with self._lock:
            self._is_open = False
            idle, self._idle = self._idle, []
        if self._process == os.getpid():
            for connection in idle:
                connection.close()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if not self._is_open:
                raise ValueError(f"the index in {self.folder} is closed; open it again with CodeIndex.open")
            if self._process != os.getpid():  # a connection must not be used in a forked process
                self._process, self._idle = os.getpid(), []
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = self._open_file("immutable=1" if self._is_immutable else "mode=rw")
        try:
            connection.text_factory = decode_text
            connection.execute("PRAGMA mmap_size=268435456")
            connection.execute("PRAGMA synchronous=NORMAL")
            if not self._is_immutable:
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    raise OSError(
                        f"the file system of {self.folder} does not support shared memory, which the index needs (as "
                        "many network file systems do not); put the index on a local disk"
                    )
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_file(self, mode: str) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?{mode}",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
            return connection
        except UnicodeDecodeError as error:  # of the message about a name in the schema
            raise sqlite3.DatabaseError("its schema is not UTF-8") from error
        except sqlite3.OperationalError:
            # A folder that cannot be written: nobody changes the database, so it is read without locks.
            if self._is_immutable or (os.access(self.folder, os.W_OK) and os.access(self.path, os.W_OK)):
                raise
            log = self.path.with_name(f"{DATABASE}-wal")
            if log.exists() and log.stat().st_size:
                raise OSError(
                    f"the last update of the index in {self.folder} was interrupted, and the folder cannot be written; "
                    "search it once, or update it, where it can"
                ) from None
            self._is_immutable = True
            return self._open_file("immutable=1")

    def _give_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            return
        with self._lock:
            if self._is_open and self._process == os.getpid():
                self._idle.append(connection)
                return
        connection.close()


def _move_new(source: Path, target: Path) -> None:
    """Move a file, unless ``target`` exists: another process that has made it may have written to it already."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not target.exists():
            os.replace(source, target)


@contextmanager
def _errors(folder: Path) -> Iterator[None]:
    """Raise what went wrong in SQLite as a built-in error with the way out."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise OSError(f"the index in {folder} cannot be written: the disk is full; free some space") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise TimeoutError(f"the index in {folder} is being written by another process; try again") from error
        if code == sqlite3.SQLITE_READONLY:
            raise PermissionError(f"the index in {folder} cannot be written: {error}; check its rights") from error
        if code in (sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR):
            raise OSError(
                f"the index in {folder} cannot be read or written: {error}; if the folder is on a network file system, "
                "which may lack locks or shared memory, put the index on a local disk"
            ) from error
        if code == sqlite3.SQLITE_ERROR:  # no such table or column
            raise _damaged(folder, error) from error
        raise OSError(f"the index in {folder} cannot be read or written: {error}") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: sqlite3.Error) -> ValueError:
    return ValueError(
        f"the index in {folder} is damaged ({error}); remove the folder and build the index again with "
        "`code-retrieval index`"
    )
